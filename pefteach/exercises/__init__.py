"""Exercises that say what is wrong and why.

In a notebook::

    from pefteach.exercises import check, hint, solution

    check("lora_forward")      # runs your definition beside the reference, and names the mistake it recognises
    hint("lora_forward")       # the next hint
    solution("lora_forward")   # one right answer, once you have tried

Each exercise is data in one short file (``lora/lora_forward.py``); ``exercise.py`` says what it consists of, and
``catalogue.py`` lists the sets. To add one: write its file, name it in its set, run ``pefteach build``, which makes
the notebooks, and ``pefteach checks``, which holds every answer in the file against the verdict it must get.
"""

from pefteach.exercises.engine import check, hint, solution
from pefteach.exercises.progress import progress

__all__ = ["check", "hint", "progress", "solution"]
