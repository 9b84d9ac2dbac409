"""Gradual pruning of a whole training, in shares of its steps, as data.

Gradual(0.9)                                  # up to 90 % zeros by three quarters of the way
Gradual(0.9, begin=0.2, scope="global").pruner(module, steps=5_000)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from widthwise.pruning.gradual.compete import Scope, checked
from widthwise.pruning.gradual.pruner import GradualPruner
from widthwise.pruning.gradual.schedule import DPF, Schedule
from widthwise.variant import AnyWidths


@dataclass(frozen=True)
class Gradual:
    """How a training is pruned, whatever its length.

    sparsity: share of zeros at the end. begin, end: shares of the steps between which it grows.
    changes: how often masks are remade in between; with feedback at least every 4 steps.
    scope, dpf: as `GradualPruner` takes them.

    Raises ValueError for values outside their ranges.
    """

    sparsity: float
    begin: float = 0.0
    end: float = 0.75
    changes: int = 30
    scope: Scope = "layer"
    dpf: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.sparsity < 1:
            raise ValueError(
                f"The sparsity is {self.sparsity}; give a share of zeros between 0 and 1."
            )
        if not 0 <= self.begin <= self.end <= 1:
            raise ValueError(
                f"Pruning goes from {self.begin} to {self.end} of the training; give two shares "
                "from 0 to 1, the first one the smaller."
            )
        if isinstance(self.changes, bool) or not isinstance(self.changes, int) or self.changes < 1:
            raise ValueError(f"Masks are made {self.changes!r} times; give a number of at least 1.")
        checked(self.scope)

    def schedule(self, steps: int) -> Schedule:
        """The schedule for a training of so many optimizer steps."""
        begin, end = round(self.begin * steps), round(self.end * steps)
        frequency = max(1, (end - begin) // self.changes)
        if self.dpf:
            frequency = min(frequency, DPF)
        return Schedule(self.sparsity, begin, end, frequency=frequency)

    def pruner(
        self, module: nn.Module, steps: int, levels: Sequence[AnyWidths] = ()
    ) -> GradualPruner:
        """What prunes a module in a training of so many optimizer steps.

        levels: as `GradualPruner` takes them. Raises as it does.
        """
        return GradualPruner(
            module, self.schedule(steps), scope=self.scope, dpf=self.dpf, levels=levels
        )
