"""Zeros: single weights pruned while a network is trained.

Which weights (`prunable`), how many at which step (`Schedule`), and the object that does it
(`GradualPruner`). Masks from scores of a trained network are in `importance`.
"""

from widthwise.choose.schedule import Schedule
from widthwise.sparse.compete import lamp
from widthwise.sparse.gradual import Gradual
from widthwise.sparse.pruner import GradualPruner
from widthwise.sparse.select import prunable
from widthwise.sparse.shells import shells

__all__ = ["Gradual", "GradualPruner", "Schedule", "lamp", "prunable", "shells"]
