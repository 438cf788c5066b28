"""Multitask prompt tuning: one prompt shared by all tasks, and a low-rank matrix that adapts it to each.

Wang, Panda, Karlinsky, Feris, Sun & Kim 2023, "Multitask Prompt Tuning Enables Parameter-Efficient Transfer
Learning", section 3.1:

    P_k = P* ∘ (U_k V_k),    P*: (n, D) shared,  U_k: (n, r),  V_k: (r, D),  ∘ elementwise

The paper has r = 1. First train on several source tasks; ``task_ids`` gives the task of every row of a batch:

    model(input_ids, attention_mask=mask, task_ids=torch.tensor([0, 2, 1]))

A target task then starts from what they share: ``attach(model, MultitaskPrompt(tasks=1), fill=start_from(sources))``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pefteach.methods.core.adapter import Adapter
from pefteach.methods.core.soft_prompt import PromptAdapter, PromptPart
from pefteach.methods.prompt_tuning import PromptTuning


class MultitaskPart(PromptPart):
    """P*, and the factors U and V of every task."""

    own_inputs = ("task_ids",)

    def __init__(self, model: Any, method: MultitaskPrompt, start: Tensor):
        super().__init__(model, start)
        # Every U V starts near 1, so every task's prompt starts near P*; at 0 neither factor would ever get a gradient.
        # (peft draws both from N(0, 0.02), and its prompts start almost at zero.)
        near_one = torch.zeros(method.rank)
        near_one[0] = 1.0
        n, D = start.shape
        self.prefix_task_cols = nn.Parameter(near_one + 0.02 * torch.randn(method.tasks, n, method.rank))
        self.prefix_task_rows = nn.Parameter(near_one[:, None] + 0.02 * torch.randn(method.tasks, method.rank, D))
        self.task = method.task

    def vectors(self, task_ids: Tensor | None = None) -> Tensor:
        """The prompt of every row (B, n, D), by the rows' tasks (B,); without tasks, the default task's (n, D)."""
        tasks, count = self.task if task_ids is None else task_ids, len(self.prefix_task_cols)
        if task_ids is not None and not ((task_ids >= 0) & (task_ids < count)).all():
            raise ValueError(f"task_ids must be between 0 and {count - 1}, one for every row, not {task_ids.tolist()}")
        return self.embedding.weight * (self.prefix_task_cols[tasks] @ self.prefix_task_rows[tasks])


@dataclass(frozen=True)
class MultitaskPrompt(PromptTuning):
    """Settings of multitask prompt tuning: those of prompt tuning for P*, and those of the factors.

    Args:
        tasks: the number of tasks.
        rank: r, at least 1.
        task: the task of calls without ``task_ids``, such as those of ``generate``; the adapter's ``task`` changes it.

    Raises:
        ValueError: when attached with settings out of range, or to a model without a place for a prompt.
    """

    tasks: int = 1
    rank: int = 1
    task: int = 0

    formula: ClassVar[str] = "n D + tasks · r (n + D)"

    def trained_parameters(self, model: Any) -> int:
        D = model.get_input_embeddings().weight.shape[1]
        return self.num_virtual_tokens * D + self.tasks * self.rank * (self.num_virtual_tokens + D)

    def build(self, model: Any, name: str) -> MultitaskAdapter:
        if self.tasks < 1 or self.rank < 1:
            raise ValueError(f"tasks and rank must be at least 1, not {self.tasks} and {self.rank}")
        if not 0 <= self.task < self.tasks:
            raise ValueError(f"task must be between 0 and {self.tasks - 1}, not {self.task}")
        return MultitaskAdapter(self, model, name, {"": MultitaskPart(model, self, self.start(self.vocabulary(model)))})

    # The settings in peft's files.
    peft_type: ClassVar[str] = "MULTITASK_PROMPT_TUNING"

    def to_peft(self) -> dict:
        return super().to_peft() | {"num_tasks": self.tasks, "num_ranks": self.rank}

    @classmethod
    def from_peft(cls, config: dict) -> MultitaskPrompt:
        return cls(
            config["num_virtual_tokens"],
            tasks=config.get("num_tasks", 1),
            rank=config.get("num_ranks", 1),
            task=config.get("task", 0),
        )


class MultitaskAdapter(PromptAdapter):
    """Stores P* and the factors, and lets the model's call take ``task_ids``."""

    def insert(self) -> None:
        super().insert()
        # Hugging Face's generate and Trainer pass only arguments that the signature of forward names.
        model: Any = self.model
        call = model.forward.__func__
        signature = inspect.signature(call)
        arguments = dict(signature.parameters)
        rest = [arguments.pop(key) for key in list(arguments) if arguments[key].kind is inspect.Parameter.VAR_KEYWORD]
        arguments["task_ids"] = inspect.Parameter("task_ids", inspect.Parameter.KEYWORD_ONLY, default=None)
        call.__signature__ = signature.replace(parameters=[*arguments.values(), *rest])

    @property
    def task(self) -> int:
        """The task of calls without ``task_ids``."""
        return self.part.task

    @task.setter
    def task(self, task: int) -> None:
        if not 0 <= task < len(self.part.prefix_task_cols):
            raise ValueError(f"task must be between 0 and {len(self.part.prefix_task_cols) - 1}, not {task}")
        self.part.task = task

    def to_peft(self) -> dict:
        # peft has no default task and warns about the unknown setting, so a file leaves task 0 out.
        return self.method.to_peft() | ({"task": self.task} if self.task else {})

    def file_tensors(self) -> Mapping[str, Tensor]:
        factors = {key: getattr(self.part, key) for key in ("prefix_task_cols", "prefix_task_rows")}
        return {**super().file_tensors(), **factors}


def start_from(source: Adapter, task: int | None = None) -> Callable[[Adapter], None]:
    """Return the ``fill`` with which ``attach`` starts one target task from trained source tasks (section 3.3).

    Args:
        source: a multitask prompt, of this model or of another of the same width.
        task: the source task whose factors to take; by default the average of all their U and all their V. (The
            average of the products would be another matrix, and not of rank r.)

    Raises:
        ValueError: there is no such source task; or, when attached, n or r differs, or the target has several tasks.
    """
    count = len(source.file_tensors()["prefix_task_cols"])
    if task is not None and not 0 <= task < count:
        raise ValueError(f"task must be between 0 and {count - 1}, a source task, not {task}")
    chosen = slice(None) if task is None else slice(task, task + 1)

    def fill(target: Adapter) -> None:
        stored = dict(source.file_tensors())
        for key in ("prefix_task_cols", "prefix_task_rows"):
            stored[key] = stored[key][chosen].mean(0, keepdim=True)
        target.load_tensors(stored)

    return fill
