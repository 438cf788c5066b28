"""The lessons of the course.

- ``catalogue.py``: the one list of them, in order.
- One folder per lesson: ``lesson.py`` (the source of its notebook), ``figures.py``, ``explorer.py``, ``exercises/``.
- ``kit/``: what the lessons share, for pictures and explorers.
- ``practice.py``: what a notebook of exercises calls::

    from pefteach.lessons import check, hint, progress, solution

    check("lora_forward")      # runs your definition beside the reference, and names the mistake it recognises
    hint("lora_forward")       # the next hint
    solution("lora_forward")   # one right answer, once you have tried
    progress()                 # which exercises are right already
"""

from pefteach.lessons.practice import check, hint, progress, solution

__all__ = ["check", "hint", "progress", "solution"]
