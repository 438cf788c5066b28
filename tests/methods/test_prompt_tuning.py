"""What prompt tuning has of its own: where the vectors stand, what they start as, files, refusals."""

import pytest
import torch
import transformers
from torch.nn import functional as F

from helpers import logits, model_with, real, trained_numbers
from pefteach.corpus.tokenizer import load_tokenizer
from pefteach.interop import load_adapter, save_adapter
from pefteach.methods import PromptTuning, activate, attach
from pefteach.methods.core.technique import DECODERS
from pefteach.model.decoder import KVCache
from pefteach.model.generation import generate
from pefteach.paths import BASE
from pefteach.workshop.parity.compare import shake
from pefteach.workshop.parity.families import LLAMA, make, make_batch

PEFT_KNOWS = ("llama", "qwen2", "gpt2", "bert")
PROMPT = PromptTuning(5)


def peft_opens_ours(method, family, folder, inputs=()):
    """What we save, peft opens with the same logits."""
    import peft

    (ours, _), batch = model_with(method, family), make_batch(family) | dict(inputs)
    save_adapter(ours, folder)
    theirs = peft.PeftModel.from_pretrained(make(family), folder).eval()
    torch.testing.assert_close(real(logits(theirs, batch)[:, -9:], batch), real(logits(ours, batch), batch))


def ours_opens_pefts(settings, family, folder, inputs=()):
    """What peft saves, we open with the same logits; returns our adapter."""
    import peft

    config = peft.PEFT_TYPE_TO_CONFIG_MAPPING[settings["peft_type"]](
        task_type="CAUSAL_LM", **{key: value for key, value in settings.items() if key != "peft_type"}
    )
    theirs = peft.get_peft_model(make(family), config).eval()
    shake({name: p for name, p in theirs.named_parameters() if p.requires_grad})
    theirs.save_pretrained(folder)
    ours, batch = make(family), make_batch(family) | dict(inputs)
    adapter = load_adapter(ours, folder)
    found, expected = real(logits(ours, batch), batch), real(logits(theirs, batch)[:, -9:], batch)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    return adapter


@pytest.mark.parametrize("family", PEFT_KNOWS)
def test_files_open_in_peft_and_pefts_open_here(family, tmp_path):
    peft_opens_ours(PROMPT, family, tmp_path / "ours")
    settings = {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 5}
    assert ours_opens_pefts(settings, family, tmp_path / "theirs").file_tensors().keys() == {"prompt_embeddings"}


def test_counts_what_the_formula_says():
    adapter = model_with(PROMPT, "llama")[1]
    assert trained_numbers(adapter) == 5 * 64 and adapter.method.extra_tokens() == 5


@pytest.mark.parametrize("family", ["ours", *PEFT_KNOWS])
def test_is_the_base_on_the_prompt_and_the_text(family):
    model, adapter = model_with(PROMPT, family)
    ids = make_batch(family)["input_ids"]
    found = logits(model, {"input_ids": ids})
    activate(model)
    text = torch.cat([adapter.part.embedding.weight.expand(3, -1, -1), model.get_input_embeddings()(ids)], 1)
    torch.testing.assert_close(found, logits(model, {"inputs_embeds": text})[:, 5:])


@pytest.mark.parametrize("family", ["ours", *PEFT_KNOWS])
def test_padding_on_the_left_changes_nothing(family):
    """Even GPT-2 and BERT, which know places only by number, are told the right numbers."""
    model, _ = model_with(PROMPT, family)
    ids = make_batch(family)["input_ids"][:1]
    padded = {"input_ids": F.pad(ids, (4, 0), value=7), "attention_mask": F.pad(torch.ones_like(ids), (4, 0))}
    torch.testing.assert_close(logits(model, padded)[:, 4:], logits(model, {"input_ids": ids}), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", DECODERS)
def test_generates_rows_of_unequal_length_as_each_alone(family):
    model, _ = model_with(PROMPT, family)
    ids = make_batch(family)["input_ids"]
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    settings = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    for use_cache in (True, False):
        together = generate(model, ids, 6, attention_mask=mask, use_cache=use_cache)
        alone = generate(model, ids[1:, 4:][:1], 6, use_cache=use_cache)
        assert torch.equal(together[1:2, 4:], alone)
        if family != "ours":
            theirs = model.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=6, use_cache=use_cache, **settings
            )
            assert torch.equal(theirs, together)
    if family != "ours":
        beams = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=6, num_beams=2, **settings)
        slow = model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=6, num_beams=2, use_cache=False, **settings
        )
        assert torch.equal(beams, slow)


def test_enters_the_cache_once():
    model, _ = model_with(PROMPT, "ours")
    cache, ids = KVCache(), make_batch("ours")["input_ids"]
    first = model(ids, past_key_values=cache).logits
    assert cache.get_seq_length() == 5 + 9 and first.shape == (3, 9, 96)
    assert model(ids[:, :1], past_key_values=cache).logits.shape == (3, 1, 96)
    assert cache.get_seq_length() == 5 + 9 + 1


def test_every_way_of_calling_gives_the_same():
    model, _ = model_with(PROMPT, "llama")
    batch = make_batch("llama")
    ids, mask = batch["input_ids"], batch["attention_mask"]
    expected = real(logits(model, batch), batch)
    text, places = model.get_input_embeddings()(ids), torch.arange(9).expand(3, -1)
    with torch.no_grad():
        for output in (
            model(ids, mask),
            model(inputs_embeds=text, attention_mask=mask),
            model(ids, attention_mask=mask, position_ids=places, cache_position=torch.arange(9)),
        ):
            torch.testing.assert_close(real(output.logits, batch), expected)
        assert model(**batch, logits_to_keep=2).logits.shape == (3, 2, 96)
    bert, _ = model_with(PROMPT, "bert")
    typed = make_batch("bert") | {"token_type_ids": torch.zeros(3, 9, dtype=torch.long)}
    torch.testing.assert_close(logits(bert, typed), logits(bert, make_batch("bert")))


@pytest.mark.parametrize("family", PEFT_KNOWS)
def test_labels_give_the_loss_that_peft_gives(family, tmp_path):
    import peft

    model, _ = model_with(PROMPT, family)
    save_adapter(model, tmp_path)
    batch = make_batch(family)
    batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    theirs = peft.PeftModel.from_pretrained(make(family), tmp_path).eval()
    output = model(**batch)
    assert output.logits.shape == (3, 9, 96)
    torch.testing.assert_close(output.loss, theirs(**batch).loss)


@pytest.mark.parametrize("family", ["ours", "llama"])
def test_leaves_the_vocabulary_alone(family):
    model = make(family)
    rows = len(model.get_input_embeddings().weight)
    attach(model, PromptTuning(5))
    assert len(model.get_input_embeddings().weight) == rows == logits(model, make_batch(family)).shape[-1]


def test_starts_as_it_is_told():
    model = make("llama")
    table = model.get_input_embeddings().weight.detach()

    def start(**settings):
        return attach(make("llama"), PromptTuning(5, **settings)).part.embedding.weight.detach()

    torch.manual_seed(0)
    random = start(init="random")
    assert random.abs().max() <= 0.5 and random.min() < -0.4 and random.max() > 0.4
    drawn = start(init="vocabulary")
    assert all((table == row).all(1).any() for row in drawn) and len(drawn.unique(dim=0)) > 1
    assert torch.equal(start(init="text", text=(7, 9)), table[[7, 9, 7, 9, 7]])
    assert torch.equal(start(init="text", text=list(range(8))), table[:5])


@pytest.mark.parametrize("kind", ["tokenizers", "transformers"])
def test_starts_from_a_text(kind):
    tokenizer, ids = load_tokenizer(BASE), load_tokenizer(BASE).encode("once upon a time").ids
    if kind == "transformers":
        tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    vocabulary = torch.randn(2048, 4)
    started = PromptTuning(len(ids), init="text", text="once upon a time", tokenizer=tokenizer).start(vocabulary)
    assert torch.equal(started, vocabulary[ids])


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"num_virtual_tokens": 0}, "num_virtual_tokens must be at least 1 and below the model's 64 positions, not 0"),
        ({"num_virtual_tokens": 64}, "below the model's 64 positions, not 64"),
        ({"init": "zeros"}, "init must be 'random', 'vocabulary' or 'text', not 'zeros'"),
        ({"init": "text", "text": "a story"}, "a text needs its tokenizer: pass tokenizer="),
        ({"init": "text"}, "text must be at least one token, with ids from 0 to 95, not"),
        ({"init": "text", "text": (3, 96)}, r"ids from 0 to 95, not \[3, 96\]"),
    ],
)
def test_refuses_wrong_settings(model, settings, message):
    forward = model.forward
    with pytest.raises(ValueError, match=message):
        attach(model, PromptTuning(**settings))
    assert model.forward == forward and all(p.requires_grad for p in model.parameters())


def test_refuses_models_without_a_place_for_it():
    with pytest.raises(ValueError, match=r"T5ForConditionalGeneration has an encoder and a decoder.*such as LoRA"):
        attach(make("t5"), PromptTuning(5))
    config = transformers.LlamaConfig(**LLAMA, num_labels=3, pad_token_id=0)
    for kind in (transformers.LlamaForSequenceClassification, transformers.LlamaModel):
        with pytest.raises(ValueError, match=f"{kind.__name__} lacks them: use a model such as"):
            attach(kind(config), PromptTuning(5))


@pytest.mark.parametrize("family", ["ours", *PEFT_KNOWS])
def test_refuses_what_is_too_long(family):
    model, _ = model_with(PROMPT, family)
    assert logits(model, {"input_ids": torch.full((1, 59), 3)}).shape == (1, 59, 96)
    with pytest.raises(ValueError, match="5 prompt vectors and 60 tokens are more than the 64 positions"):
        model(input_ids=torch.full((1, 60), 3))
    with pytest.raises(ValueError, match=r"the attention mask must be \(rows, tokens\) here, not \(1, 1, 4, 4\)"):
        model(input_ids=torch.full((1, 4), 3), attention_mask=torch.ones(1, 1, 4, 4))


def test_refuses_a_second_prompt_beside_it(model):
    attach(model, PromptTuning(5), "one")
    attach(model, PromptTuning(3), "two")
    with pytest.raises(ValueError, match="'one' and 'two' both change the whole model"):
        activate(model, "one", "two")
