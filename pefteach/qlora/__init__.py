"""QLoRA on a real model: the recipe, instruction data, and ``pefteach qlora``."""
