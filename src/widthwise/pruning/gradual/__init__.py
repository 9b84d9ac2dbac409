"""Zeros: single weights pruned while a network is trained.

Which weights (`prunable`), how many at which step (`Schedule`), and the object that does it
(`GradualPruner`). Masks from scores of a trained network are in `widthwise.pruning`.
"""

from widthwise.pruning.gradual.compete import lamp
from widthwise.pruning.gradual.nested import shells
from widthwise.pruning.gradual.plan import Gradual
from widthwise.pruning.gradual.pruner import GradualPruner
from widthwise.pruning.gradual.schedule import Schedule
from widthwise.pruning.gradual.select import prunable

__all__ = ["Gradual", "GradualPruner", "Schedule", "lamp", "prunable", "shells"]
