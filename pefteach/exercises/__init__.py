"""The engine that checks an answer: it says what is wrong and why.

An exercise is data (``exercise.py``). ``engine.py`` runs the student's code, which ``worker.py`` holds and
``subject.py`` reaches, beside the right answer and beside every known mistake; ``verdict.py`` is what it says.
"""

from pefteach.exercises.engine import answer, judge
from pefteach.exercises.exercise import Exercise, ExerciseSet
from pefteach.exercises.verdict import Verdict

__all__ = ["Exercise", "ExerciseSet", "Verdict", "answer", "judge"]
