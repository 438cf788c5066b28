"""The course: one folder per lesson, and ``catalogue.py``, which lists them in order.

In a notebook of exercises::

    from pefteach.lessons import check, hint, progress, solution

    check("lora_forward")      # runs your definition beside the reference, and names the mistake it recognises
    hint("lora_forward")       # the next hint
    solution("lora_forward")   # one right answer, once you have tried
    progress()                 # which exercises are right already
"""

from pefteach.lessons.practice import check, hint, progress, solution

__all__ = ["check", "hint", "progress", "solution"]
