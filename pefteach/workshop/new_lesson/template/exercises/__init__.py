"""The lesson's exercises, in order."""

from pefteach.exercises.exercise import ExerciseSet
from pefteach.workshop.new_lesson.template.exercises import first_step

SET = ExerciseSet(
    goal="TODO: what you write here, as the end of a sentence",
    exercises=(first_step.EXERCISE,),
    closing="TODO: what to read or to try next.",
)
