"""``pefteach convert``: whatever the format, the model with the adapter says the same."""

import json
import os
import subprocess
import sys

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from helpers import logits, model_with
from pefteach.interop import load_adapter, load_from_adapters, save_adapter
from pefteach.interop.convert import convert
from pefteach.methods import BitFit, LastLayers, LoRA, PfeifferAdapters, PromptTuning, attach
from pefteach.workshop.parity.families import make, make_batch

BATCH = make_batch("llama")


def stored(tmp_path, method):
    """A Llama on disk, an adapter for it on disk, and the logits of both together."""
    make("llama").save_pretrained(tmp_path / "model")
    model, _ = model_with(method, "llama")
    save_adapter(model, tmp_path / "adapter")
    return str(tmp_path / "model"), tmp_path / "adapter", logits(model, BATCH)


@pytest.mark.parametrize("method", [LoRA(3, 7.0), LastLayers(1)], ids=["merged", "in the weights already"])
def test_into_a_whole_model(tmp_path, method):
    model, adapter, expected = stored(tmp_path, method)
    said = convert(adapter, tmp_path / "whole", "merged", model)
    assert said.endswith("whole (merged)") and type(method).__name__ in said
    whole = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
    torch.testing.assert_close(logits(whole, BATCH), expected, atol=1e-5, rtol=1e-5)


def test_to_adapters_and_back(tmp_path):
    model, adapter, expected = stored(tmp_path, PfeifferAdapters(7))
    convert(adapter, tmp_path / "theirs", "adapters", model)
    assert not (tmp_path / "theirs" / "adapter_model.safetensors").exists()
    again = make("llama")
    load_from_adapters(again, tmp_path / "theirs")
    assert torch.equal(logits(again, BATCH), expected)
    convert(tmp_path / "theirs", tmp_path / "back", "peft", model)
    again = make("llama")
    load_adapter(again, tmp_path / "back")
    assert torch.equal(logits(again, BATCH), expected)


def test_refusals_are_one_sentence_and_write_nothing(tmp_path):
    model, adapter, _ = stored(tmp_path, PromptTuning(5))
    out = tmp_path / "out"
    for to, message in [
        ("merged", "nothing to merge"),
        ("adapters", "takes only bottleneck adapters"),
        ("gguf", "no format"),
    ]:
        with pytest.raises(ValueError, match=message):
            convert(adapter, out, to, model)
    with pytest.raises(ValueError, match="is not empty"):
        convert(adapter, tmp_path, "peft", model)
    with pytest.raises(FileNotFoundError, match=r"no adapter_config\.json in"):
        convert(tmp_path / "model", out, "peft", model)
    with pytest.raises(FileNotFoundError, match="cannot open the model"):
        convert(adapter, out, "peft", str(tmp_path / "nowhere"))
    weights = adapter / "adapter_model.safetensors"
    save_file(load_file(weights) | {"stray": torch.zeros(1)}, weights)
    with pytest.raises(ValueError, match=r"unexpected \['stray'\]"):
        convert(adapter, out, "peft", model)
    assert not out.exists()


def test_biases_that_the_model_has_no_place_for(tmp_path):
    model, _, _ = stored(tmp_path, LoRA(3, 7.0))
    bare = transformers.LlamaForCausalLM(transformers.AutoConfig.from_pretrained(model, attention_bias=False))
    bare.save_pretrained(tmp_path / "bare")
    attach(bare, BitFit(("q_proj",)))
    save_adapter(bare, tmp_path / "biases")
    with pytest.raises(ValueError, match=r"no place for model\.layers\.0\.self_attn\.q_proj\.bias"):
        convert(tmp_path / "biases", tmp_path / "out", "merged", str(tmp_path / "bare"))


def test_on_the_command_line(tmp_path):
    model, adapter, _ = stored(tmp_path, LoRA(3, 7.0))

    def run(*words):
        return subprocess.run(
            [sys.executable, "-c", "from pefteach.commands.cli import main; main()", "convert", *map(str, words)],
            capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"},
        )  # fmt: skip

    done = run(adapter, tmp_path / "again", "--to", "peft", "--model", model)
    assert done.returncode == 0 and "again (peft)" in done.stdout, done.stderr
    config = json.loads((tmp_path / "again" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (3, 7.0)
    failed = run(adapter, tmp_path / "again", "--to", "peft", "--model", model)
    assert failed.returncode == 1 and failed.stderr.startswith("pefteach: ") and failed.stderr.count("\n") == 1
