"""The words that options of commands choose from. No torch is imported here, so that ``pefteach --help`` is quick."""

SCHEDULES = ("constant", "linear", "cosine")
OPTIMIZERS = ("adamw", "paged-adamw-32bit", "paged-adamw-8bit")
QUANT_TYPES = ("nf4", "fp4")
BACKENDS = ("pefteach", "bitsandbytes")
