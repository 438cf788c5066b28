"""Parameter-efficient fine-tuning, every technique from scratch in readable PyTorch."""

__version__ = "0.1.0"
