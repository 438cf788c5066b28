"""Pretraining survives being killed, and the base that ships is what its card says."""

import json
import random
import signal
import subprocess
import sys
import time

import pytest
import torch

from pefteach.corpus.batches import IGNORE, encode
from pefteach.corpus.skills import SKILLS, by_examples, by_token
from pefteach.corpus.stories import plots, stories, tell
from pefteach.corpus.tokenizer import load_tokenizer
from pefteach.measure.knowledge import on_plot, story_text
from pefteach.model.base import check_base, load_base
from pefteach.model.decoder import Config, Decoder
from pefteach.paths import BASE
from pefteach.training import evaluate
from pefteach.workshop.pretrain import Stage, document, packed_batches, pretrain

SMALL = """
import sys, torch
from pathlib import Path
from pefteach.workshop.pretrain import Stage, pretrain
from pefteach.model.decoder import Config
torch.set_num_threads(1)
import pefteach.workshop.pretrain as p
p.write_card = lambda folder: {}
fit = p.fit
p.fit = lambda *a, **k: fit(*a, **k, checkpoint_seconds=0.0)
config = Config(hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1)
stages = [Stage(name, 6, 1e-3, {"token": 1.0}, {"story": 1.0}) for name in ("one", "two")]
pretrain(Path(sys.argv[1]), config=config, stages=stages, rows=2, length=64)
"""


def test_a_killed_run_ends_as_the_whole_run_does(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):  # both begin with the tokenizer that ships: learning one takes a while
        folder.mkdir()
        (folder / "tokenizer.json").write_bytes((BASE / "tokenizer.json").read_bytes())
    run = [sys.executable, "-c", SMALL]
    subprocess.run([*run, whole], check=True, capture_output=True)
    process = subprocess.Popen([*run, broken], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(broken.glob("training-*.safetensors")):
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(broken.glob("training-*.safetensors")) and not (broken / "model.safetensors").exists()
    subprocess.run([*run, broken], check=True, capture_output=True)
    weights = [(folder / "model.safetensors").read_bytes() for folder in (whole, broken)]
    assert weights[0] == weights[1]
    assert not list(broken.glob("training-*.safetensors"))
    check_base(broken)
    with pytest.raises(ValueError, match="holds a finished base: choose another folder"):
        pretrain(broken)


def test_an_unknown_device_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="there is no device 'tpu' here: use cpu"):
        pretrain(tmp_path, device="tpu")


def test_only_answers_count_in_a_skill():
    tokenizer = load_tokenizer()
    rng = random.Random(0)
    for shares in ({"token": 1.0}, {"examples": 1.0}):
        ids, labels = document(tokenizer, rng, shares)
        counted = tokenizer.decode([i for i in labels if i != IGNORE], skip_special_tokens=False)
        assert counted.endswith("<eos>") and "=" not in counted and "<bos>" not in counted
        assert all(label in (IGNORE, id_) for id_, label in zip(ids, labels))
        text = tokenizer.decode(ids, skip_special_tokens=False)
        answers = [part.split(" ;")[0].removesuffix("<eos>").split() for part in text.split(" =")[1:]]
        assert counted.replace("<eos>", "").replace(";", "").split() == [c for a in answers for c in a]


def test_batches_are_a_function_of_the_step():
    tokenizer = load_tokenizer()
    stage = Stage("one", 10, 1e-3, {"token": 1.0}, {"story": 1.0})
    batch = packed_batches(tokenizer, stage, 2, 48, seed=3)
    assert torch.equal(batch(7)["input_ids"], batch(7)["input_ids"])
    assert not torch.equal(batch(7)["input_ids"], batch(8)["input_ids"])
    assert batch(0)["input_ids"].shape == (2, 48)
    task = [tokenizer.token_to_id(f"<{skill}>") for skill in SKILLS]
    assert batch(1)["input_ids"][0, 1] in task and batch(2)["input_ids"][0, 1] not in task  # the mixture changes


def test_staying_on_the_plot_is_told_from_leaving_it():
    plot, other = plots()[0], plots()[1]
    assert on_plot(tell(plot, 1).text, plot) > 0.9
    assert on_plot(tell(other, 1).text, plot) < 0.3
    assert on_plot("", plot) == 0.0
    assert min(on_plot(tell(p, 5).text, p) for p in plots()) > 0.8, "a told story must count as on its plot"


# The base that ships.


def test_the_base_is_whole_and_light():
    check_base()
    assert sum(f.stat().st_size for f in BASE.iterdir()) < 12e6
    config = json.loads((BASE / "config.json").read_text())
    model, tokenizer = load_base()
    assert 2e6 <= sum(p.numel() for p in model.parameters()) <= 4e6
    assert config["attention_bias"] and config["mlp_bias"] and config["tie_word_embeddings"]
    assert config["num_key_value_heads"] < config["num_attention_heads"]
    assert all(size % 64 == 0 for p in model.parameters() for size in p.shape if p.ndim == 2)
    assert config["vocab_size"] == tokenizer.get_vocab_size()
    assert not list(BASE.glob("*.bin")) + list(BASE.glob("*.pt")), "nothing that would have to be unpickled"


@pytest.mark.parametrize("skill", SKILLS)
def test_the_base_knows_every_skill(skill):
    model, tokenizer = load_base()
    rng = random.Random(f"test:{skill}")
    score = evaluate(model, [encode(tokenizer, *by_token(skill, rng)) for _ in range(300)])
    assert score.exact_match >= 0.99
    never_trained = Decoder(Config.from_dict(json.loads((BASE / "config.json").read_text())))
    assert evaluate(never_trained, [encode(tokenizer, *by_token(skill, rng)) for _ in range(20)]).exact_match == 0


@pytest.mark.parametrize("skill", ["reverse", "swap", "rotate", "double", "skip"])
def test_the_base_infers_skills_from_examples(skill):  # not copy and next: it does not tell them apart
    model, tokenizer = load_base()
    rng = random.Random(f"test:{skill}")
    examples = [encode(tokenizer, *by_examples(skill, rng), end=False) for _ in range(100)]
    assert evaluate(model, examples).exact_match >= 0.95


def test_the_base_knows_stories():
    model, tokenizer = load_base()
    loss = lambda told: evaluate(model, [encode(tokenizer, "", story_text(s)) for s in told]).loss
    known, new = loss(stories(60, seed=77)), loss(stories(28, "heldout", seed=77))
    assert known < 0.6 < new, "stories of known plots must be far less surprising than stories of new ones"


def test_the_card_says_what_was_measured():
    figures, card = json.loads((BASE / "figures.json").read_text()), (BASE / "MODEL_CARD.md").read_text()
    for skill, accuracy in figures["skills_by_token"].items():
        assert accuracy >= 0.99 and f"| {skill} | {accuracy:.3f} |" in card
    assert f"{figures['stories']['loss']:.3f}" in card and f"{figures['parameters']:,}" in card
    written = figures["written"]
    assert written["ended"] >= 0.9 and written["on_plot"] >= 0.7


def test_a_changed_base_is_refused(tmp_path):
    for file in BASE.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\1\0")
    with pytest.raises(
        ValueError, match=r"model\.safetensors is damaged or was changed: restore it with `git checkout"
    ):
        load_base(tmp_path)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors is missing"):
        load_base(tmp_path)
    (tmp_path / "SHA256SUMS").unlink()
    with pytest.raises(FileNotFoundError, match=r"no base at .*: clone the whole repository, or make one"):
        load_base(tmp_path)
