"""The student's side of a check: it holds the student's code and answers requests about it.

In a lesson the worker sits in the notebook's own kernel; in class it can sit in a sandbox at the other end of a
socket, since requests and replies are plain data: None, bool, int, float, str, list, dict, tensors, and the two
small records below. It never sees an expected value and never says what the verdict is.
"""

from __future__ import annotations

import contextlib
import dis
import importlib
import inspect
import io
import traceback
import types
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Module:
    """A module that lives with the worker; the number is all that travels."""

    number: int


@dataclass(frozen=True)
class Other:
    """A value that is not plain data: all that travels is the name of its type."""

    type_name: str


class Worker:
    """Carries out the operations ``kind``, ``call``, ``backward``, ``tensors`` and ``set_tensors``.

    Args:
        namespace: the names that the student's code defined.
    """

    operations = ("kind", "call", "backward", "tensors", "set_tensors")

    def __init__(self, namespace: dict[str, Any]):
        self.namespace, self.modules = namespace, list[nn.Module]()

    def do(self, operation: str, *request: Any) -> dict[str, Any]:
        """Answer one request: ``{"value": …}`` or, when the student's code raised, ``{"error": {…}}``."""
        if operation not in self.operations:
            raise ValueError(f"unknown operation {operation!r}: use one of {', '.join(self.operations)}")
        # A warning is no mistake, and nbgrader gives no points to a cell that writes to stderr.
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()), torch.enable_grad():
            warnings.simplefilter("ignore")
            try:
                return {"value": getattr(self, operation)(*request)}
            except BaseException as error:  # sys.exit and an interrupt too: nothing may leave the cell
                return {"error": _describe(error)}

    def kind(self, name: str) -> str:
        """ "missing", "blank" (nothing written in it yet), "function", "class", or "a value of type …"."""
        if name not in self.namespace:
            return "missing"
        thing = self.namespace[name]
        if not callable(thing):
            return f"a value of type {type(thing).__name__}"
        functions = vars(thing).values() if inspect.isclass(thing) else [inspect.unwrap(thing)]
        if any(_is_blank(f) for f in functions if isinstance(f, types.FunctionType)):
            return "blank"
        return "class" if inspect.isclass(thing) else "function"

    def call(self, target: str | Module, arguments: dict[str, Any]) -> dict[str, Any]:
        """Call a function, a class or a module with the arguments' values, in their order.

        Returns:
            ``result``, and ``after``: the arguments as the call left them.
        """
        given = {key: self._alive(value) for key, value in arguments.items()}
        result = self._find(target)(*given.values())
        return {"result": self._plain(result), "after": {key: self._plain(value) for key, value in given.items()}}

    def backward(self, module: Module, arguments: dict[str, Any], cotangent: Tensor) -> dict[str, Tensor | None]:
        """The gradient of ``(output * cotangent).sum()`` for every parameter; None where none arrives."""
        found = self._find(module)
        found.zero_grad()
        output = found(*(self._alive(value) for value in arguments.values()))
        if isinstance(output, Tensor) and output.requires_grad:
            (output * cotangent).sum().backward()
        return {name: self._plain(p.grad) for name, p in found.named_parameters()}

    def tensors(self, module: Module) -> dict[str, dict[str, Any]]:
        """The parameters of a module: ``value``, and whether it ``trains``."""
        named = self._find(module).named_parameters()
        return {name: {"value": self._plain(p), "trains": p.requires_grad} for name, p in named}

    def set_tensors(self, module: Module, values: dict[str, Tensor]) -> None:
        """Write values into a module's parameters."""
        have = dict(self._find(module).named_parameters())
        for name, value in values.items():
            if name not in have:
                raise AttributeError(f"it has no parameter called {name!r}, only: {', '.join(have) or 'none'}")
            if have[name].shape != value.shape:
                raise ValueError(f"{name} has shape {tuple(have[name].shape)}, not {tuple(value.shape)}")
            with torch.no_grad():
                have[name].copy_(value)

    def _find(self, target: str | Module) -> Any:
        if isinstance(target, Module):
            return self.modules[target.number]
        if ":" in target:  # something that is given, such as "torch.nn:Linear"
            package, name = target.split(":")
            return getattr(importlib.import_module(package), name)
        return self.namespace[target]

    def _alive(self, value: Any) -> Any:
        """A copy, which the student's code may change; of a module, the worker's own object."""
        if isinstance(value, Module):
            return self.modules[value.number]
        if isinstance(value, Tensor):
            return value.clone()
        if isinstance(value, dict):
            return {key: self._alive(v) for key, v in value.items()}
        return [self._alive(v) for v in value] if isinstance(value, list) else value

    def _plain(self, value: Any, depth: int = 0) -> Any:
        if value is None or type(value) in (bool, int, float, str):
            return value
        if isinstance(value, Tensor):
            return value.detach().as_subclass(Tensor).cpu().to_dense().clone()
        if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biuf":
            return torch.from_numpy(np.array(value))
        if isinstance(value, nn.Module):
            if not any(value is known for known in self.modules):
                self.modules.append(value)
            return Module(next(i for i, known in enumerate(self.modules) if value is known))
        if depth < 8 and isinstance(value, dict):
            return {str(key): self._plain(v, depth + 1) for key, v in value.items()}
        if depth < 8 and isinstance(value, list | tuple | set | frozenset):
            return [self._plain(v, depth + 1) for v in value]
        return Other(type(value).__name__)


def _is_blank(function: types.FunctionType) -> bool:
    """Whether a body is only a docstring, ``...`` or ``pass``."""
    doing = [i for i in dis.get_instructions(function) if i.opname not in ("RESUME", "NOP", "POP_TOP", "CACHE")]
    returning = {"LOAD_CONST", "RETURN_VALUE", "RETURN_CONST"}
    return all(i.opname in returning for i in doing) and all(i.argval in (None, ...) for i in doing)


def _describe(error: BaseException) -> dict[str, Any]:
    """An exception as plain data: type, message, and the line of the student's code where it happened."""
    try:
        message = str(error)
    except Exception:
        message = ""
    own = [f for f in traceback.extract_tb(error.__traceback__, limit=-50) if f.filename != __file__]
    written = [f for f in own if "site-packages" not in f.filename and "/lib/python" not in f.filename]
    last = (written or own)[-1] if own else None
    where = {"line": last.lineno, "text": last.line or ""} if last else {"line": None, "text": ""}
    return {"type": type(error).__name__, "message": message[:500], **where}
