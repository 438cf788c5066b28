"""Makes every notebook of the course. No notebook is written by hand.

- ``course.py``: all that lies in ``course/``, built or checked.
- ``lessons.py``: runs one lesson's script and stores the notebook with its outputs.
- ``masters.py``: the exercises as nbgrader masters, with solutions and hidden tests; they never lie in ``course/``.
- ``students.py``: the same without solutions, for students.
- ``index.py``: the first page, a map of the lessons.
- ``links.py``: the links at the end of every notebook.
- ``stored.py``: what all stored notebooks have in common.
"""
