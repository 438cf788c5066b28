"""The memory planner: the bytes of a training step, found in three ways that agree.

A method is described once, by itself: ``LoRA(rank=8)``. The planner takes that description and

* measures the step on a real model (``count.py``, with the trackers of ``trackers.py``);
* rehearses the step with tensors that have shapes and no numbers (``rehearse.py``, ``fake_tensors.py``): any method,
  any causal model, nothing loaded;
* computes the bytes by formula (``formula.py``): a Llama's, for the methods in ``what_trains.py``, at once.

``llamas.py`` holds the shapes of known models, ``cards.py`` the graphics cards, and ``plan.py`` what the command
``pefteach plan`` says.
"""

from pefteach.memory.cards import CARDS, fitting_cards, smallest_card
from pefteach.memory.count import Bytes, measure_step, weight_bytes
from pefteach.memory.formula import PRECISIONS, plan_step
from pefteach.memory.llamas import MODELS, llama_of_size, parameter_count
from pefteach.memory.rehearse import rehearse_step
from pefteach.memory.trackers import LiveBytes, SavedActivations

__all__ = [
    "CARDS", "MODELS", "PRECISIONS", "Bytes", "LiveBytes", "SavedActivations", "fitting_cards", "llama_of_size",
    "measure_step", "parameter_count", "plan_step", "rehearse_step", "smallest_card", "weight_bytes",
]  # fmt: skip
