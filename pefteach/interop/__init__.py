"""To and from the files of other libraries."""

from pefteach.interop.adapters_files import load_from_adapters, save_to_adapters
from pefteach.interop.peft_files import load_adapter, save_adapter

__all__ = ["load_adapter", "load_from_adapters", "save_adapter", "save_to_adapters"]
