# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 2. Fine-tuning and what it costs
#
# **A model with 7 billion parameters runs on a good laptop. You want to teach it one new thing. How many gigabytes of
# memory does the training take?** Write your guess into the second code cell, below the imports, before you read on.

# %%
import copy
import random
from dataclasses import replace

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pefteach.corpus.batches import collate, encode
from pefteach.corpus.skills import by_token
from pefteach.lessons.finetuning_and_its_cost.explorer import memory_explorer
from pefteach.lessons.finetuning_and_its_cost.figures import draw_costs, draw_forgetting, draw_memory
from pefteach.lessons.kit.style import Picture, new_figure
from pefteach.measure import examine, fingerprints
from pefteach.memory import MODELS, PRECISIONS, measure_step, plan_step
from pefteach.methods import BitFit, FullFineTuning, LastLayers, LoRA, Norms, activate, attach, detach
from pefteach.model.base import load_base
from pefteach.model.decoder import Decoder
from pefteach.model.loss import next_token_loss
from pefteach.paths import BASE
from pefteach.training import evaluate, fit

# %%
guess = 20  # GB; change it

# %% [markdown]
# ## The idea in a picture
# LoRA (lesson 7) leaves the model as it is and trains small matrices beside it. That is all you need to know of it
# today.

# %%
llama = MODELS["Llama-2-7B"]
ways = {"run it": None, "tune it all": FullFineTuning(), "tune a LoRA": LoRA(rank=8)}
# "mixed" precision: step 3. One row of 512 tokens.
plans = {name: plan_step(llama, method, "mixed", batch=1, length=512) for name, method in ways.items()}
print(f"your guess: {guess} GB; tuning it all takes {plans['tune it all'].total / 1e9:.0f} GB")
figure = new_figure(7.2, 2.4)
Picture(figure, alt=draw_memory(figure, plans, "tune it all"))

# %% [markdown]
# Four things share the memory: **weights**, **gradients**, the **optimizer**'s notes, and **activations** (results of
# the forward pass that the backward pass needs). Each dashed line is the memory of a common graphics card. The strong
# bar is the one your guess was about. In this lesson you measure all four yourself, on the course's base.
#
# ## Build it
# ### 1. Count
# The output layer and the embedding are one tensor with two names. If you add up by name, you count it twice.


# %%
def count(model: nn.Module) -> tuple[int, int]:
    """How many numbers there are, and how many of them train."""
    parameters = list(model.parameters())  # a tensor comes once, however many names it has
    return sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad)


base, tokenizer = load_base()
names = base.state_dict()
by_name = sum(tensor.numel() for tensor in names.values())
print(f"{count(base)[0]:,} parameters; adding up {len(names)} names: {by_name:,}")

# %% [markdown]
# ### 2. A new skill
# The base knows seven string skills. `<rotate3>` is new to it: three letters move to the end. Only the answer counts
# towards the loss: `labels` holds -100 at every other token, which means *leave out*. A batch has one problem per row,
# and `attention_mask` marks the padding that makes all rows equally long.


# %%
def problems(skill: str, number: int, seed: int) -> list:
    rng = random.Random(f"{seed}:{skill}")
    return [encode(tokenizer, *by_token(skill, rng)) for _ in range(number)]


print(*by_token("rotate3", random.Random(0)))
batch = collate(problems("rotate3", 16, seed=0))
for key, value in batch.items():
    print(key, tuple(value.shape))

# %% [markdown]
# ### 3. Weights, gradients, optimizer
# Take one real step. AdamW keeps two running means for each trained number: of its gradient, and of its square. (The
# learning rate 0 leaves the weights alone; we only want to weigh things.)

# %%
inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
optimizer = torch.optim.AdamW(base.parameters(), lr=0.0)
next_token_loss(base(**inputs).logits, batch["labels"]).backward()
optimizer.step()
weights = sum(p.numel() * p.element_size() for p in base.parameters())
gradients = sum(p.grad.numel() * p.grad.element_size() for p in base.parameters())
notes = [state[key] for state in optimizer.state.values() for key in ("exp_avg", "exp_avg_sq")]
moments = sum(t.numel() * t.element_size() for t in notes)
for name, size in {"weights": weights, "gradients": gradients, "optimizer": moments}.items():
    print(f"{name:10} {size:>11,} bytes, {size // count(base)[0]:2} per parameter")
optimizer.zero_grad()

# %% [markdown]
# Numbers of 16 bits (bf16) halve all of this, but small updates get lost in so few digits. So one usually computes in
# 16 bits and keeps a float32 copy of the weights for the updates (*mixed*). The copy counts as optimizer, and the sum
# is the old one again. What is *frozen* costs its weight only.

# %%
for name, p in PRECISIONS.items():
    trained = p.weight + p.gradient + p.optimizer
    print(f"{name:6} trained {p.weight} + {p.gradient} + {p.optimizer:2} = {trained:2} bytes, frozen {p.weight}")

# %% [markdown]
# ### 4. Activations
# The backward pass needs results of the forward pass: the gradient of $W$ in $y = Wx$ needs $x$. PyTorch can call a
# function of ours, a *hook*, for each tensor it sets aside. Leave the model's own tensors out, and count memory that
# two tensors share once.


# %%
def saved_bytes(model: nn.Module, batch: dict) -> int:
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    sizes = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    inputs = {key: value for key, value in batch.items() if key != "labels"}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = next_token_loss(model(**inputs).logits, batch["labels"])  # noqa: F841 (keeps what is saved alive)
    return sum(sizes.values())


for rows in (4, 8, 16):
    part = {key: value[:rows] for key, value in batch.items()}
    saved = saved_bytes(base, part)
    print(f"{rows:2} rows: {saved / 1e6:5.2f} MB saved, {saved / weights:.2f} times the weights")

# %% [markdown]
# This phase grows with the batch. The other three stay as they are, however many rows you take.
#
# ### 5. Tune it all
# `tune` attaches a method and trains until nine of ten unseen problems are right to the last letter. Then it examines
# the seven old skills and fresh stories, with the change on and off. (So that even a full fine-tune can be switched
# off, `attach` keeps a copy of the weights.)


# %%
def solved(model: nn.Module) -> float:
    return evaluate(model, problems("rotate3", 64, seed=10**6)).exact_match


def tune(method, lr: float, seed: int) -> dict:
    torch.manual_seed(seed)
    attach(base, method)
    history = fit(
        base, problems("rotate3", 960, seed), steps=60, lr=lr, metric=solved, metric_every=5, target=0.9, seed=seed
    )
    now = fingerprints(base)  # SHA-256 of every tensor of the base
    run = {"new": history.metrics[-1][1], "changed": sum(now[name] != untouched[name] for name in now)}
    run["on"] = examine(base, tokenizer, problems=20, stories=5)
    activate(base)  # nothing: the bare base
    run["off"] = examine(base, tokenizer, problems=20, stories=5)
    run["restored"] = fingerprints(base) == untouched
    detach(base)
    return run


untouched, before = fingerprints(base), examine(base, tokenizer, problems=20, stories=5)

# %% tags=["nbval-ignore-output"]
full = [tune(FullFineTuning(), lr=1e-3, seed=0)]
print(f"rotate3: {solved(base):.2f} before, {full[0]['new']:.2f} after; tensors changed: {full[0]['changed']}")
for skill, accuracy in before.skills.items():
    print(f"{skill:8} {accuracy:.2f} before, {full[0]['on'].skills[skill]:.2f} after")
assert full[0]["new"] >= 0.9 and full[0]["on"].mean < before.mean - 0.3

# %% [markdown]
# A new skill in seconds, and the old ones gone: **catastrophic forgetting**. Nothing in the loss asked for them.
#
# ### 6. Tune a part
# The oldest way to save memory is to train less. (Claim 1 asks whether frozen weights also save the old skills.) Each
# method below is one rule that says which names train. On a whole module, mind the underscore:
# `module.requires_grad_(False)` freezes it, `module.requires_grad = False` does nothing at all.


# %%
def train_only(model: nn.Module, chosen) -> int:
    """Freeze every parameter whose name is not ``chosen``; return how many numbers train."""
    for name, p in model.named_parameters():
        p.requires_grad_(chosen(name))
    return count(model)[1]


def last_blocks(model: nn.Module, k: int):
    blocks = len(model.model.layers)
    last = tuple(f"model.layers.{i}." for i in range(blocks - k, blocks))
    return lambda name: name.startswith((*last, "model.norm."))


def norms(name: str) -> bool:
    return "norm" in name


def biases(name: str) -> bool:
    return name.endswith("bias")


# %%
for chosen, method in ((last_blocks(base, 2), LastLayers(2)), (norms, Norms()), (biases, BitFit())):
    number = train_only(base, chosen)
    mine = {name for name, p in base.named_parameters() if p.requires_grad}
    saved = saved_bytes(base, batch) / 1e6
    same = mine == set(attach(base, method).trained_tensors())  # does the package train the same tensors?
    detach(base)
    print(f"{type(method).__name__:10} {number:7,} train, {saved:.1f} MB saved, as pefteach: {same}")
_ = train_only(base, lambda name: True)  # thaw everything again

# %% [markdown]
# The biases alone are **BitFit** (Ben-Zaken et al., 2021). Compare it with the last two blocks: about a hundredth of
# their trained numbers, and yet more MB of saved activations. Claim 2 explains why.
#
# ## Explore: which card holds it?
# The planner knows the same four phases by formula, for any Llama. The strong bar is the method you choose. (Where a
# model has no biases, its BitFit adds some; see Claim 3.)

# %%
memory_explorer({"Llama-2-7B": llama, **MODELS, "the course's base": base.config})

# %% [markdown]
# ## Check against the reference
# `transformers` opens the same base. Its counts and bytes beside yours.

# %%
import transformers  # noqa: E402

peer = transformers.AutoModelForCausalLM.from_pretrained(BASE)
footprint = peer.get_memory_footprint(return_buffers=False)
print(f"parameters {count(base)[0]:,}, transformers {peer.num_parameters():,}")
print(f"weights {weights:,} bytes, transformers {footprint:,}")
assert (count(base)[0], weights) == (peer.num_parameters(), footprint)

# %% [markdown]
# And the planner's formula beside a measured step:

# %%
counted = int((batch["labels"][:, 1:] != -100).sum())
for method in (FullFineTuning(), LastLayers(2), BitFit(), LoRA(rank=8)):
    attach(base, method)
    measured = measure_step(base, batch)
    detach(base)
    planned = plan_step(base.config, method, "fp32", *batch["input_ids"].shape, counted=counted)
    ratio = planned.activations / measured.activations
    print(f"{type(method).__name__:14} planned {planned.total:>11,} bytes, measured {measured.total:>11,}")
    assert 0.99 < ratio < 1.01

# %% [markdown]
# The small differences are step counters, token ids and the angles of the positions.
#
# ## Claims put to the test
# **Claim 1.** "The pretrained weights stay frozen, so the model keeps what it knew." Train a LoRA and a full fine-tune,
# three seeds each, *until both are equally good* at the new skill: a method that learned nothing also forgets nothing.

# %% tags=["nbval-ignore-output"]
full += [tune(FullFineTuning(), lr=1e-3, seed=seed) for seed in (1, 2)]
lora = [tune(LoRA(rank=8, target_modules="all-linear"), lr=5e-3, seed=seed) for seed in (0, 1, 2)]
for name, runs in (("full", full), ("LoRA", lora)):
    for run in runs:
        on = run["on"]
        print(f"{name}: rotate3 {run['new']:.2f}, old skills {on.mean:.2f}, stories {on.stories:.2f}")

# %% tags=["nbval-ignore-output"]
figure = new_figure(7.2, 2.6)
rows = {"base": [before], "full": [run["on"] for run in full]}
rows |= {"LoRA on": [run["on"] for run in lora], "LoRA off": [run["off"] for run in lora]}
Picture(figure, alt=draw_forgetting(figure, rows))

# %%
for name, runs in (("full", full), ("LoRA", lora)):
    print(f"{name}: tensors of the base that changed: {[run['changed'] for run in runs]} of {len(untouched)}")
    print("  all learned the new skill:", all(run["new"] >= 0.9 for run in runs))
    print("  all lost old skills (more than 0.3):", all(run["on"].mean < before.mean - 0.3 for run in runs))
    print("  switched off, all as before to the last bit:", all(run["restored"] for run in runs))
assert all(run["changed"] == 0 and run["on"].mean < before.mean - 0.3 for run in lora)
assert all(run["off"] == before for run in lora)
stories = [sum(run["on"].stories for run in runs) / len(runs) for runs in (full, lora)]
print("story loss above the base's, mean of the seeds, full and LoRA:", [s > before.stories for s in stories])
assert before.stories < min(stories)

# %% [markdown]
# **Verdict: wrong as stated.** Not one weight changed, and the old skills went all the same: what a model knows is what
# it *computes*, adapter included. What is right: the loss is reversible. Switch the adapter off and all is back, with
# no second copy of the weights. A full fine-tune could be undone here only because `attach` had kept one. As to the
# amount: the skills fall to the floor both ways, and the stories suffer both ways. Look at the dots, one per seed: they
# spread more than the means differ, so three seeds on a toy do not say which forgets less. On large models, Biderman
# et al. (2024) find that LoRA does.
#
# **Claim 2.** "Few trained parameters mean little memory and fast training." Three costs per method, each as a share of
# full fine-tuning's. Operations (of the matrix products, forward and backward) stand for time: they are the same on
# every computer.

# %%
methods = {
    "full": FullFineTuning(), "last 2 blocks": LastLayers(2), "norms": Norms(), "BitFit": BitFit(),
    "LoRA q, v": LoRA(rank=8), "LoRA all": LoRA(rank=8, target_modules="all-linear"),
}  # fmt: skip
costs = {}
for name, method in methods.items():
    attach(base, method)
    with FlopCounterMode(display=False) as operations:
        next_token_loss(base(**inputs).logits, batch["labels"]).backward()
    base.zero_grad()
    costs[name] = count(base)[1], measure_step(base, batch).activations, operations.get_total_flops()
    detach(base)
shares = {name: tuple(a / b for a, b in zip(cost, costs["full"])) for name, cost in costs.items()}
figure = new_figure(7.2, 2.8)
Picture(figure, alt=draw_costs(figure, shares))

# %%
trained, kept, work = shares["BitFit"]
print(f"BitFit trains 1 number in {1 / trained:.0f}")
print(f"and keeps {kept:.0%} of the activations, and does {work:.0%} of the work")
everywhere = [share for name, share in shares.items() if name != "last 2 blocks"]
assert min(share[0] for share in everywhere) < 0.01 and min(share[1] for share in everywhere) > 0.5
assert min(share[2] for share in everywhere) > 0.6
assert shares["last 2 blocks"][0] > 50 * trained and shares["last 2 blocks"][1] < kept

# %% [markdown]
# **Verdict: imprecise.** Gradients and optimizer shrink with the trained parameters. Activations and work do not: to
# reach a bias in the first block, the gradient passes through every block above it, and attention and SwiGLU need
# their own inputs on the way. Only the gradients of the frozen matrices fall away, about a third of the work. *Where*
# you train decides more than *how much*: two blocks at the top train far more than BitFit and keep less. Sung et al.
# (2022) measured the same on large models: common PEFT methods save about a quarter of the training memory.
#
# **Claim 3.** "BitFit adapts any transformer." Look for biases in the base (which has them, unlike most Llamas), in a
# GPT-2 and in a Llama.

# %%
from_config = transformers.AutoModelForCausalLM.from_config
families = {
    "the base": base,
    "GPT-2": from_config(transformers.GPT2Config(n_embd=64, n_layer=2, n_head=2)),
    "Llama": from_config(transformers.LlamaConfig(hidden_size=64, num_hidden_layers=2, vocab_size=100)),
}
for name, model in families.items():
    print(f"{name:8} tensors that are biases: {sum(biases(n) for n, _ in model.named_parameters())}")
try:
    attach(families["Llama"], BitFit())
except ValueError as error:
    print(error)

# %% [markdown]
# The message names a way out. Try it on a copy of the base's shape without biases:

# %%
bare = Decoder(replace(base.config, attention_bias=False, mlp_bias=False)).eval()
logits = bare(**inputs).logits
adapter = attach(bare, BitFit(add_to=["q_proj", "v_proj", "down_proj"]))
moved = (bare(**inputs).logits - logits).abs().max()
print("trained:", count(bare)[1], " starts as it was, <= 1e-5:", bool(moved <= 1e-5))
assert sum(biases(n) for n, _ in families["Llama"].named_parameters()) == 0 and len(adapter.trained_tensors()) == 12

# %% [markdown]
# **Verdict: right where there are biases, empty for Llama.** GPT-2 has them, and so has BERT, for which BitFit was
# made. A Llama has none: freeze everything else, and nothing is left to train. Add zero biases, and the model starts as
# it was.
#
# **Claim 4.** "Training a subset works badly in transformers, for knowledge is spread over all layers." Two subsets,
# three seeds, equal steps, each with a learning rate of its own.


# %%
def tune_part(chosen, lr: float, seed: int) -> float:
    model = copy.deepcopy(base)
    train_only(model, chosen)
    fit(model, problems("rotate3", 480, seed), steps=30, lr=lr, seed=seed)
    return solved(model)


# %% tags=["nbval-ignore-output"]
first_block = [tune_part(lambda name: name.startswith("model.layers.0."), lr=3e-3, seed=seed) for seed in range(3)]
only_norms = [tune_part(norms, lr=1e-2, seed=seed) for seed in range(3)]
for name, reached in (("first block", first_block), ("norms", only_norms)):
    print(f"{name:11} rotate3 from {min(reached):.2f} to {max(reached):.2f}")
assert min(first_block) > 0.5 and max(only_norms) < 0.3

# %% [markdown]
# **Verdict: wrong as a rule.** One block learns the skill; the norms alone do not in these steps. The subset decides.
# (A toy with one task; on BERT, BitFit comes close to full fine-tuning: Ben-Zaken et al., 2021.)
#
# ## Recap
# 1. A trained number costs 16 bytes with AdamW: weight, gradient, two moments (the running means). A frozen one costs
#    its weight.
# 2. Activations come on top. They grow with rows times tokens, and are set by where gradients flow.
# 3. PEFT removes gradients and optimizer states. Base weights and most activations stay.
# 4. At equal skill, a frozen base does not prevent forgetting. It makes it reversible.
# 5. Compare methods only at the same new-task accuracy, and over several seeds.
#
# ## Now you
# Open [the paired exercises](exercises/02_finetuning_and_its_cost.ipynb). And here: raise the rows and the tokens in
# the explorer until activations dominate. Which method helps then?
#
# ## Sources
# Loshchilov & Hutter 2019, *Decoupled Weight Decay Regularization* · Rajbhandari et al. 2020, *ZeRO* · Korthikanti et
# al. 2022, *Reducing Activation Recomputation in Large Transformer Models* · Lee, Tang & Lin 2019, *What Would Elsa
# Do?* · Ben-Zaken, Goldberg & Ravfogel 2021, *BitFit* · Sung, Cho & Bansal 2022, *LST: Ladder Side-Tuning* · Biderman
# et al. 2024, *LoRA Learns Less and Forgets Less*
