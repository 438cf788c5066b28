"""Exercises for lesson 9, QLoRA."""

from pefteach.exercises.exercise import ExerciseSet
from pefteach.lessons.qlora.exercises import bits_per_weight, four_bit_linear, pack_codes, round_trip

SET = ExerciseSet(
    goal="write what QLoRA adds to LoRA: codes in half a byte, weights on a code book block by block, and a linear "
    "layer that computes with them and passes the gradient on",
    exercises=(pack_codes.EXERCISE, bits_per_weight.EXERCISE, round_trip.EXERCISE, four_bit_linear.EXERCISE),
    closing="Compare your `FourBitLinear` with `pefteach/quant/linear4bit.py`: the formula is the same. Then put LoRA "
    "beside it, as in lesson 7, and train it on the base.",
)
