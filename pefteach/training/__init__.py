"""Training: one loop (``fit``), one evaluation (``evaluate``), and the pieces that the loop is made of."""

from pefteach.training.divergence import TrainingDiverged
from pefteach.training.evaluation import Score, evaluate
from pefteach.training.history import History
from pefteach.training.loop import fit

__all__ = ["History", "Score", "TrainingDiverged", "evaluate", "fit"]
