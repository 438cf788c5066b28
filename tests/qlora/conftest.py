"""What the tests of QLoRA runs share: a file of instructions for the base, and quick settings."""

import contextlib
import dataclasses
import json
import random

import pytest
import torch

from pefteach.paths import BASE
from pefteach.qlora.run import run
from pefteach.qlora.settings import Settings


@contextlib.contextmanager
def one_thread():
    """Like the processes that the tests start: two threads add up in another order, and so round otherwise."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def on_one_thread():
    with one_thread():
        yield


@pytest.fixture(scope="session")
def instructions(tmp_path_factory):
    """Ninety lines of unequal length."""
    rng, file = random.Random(0), tmp_path_factory.mktemp("data") / "data.jsonl"
    words = ["fox", "owl", "red", "boat", "sun"]
    line = lambda: {"prompt": " ".join(rng.choices(words, k=rng.randint(1, 9))), "response": f" {rng.choice(words)}."}
    file.write_text("\n".join(json.dumps(line()) for _ in range(90)))
    return file


@pytest.fixture(scope="session")
def settings(instructions):
    """A dozen steps, in two parts each."""
    return Settings(
        model=str(BASE), data=str(instructions), rank=5, lr=5e-3, batch_size=4, accumulate=2, length=48, epochs=2.0,
        dropout=0.1, seed=3,
    )  # fmt: skip


@pytest.fixture(scope="session")
def alone(tmp_path_factory, settings):
    """The folder of a finished run in one process, without dropout, which every process draws by itself."""
    out = tmp_path_factory.mktemp("alone") / "run"
    with one_thread():
        run(dataclasses.replace(settings, dropout=0.0), out, cpu=True)
    return out
