"""Exercises for lesson 1, the Transformer."""

from pefteach.exercises.exercise import ExerciseSet
from pefteach.lessons.transformer_review.exercises import attention, repeat_kv, rms_norm, rotate, split_heads

SET = ExerciseSet(
    goal="write the parts of a decoder that every method of this course later changes",
    exercises=(
        attention.EXERCISE,
        split_heads.EXERCISE,
        repeat_kv.EXERCISE,
        rms_norm.EXERCISE,
        rotate.EXERCISE,
    ),
    closing="Open `pefteach/model/decoder.py` and find your five pieces in it: together with the MLP they are the "
    "whole model.",
)
