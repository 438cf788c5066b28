"""The engine that checks an answer: it says what is wrong and why. The exercises themselves lie with the lessons.

- ``exercise.py``: an exercise as data.
- ``engine.py``: judges an answer beside the reference and beside every known mistake.
- ``compare.py``: says how two values differ.
- ``subject.py``: how a check reaches the student's code, through plain requests.
- ``worker.py``: the student's side, which answers them; in a class it can run in another process.
- ``verdict.py``: what a check says, as text and as HTML.
- ``progress.py``: what was tried and what is right already.
"""

from pefteach.exercises.engine import answer, judge
from pefteach.exercises.exercise import Exercise, ExerciseSet
from pefteach.exercises.verdict import Verdict

__all__ = ["Exercise", "ExerciseSet", "Verdict", "answer", "judge"]
