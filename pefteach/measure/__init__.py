"""What a model has, what it knows, and what a method costs it.

``parameters.py`` counts the numbers of a model and the ones that train; ``knowledge.py`` examines the course's base on
its skills and its stories; ``forgetting.py`` compares what a model knew with what it knows; ``method_card.py`` puts the
figures of one method on one page. Memory is the planner's: ``pefteach.memory``.
"""

from pefteach.measure.forgetting import Knowledge, examine, fingerprints, forgotten
from pefteach.measure.knowledge import skill_accuracy, story_loss
from pefteach.measure.method_card import MethodCard, measure_method
from pefteach.measure.parameters import Count, count_by_kind, count_parameters

__all__ = [
    "Count", "Knowledge", "MethodCard", "count_by_kind", "count_parameters", "examine", "fingerprints", "forgotten",
    "measure_method", "skill_accuracy", "story_loss",
]  # fmt: skip
