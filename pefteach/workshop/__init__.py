"""The workshop: what the people who make the course run, and no lesson imports.

- ``build/``: makes the notebooks in ``course/``.
- ``new_lesson/``: makes the folder of a new lesson.
- ``checks.py``: tries every exercise with all the right and wrong answers that it knows.
- ``parity/``: compares every method with its reference library.
- ``bench/``: measures speed and memory.
- ``pretrain.py``: makes the base.
- ``model_card.py``: measures the base and writes its model card.
- ``rooms.py``: counts the arrows between the folders of the package.
- ``machine.py`` and ``rows.py``: what the commands that measure print, and where they ran.
- ``clone.py``: refuses to write where there is no repository.
"""
