"""The explorer of lesson 2: which graphics card holds this fine-tune?"""

from __future__ import annotations

from collections.abc import Mapping

import ipywidgets as widgets
from matplotlib.figure import Figure

from pefteach.lessons.finetuning_and_its_cost.figures import draw_memory
from pefteach.lessons.kit.panel import Panel
from pefteach.memory.formula import NF4, PRECISIONS, plan_step
from pefteach.memory.llamas import MODELS, llama_of_size, parameter_count
from pefteach.methods import BitFit, FullFineTuning, LastLayers, LoRA, Method, Norms
from pefteach.model.decoder import Config

ANY_SIZE = "a Llama of the size below"
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LORA = "LoRA q, v, r = 8"
CHOICES: dict[str, Method | None] = {
    "inference": None,
    "full fine-tuning": FullFineTuning(),
    "last 2 blocks": LastLayers(2),
    "norms": Norms(),
    "BitFit": BitFit(add_to=LINEAR),  # where the model has biases, it trains those
    LORA: LoRA(8),
    "LoRA all, r = 8": LoRA(8, target_modules="all-linear"),
}


def memory_explorer(models: Mapping[str, Config] = MODELS) -> Panel:
    """Plan the memory of every method on one model, with :func:`pefteach.memory.formula.plan_step`.

    Args:
        models: shapes to choose from, by name; one more choice is a Llama of any size.

    Raises:
        ValueError: no models.
    """
    if not models:
        raise ValueError("memory_explorer needs at least one model: models is empty")

    def draw(
        figure: Figure, model: str, billions: float, method: str, precision: str, batch: int, length: int, matrix: bool
    ) -> str:
        config = llama_of_size(billions * 1e9) if model == ANY_SIZE else models[model]
        plans, refused = {}, {}
        for name, each in CHOICES.items():
            try:
                plans[name] = plan_step(config, each, precision, batch, length, attention_matrix=matrix)
            except ValueError as error:  # a base in 4 bits does not train
                refused[name] = f"{error}. "
        says = refused.get(method, "") + draw_memory(figure, plans, method if method in plans else LORA)
        return f"{parameter_count(config) / 1e9:.3g} billion parameters. {says}"

    return Panel(
        draw,
        question="What is the smallest card that can tune this model? What would have to change for a smaller one?",
        look_for=(
            "From full fine-tuning to LoRA, two phases all but vanish and two stay. With long rows or many of them, "
            "what is left is activations, and few trained parameters do not help."
        ),
        size=(7.2, 3.6),
        model=widgets.Dropdown(options=[*models, ANY_SIZE], value=next(iter(models)), description="model"),
        billions=widgets.FloatSlider(
            value=30, min=1, max=100, step=1, description="size (billion parameters)", readout_format=".0f"
        ),
        method=widgets.Dropdown(options=list(CHOICES), value="full fine-tuning", description="method"),
        precision=widgets.ToggleButtons(options=[*PRECISIONS, NF4], value="mixed", description="precision"),
        batch=widgets.SelectionSlider(options=[1, 2, 4, 8, 16, 32, 64], value=1, description="rows (batch)"),
        length=widgets.SelectionSlider(
            options=[128, 256, 512, 1024, 2048, 4096, 8192], value=512, description="tokens per row"
        ),
        matrix=widgets.Checkbox(value=False, description="keep the attention matrix (no fused kernel)"),
    )


def example() -> Panel:
    """The explorer on the models it knows, for the code that times and tests every explorer."""
    return memory_explorer()
