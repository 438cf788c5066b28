"""QLoRA runs on real models and your own data, as ``pefteach qlora`` starts them; begin with ``run.py``."""
