"""Files of the methods that act on a weight matrix: peft opens ours and we open peft's, with equal logits."""

import tempfile

import peft
import pytest
import torch
from safetensors.torch import load_file

from pefteach.interop import load_adapter, save_adapter
from pefteach.methods import Method
from pefteach.workshop.parity.cases import CASES, ParityCase
from pefteach.workshop.parity.compare import STEPS, difference, pair, quiet, train
from pefteach.workshop.parity.families import make, make_batch

NAMES = [name for name, case in CASES.items() if case.reference == "peft" and case.methods["llama"].can_merge]


@pytest.mark.parametrize("name, family", [(name, family) for name in NAMES for family in CASES[name].compared_on])
def test_files_travel_both_ways(name, family):
    there_and_back(name, family)


@pytest.mark.filterwarnings("ignore:The following rank_pattern keys")  # peft's, about a pattern that it then applies
@pytest.mark.filterwarnings("ignore:Adapter 'default'")  # peft's, about a layer whose triplets are all dropped
@pytest.mark.parametrize("family", CASES["AdaLoRA"].compared_on)
def test_pruned_files_travel_both_ways(family):
    there_and_back("AdaLoRA", family, steps=STEPS)


@quiet()
@torch.no_grad()
def there_and_back(name: str, family: str = "llama", steps: int = 0, method: Method | None = None) -> None:
    """Fill our adapter and peft's alike, train both if need be, and let each open the other's files.

    Args:
        method: other settings than the case's.
    """
    batch = make_batch(family)
    ours, adapter, reference = pair(CASES[name] if method is None else ParityCase({family: method}), family)
    if steps:
        with torch.enable_grad():
            after = lambda step: adapter.after_step(step, steps)
            train(lambda: ours(**batch).logits, adapter.penalty, after, adapter.trained_tensors(), batch)
            after = lambda step: reference.after_step(step, steps)
            train(lambda: reference.logits(batch), reference.penalty, after, reference.peers, batch)
    with tempfile.TemporaryDirectory() as folder:
        mine, yours = f"{folder}/mine", f"{folder}/yours"
        save_adapter(ours, mine)
        reference.model.save_pretrained(yours)
        shapes = [
            {key: tuple(tensor.shape) for key, tensor in load_file(f"{place}/adapter_model.safetensors").items()}
            for place in (mine, yours)
        ]
        assert shapes[0] == shapes[1], "the two files hold other tensors"
        opened = peft.PeftModel.from_pretrained(make(family), mine).eval()
        assert difference(opened(**batch).logits, ours(**batch).logits, batch) <= 1e-5
        again = make(family)
        loaded = load_adapter(again, yours, "from_peft")
        assert type(loaded.method) is type(adapter.method)
        assert difference(again(**batch).logits, reference.logits(batch), batch) <= 1e-5
