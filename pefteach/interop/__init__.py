"""Read and write adapters in the files of other libraries.

- ``peft_files.py``: peft's format, in which this package stores every method.
- ``adapters_files.py``: the format of the ``adapters`` library, for bottleneck adapters.
- ``convert.py``: from one format to the other, or merged into a whole model.
"""

from pefteach.interop.adapters_files import load_from_adapters, save_to_adapters
from pefteach.interop.peft_files import load_adapter, save_adapter

__all__ = ["load_adapter", "load_from_adapters", "save_adapter", "save_to_adapters"]
