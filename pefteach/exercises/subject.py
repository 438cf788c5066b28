"""The checker's side of a check: the only way in which it reaches the student's code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pefteach.exercises.compare import difference, show
from pefteach.exercises.worker import Module


class SubjectError(Exception):
    """The student's code raised an exception.

    Args:
        what: what the check was doing.
        kind, message: the exception's type and text.
        line, text: where in the student's code, if known.
    """

    def __init__(self, what: str, type: str, message: str, line: int | None = None, text: str = ""):
        super().__init__(f"{what}: {type}: {message}")
        self.what, self.kind, self.message, self.line, self.text = what, type, message, line, text


@dataclass(frozen=True)
class Called:
    """The result of a call, and the names of the arguments that it changed in place."""

    value: Any
    changed: tuple[str, ...]


class Subject:
    """The student's code as a check sees it.

    Args:
        ask: sends a request to a :class:`~pefteach.exercises.worker.Worker`, near or far, and returns its reply.
    """

    def __init__(self, ask: Callable[..., dict[str, Any]]):
        self.ask = ask

    def kind(self, name: str) -> str:
        """ "missing", "blank", "function", "class", or "a value of type …"."""
        return self._ask(f"looking for {name}", "kind", name)

    def call(self, name: str, arguments: dict[str, Any]) -> Called:
        """Call a function with the arguments' values, in their order; the names are for messages."""
        return self._called(call_text(name, arguments), name, arguments)

    def build(self, name: str, arguments: dict[str, Any]) -> Module:
        """Make a module from a class of the student's, or from a given one ("torch.nn:Linear")."""
        what = call_text(name, arguments)
        module = self._called(what, name, arguments).value
        if not isinstance(module, Module):
            raise SubjectError(what, "TypeError", f"this made {show(module)}, not an nn.Module")
        return module

    def forward(self, module: Module, arguments: dict[str, Any]) -> Called:
        """Run a module."""
        return self._called(call_text("forward", arguments), module, arguments)

    def backward(self, module: Module, arguments: dict[str, Any], cotangent: Tensor) -> dict[str, Tensor | None]:
        """The gradient of ``(output * cotangent).sum()`` for every parameter; None where none arrives."""
        return self._ask(f"backward of {call_text('forward', arguments)}", "backward", module, arguments, cotangent)

    def tensors(self, module: Module) -> dict[str, dict[str, Any]]:
        """A module's parameters: ``value``, and whether it ``trains``."""
        return self._ask("reading the module's parameters", "tensors", module)

    def set_tensors(self, module: Module, values: dict[str, Tensor]) -> None:
        """Write values into a module's parameters."""
        self._ask(f"setting {', '.join(values)}", "set_tensors", module, values)

    def _called(self, what: str, target: str | Module, arguments: dict[str, Any]) -> Called:
        reply = self._ask(what, "call", target, arguments)
        after = reply["after"]
        changed = tuple(key for key, value in arguments.items() if difference(value, after[key], exact=True))
        return Called(reply["result"], changed)

    def _ask(self, what: str, *request: Any) -> Any:
        reply = self.ask(*request)
        if "error" in reply:
            raise SubjectError(what, **reply["error"])
        return reply["value"]


def call_text(name: str, arguments: dict[str, Any]) -> str:
    """A call as it reads in a message: numbers with their values, tensors with their shapes."""
    parts = []
    for key, value in arguments.items():
        if isinstance(value, Tensor):
            parts.append(f"{key} {tuple(value.shape)}")
        else:
            parts.append(key if isinstance(value, Module) else f"{key}={value}")
    return f"{name.rpartition(':')[2]}({', '.join(parts)})"
