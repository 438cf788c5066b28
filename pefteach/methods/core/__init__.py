"""The code that techniques share.

Every technique uses ``adapter.py`` (the classes Method and Adapter) and ``attach.py``. Most use ``wrapping.py``, which
passes a call of the model through them, and ``targets.py`` or ``sites.py``, which find modules in any family of models.
Base classes: ``low_rank.py`` for LoRA and its relatives, ``bottleneck.py`` for three kinds of adapters, and
``soft_prompt.py`` for prompts and prefixes, which need ``positions.py`` and ``caches.py`` too.
"""
