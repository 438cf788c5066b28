"""Exercises for lesson 7, LoRA."""

from pefteach.exercises.exercise import ExerciseSet
from pefteach.lessons.lora.exercises import (
    break_even_rank,
    lora_forward,
    lora_linear,
    lora_parameters,
    lora_scale,
    merge,
)

SET = ExerciseSet(
    goal="write LoRA yourself: the layer, its start, its scale, its price, and the merge that makes it free to run",
    exercises=(
        lora_forward.EXERCISE,
        lora_scale.EXERCISE,
        lora_linear.EXERCISE,
        merge.EXERCISE,
        lora_parameters.EXERCISE,
        break_even_rank.EXERCISE,
    ),
    closing="Compare your `LoRALinear` with `pefteach/methods/lora.py`: the formula is the same, and what is left is "
    "finding the layers to put it on. Then try your layer on a model: wrap one projection of the base and train it.",
)
