"""Every wrong implementation is noticed."""

import inspect
import itertools

import pytest

from quant import checks, test_linear4bit, test_load, wrong


@pytest.fixture
def patch():
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield monkeypatch
    wrong.forget()


def fails(check) -> bool:
    try:
        check()
    except (Exception, pytest.fail.Exception):  # one that crashes is noticed as well
        return True
    return False


@pytest.mark.parametrize("what", wrong.NUMBERS)
def test_wrong_numbers_are_noticed(what, patch):
    wrong.NUMBERS[what](patch)
    wrong.forget()
    assert any(fails(check) for check in checks.CHECKS)


@pytest.mark.parametrize("what", wrong.LAYERS)
def test_wrong_layers_are_noticed(what, patch):
    put_in, name = wrong.LAYERS[what]
    put_in(patch)
    found = [f for module in (test_linear4bit, test_load) for n, f in vars(module).items() if n.startswith(name)]
    assert len(found) == 1, "no such test"
    assert any(fails(lambda values=values: found[0](**values)) for values in cases(found[0], patch))


def cases(test, patch):
    """The arguments that pytest would call a test with."""
    marks = [mark for mark in getattr(test, "pytestmark", []) if mark.name == "parametrize"]
    fixtures = {"monkeypatch": patch} if "monkeypatch" in inspect.signature(test).parameters else {}
    lists = [[(mark.args[0], value) for value in mark.args[1]] for mark in marks]
    return [fixtures | dict(chosen) for chosen in itertools.product(*lists)]
