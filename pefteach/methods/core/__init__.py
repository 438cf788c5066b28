"""What the techniques share.

``adapter.py`` says what a method and an adapter are, ``attach.py`` puts them on a model, and ``wrapping.py`` leads a
call of the model through them. ``targets.py`` and ``sites.py`` find the places in any family of models. The rest is
for some: ``low_rank.py`` for LoRA and its relatives, ``bottleneck.py`` for three kinds of adapters, ``soft_prompt.py``
for prompts and prefixes, with ``positions.py`` and ``caches.py``.
"""
