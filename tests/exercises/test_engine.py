"""The check never raises, says which of four things is the case, and shows what happened."""

import contextlib
import dataclasses
import sys
import warnings

import pytest
import torch

from pefteach.exercises.engine import answer, judge
from pefteach.exercises.exercise import namespace_of
from pefteach.exercises.subject import Subject, SubjectError
from pefteach.exercises.worker import Module, Other, Worker
from pefteach.lessons import check, hint, solution
from pefteach.lessons.catalogue import find
from pefteach.lessons.lora.exercises.lora_forward import EXERCISE as LORA_FORWARD

SIGNATURE = "def lora_forward(x, weight, bias, lora_A, lora_B, alpha):\n"


def run(body: str, name: str = "lora_forward"):
    source = SIGNATURE + "".join(f"    {line}\n" for line in body.splitlines()) if name == "lora_forward" else body
    return check(name, namespace=namespace_of(source))


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ("raise NotImplementedError()", "not attempted", "code to write"),
        ("raise NotImplementedError", "not attempted", "code to write"),
        ("...", "not attempted", "still empty"),
        ("pass", "not attempted", "still empty"),
        ('"""Only a docstring."""', "not attempted", "still empty"),
        ("y = x @ weight.T", "wrong", "`return` missing"),
        ("return 3.0", "wrong", "a number instead of a tensor"),
        ("return 'text'", "wrong", "a text instead of a tensor"),
        ("return [x]", "wrong", "a list or tuple instead of a tensor"),
        ("return lambda: x", "wrong", "a function instead of a tensor"),
        ("return nn.Linear(2, 2)", "wrong", "a module instead of a tensor"),
        ("return x", "wrong", "shape"),
        ("return F.linear(x, weight).T", "wrong", "the sizes are right, their order isn't"),
        ("return F.linear(x, weight) * float('nan')", "wrong", "NaN"),
        (
            "return 2 * F.linear(x, weight + alpha / len(lora_A) * lora_B @ lora_A, bias)",
            "wrong",
            "every value is 2 times",
        ),
        ("return torch.complex(F.linear(x, weight), F.linear(x, weight))", "wrong", "complex numbers"),
        ("return 1 / 0", "wrong", "ZeroDivisionError"),
        ("raise NotImplementedError('op not implemented for Half')", "wrong", "NotImplementedError: op not"),
        ("return lora_forward(x, weight, bias, lora_A, lora_B, alpha)", "wrong", "RecursionError"),
        ("raise SystemExit(3)", "wrong", "SystemExit"),
        ("raise KeyboardInterrupt", "wrong", "loop that never ends"),
        ("raise type('Odd', (Exception,), {'__str__': lambda self: 1 / 0})()", "wrong", "Odd"),
        ("raise BaseException('bare')", "wrong", "bare"),
        ("y = []\ny.append(y)\nreturn y", "wrong", "a list or tuple instead of a tensor"),
    ],
)
def test_whatever_the_code_does_there_is_a_verdict(body, status, says):
    verdict = run(body)
    assert verdict.status == status
    assert says in str(verdict)
    assert verdict.mistake is None


def test_the_right_answer_in_place_of_those_is_right():
    assert run("return F.linear(x, weight + alpha / len(lora_A) * lora_B @ lora_A, bias)").right


def test_wrong_signature_shows_the_call():
    verdict = run("def lora_forward(x):\n    return x", name="other")
    assert verdict.status == "cannot check"
    verdict = check("lora_forward", namespace=namespace_of("def lora_forward(x):\n    return x"))
    assert verdict.status == "wrong"
    assert "TypeError" in str(verdict) and "lora_forward(x (" in str(verdict) and "alpha=" in str(verdict)


def test_the_line_that_raised_is_named(tmp_path):
    file = tmp_path / "cell.py"
    file.write_text(SIGNATURE + "    y = x @ weight.T\n    return y + undefined_name\n")
    namespace = {}
    exec(compile(file.read_text(), str(file), "exec"), namespace)
    verdict = check("lora_forward", namespace=namespace)
    assert "line 3: return y + undefined_name" in str(verdict)


def test_names_that_are_missing_or_no_functions():
    assert check("lora_forward", namespace={}).status == "not attempted"
    verdict = check("lora_forward", namespace={"lora_forward": torch.ones(2)})
    assert verdict.status == "wrong" and "Tensor" in verdict.message


def test_an_unknown_exercise_is_answered_with_near_names():
    for says in (check("lora_foward"), hint("lora_foward"), solution("lora_foward")):
        assert "lora_forward" in str(says)
    assert check("lora_foward").status == "cannot check"
    assert check(None).status == "cannot check"


def test_changing_an_argument_in_place_is_noticed():
    verdict = run(
        "x += 1\nx -= 1\nbias += 1\nreturn F.linear(x, weight + alpha / len(lora_A) * lora_B @ lora_A, bias - 1)"
    )
    assert verdict.status == "wrong" and "bias was changed in place" in verdict.message


def test_the_arguments_of_a_verdict_reproduce_it():
    verdict = run("return F.linear(x, weight, 2 * bias)")
    again = F_linear_twice_bias(**verdict.arguments)
    assert f"{again.flatten()[0]:.4g}" in str(verdict)


def F_linear_twice_bias(x, weight, bias, lora_A, lora_B, alpha):
    return torch.nn.functional.linear(x, weight, 2 * bias)


def test_an_unknown_difference_shows_call_expected_got_and_where():
    text = str(run("return F.linear(x, weight, 2 * bias)"))
    for part in (
        "Checked   lora_forward(x (",
        "Expected  tensor (",
        "Got       tensor (",
        "largest difference",
        " at [",
    ):
        assert part in text
    assert "known here" in text


def test_a_fault_of_ours_is_called_ours():
    def broken(draw):
        raise KeyError("no such input")
        yield

    exercise = dataclasses.replace(LORA_FORWARD, inputs=broken)
    verdict = judge(exercise, answer(LORA_FORWARD.reference), 0)
    assert verdict.status == "cannot check" and "our fault" in verdict.message
    exercise = dataclasses.replace(LORA_FORWARD, code=LORA_FORWARD.code.replace("lora_A.shape[0]", "no_such_name"))
    verdict = judge(exercise, answer(LORA_FORWARD.reference), 0)
    assert verdict.status == "cannot check" and "our fault" in verdict.message


def test_a_lost_connection_is_ours_too():
    def ask(*request):
        raise ConnectionResetError("gone")

    assert judge(LORA_FORWARD, Subject(ask), 0).status == "cannot check"


def test_a_half_written_class_is_not_attempted_yet():
    start = find("LoRALinear").reference.split("    def forward")[0]
    for rest in (
        "",
        "    def forward(self, x):\n        raise NotImplementedError()\n",
        "    def forward(self, x): ...\n",
    ):
        assert check("LoRALinear", namespace=namespace_of(start + rest)).status == "not attempted"


def test_a_class_that_is_no_module_is_wrong():
    verdict = check(
        "LoRALinear", namespace=namespace_of("class LoRALinear:\n    def __init__(self, *args): self.a = 1\n")
    )
    assert verdict.status == "wrong" and "not an nn.Module" in str(verdict)


def test_a_module_with_other_names_says_which_it_has():
    source = find("LoRALinear").reference.replace("lora_A", "down").replace("lora_B", "up")
    verdict = check("LoRALinear", namespace=namespace_of(source))
    assert verdict.status == "wrong" and "missing: ['lora_A', 'lora_B']; too many: ['down', 'up']" in str(verdict)


def test_warnings_and_stderr_stay_out_of_the_cell(capsys):
    """nbgrader gives no points to a cell that writes to stderr."""
    body = "import sys, warnings\nwarnings.warn('careful')\nprint('to stderr', file=sys.stderr)\nprint('to stdout')\n"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        verdict = run(body + "return F.linear(x, weight + alpha / len(lora_A) * lora_B @ lora_A, bias)")
    captured = capsys.readouterr()
    assert verdict.right and captured.err == "" and "to stdout" in captured.out


def test_a_check_leaves_the_notebooks_random_numbers_alone():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    check("LoRALinear", namespace=namespace_of(find("LoRALinear").reference))
    assert torch.equal(state, torch.get_rng_state())


def test_checking_works_where_gradients_are_switched_off():
    with torch.no_grad():
        assert check("LoRALinear", namespace=namespace_of(find("LoRALinear").reference)).right


def test_the_notebooks_own_names_are_found_without_saying_where():
    scope = namespace_of("from pefteach.lessons import check\n" + LORA_FORWARD.reference)
    exec("verdict = check('lora_forward')", scope)
    assert scope["verdict"].right


def test_the_same_seed_gives_the_same_text():
    assert str(run("return F.linear(x, weight, 2 * bias)")) == str(run("return F.linear(x, weight, 2 * bias)"))


def test_a_verdict_is_words_and_symbols_and_escaped_html():
    for verdict, mark in ((run("return x"), "✗"), (run("..."), "…"), (check("?"), "!")):
        assert str(verdict).startswith(mark) and verdict.status in str(verdict).lower().replace("right yet", "wrong")
        assert "color:" not in verdict._repr_html_() and 'role="status"' in verdict._repr_html_()
    nasty = run("raise ValueError('<script>alert(1)</script>')")
    assert "<script>" in str(nasty) and "<script>" not in nasty._repr_html_()


def test_no_verdict_before_an_attempt_holds_the_answer():
    for verdict in (run("..."), check("lora_forward", namespace={}), hint("lora_forward"), solution("lora_forward")):
        assert "alpha / rank" not in str(verdict)


def test_everything_that_travels_is_plain_data(exercise):
    """So the worker can sit in another process, at the other end of a socket."""

    def plain(value):
        if isinstance(value, dict):
            return all(type(key) is str and plain(v) for key, v in value.items())
        if isinstance(value, list | tuple):
            return all(map(plain, value))
        if type(value) is torch.Tensor:
            return not value.requires_grad
        return value is None or type(value) in (bool, int, float, str, Module, Other)

    worker, seen = Worker(namespace_of(exercise.reference)), []

    def ask(*request):
        reply = worker.do(*request)
        seen.append(request[0])
        assert plain(request) and plain(reply)
        return reply

    assert judge(exercise, Subject(ask), 0).right
    assert {"kind", "call"} <= set(seen)


def test_the_subject_builds_sets_runs_and_differentiates():
    worker = Worker({})
    subject = Subject(worker.do)
    layer = subject.build("torch.nn:Linear", {"in_features": 3, "out_features": 2})
    weight, x = torch.tensor([[1.0, 2, 3], [4, 5, 6]]), torch.tensor([[1.0, 0, -1]])
    subject.set_tensors(layer, {"weight": weight, "bias": torch.tensor([10.0, 20])})
    assert subject.forward(layer, {"x": x}).value.tolist() == [[8, 18]]
    gradients = subject.backward(layer, {"x": x}, torch.tensor([[1.0, 2]]))
    assert gradients["weight"].tolist() == [[1, 0, -1], [2, 0, -2]] and gradients["bias"].tolist() == [1, 2]
    assert subject.tensors(layer)["weight"]["trains"] is True
    for values, says in (({"scale": weight}, "no parameter called 'scale'"), ({"bias": weight}, "has shape (2,), not")):
        with pytest.raises(SubjectError) as raised:
            subject.set_tensors(layer, values)
        assert says in str(raised.value)


def test_the_worker_does_only_what_it_offers():
    with pytest.raises(ValueError, match="unknown operation"):
        Worker({}).do("_find", "os:system")


def test_deep_recursion_in_the_code_leaves_the_interpreter_usable():
    limit = sys.getrecursionlimit()
    with contextlib.suppress(RecursionError):
        run("return lora_forward(x, weight, bias, lora_A, lora_B, alpha)")
    assert sys.getrecursionlimit() == limit and run("return x").status == "wrong"
