"""To and from the files of other libraries."""

from pefteach.interop.peft_files import load_adapter, save_adapter

__all__ = ["load_adapter", "save_adapter"]
