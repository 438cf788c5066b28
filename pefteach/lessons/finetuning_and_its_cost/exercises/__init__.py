"""Exercises for lesson 2, fine-tuning and what it costs."""

from pefteach.exercises.exercise import ExerciseSet
from pefteach.lessons.finetuning_and_its_cost.exercises import (
    count_parameters,
    flops_per_token,
    next_token_loss,
    train_last_blocks,
    training_bytes,
)

SET = ExerciseSet(
    goal="count what a model has, choose what trains, and say what that costs in bytes and in arithmetic",
    exercises=(
        count_parameters.EXERCISE,
        training_bytes.EXERCISE,
        train_last_blocks.EXERCISE,
        next_token_loss.EXERCISE,
        flops_per_token.EXERCISE,
    ),
    closing="Put a model you know into your `training_bytes`: all of it trained, then a hundredth of it on a frozen "
    "base of 16 and of 4 bits. Which of the three phases changes most?",
)
