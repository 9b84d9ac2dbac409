"""How sparse a network is at each step of its training: a pure function of the step.

Schedule(0.9, end=10_000)                             # from dense to 90 % zeros, on a cubic
Schedule(0.9, begin=2_000, end=10_000, frequency=500)
Schedule(0.9, end=0)                                  # at once
Schedule(0.95, initial=0.5, end=5_000)                # from half, of a network pruned before
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

FREQUENCY: Final = 100  # steps from one change of the masks to the next
DPF: Final = 4  # the same where weights may come back, which they can only at a change


@dataclass(frozen=True)
class Schedule:
    """Gradual pruning (Zhu & Gupta, 2017): fast at first, slow where few weights are left.

    Args:
        final: share of zeros at the end, in [0, 1).
        initial: share of zeros at the beginning, in [0, 1).
        begin: optimizer step at which sparsity begins to grow; before it nothing is pruned.
        end: optimizer step at which the last masks are made.
        frequency: steps from one change of the masks to the next; by default 100, and 4 in a pruner
            with feedback, where a weight that was pruned wrongly stays out until the next change.
        exponent: 3 as published, 1 for a straight line.

    Raises:
        ValueError: For values that do not make a schedule.

    Example:
        s(t) = final + (initial - final) (1 - (t - begin) / (end - begin)) ** exponent
    """

    final: float
    begin: int = 0
    end: int = 1000
    initial: float = 0.0
    frequency: int | None = None
    exponent: float = 3.0

    def __post_init__(self) -> None:
        for name, share in (("final", self.final), ("initial", self.initial)):
            if not 0 <= share < 1:
                raise ValueError(
                    f"Schedule.{name} is {share}; give a share of zeros from 0 to below 1."
                )
        if self.initial > self.final:
            raise ValueError(
                f"The schedule goes from {self.initial} of zeros down to {self.final}; give an "
                "initial sparsity of at most the final one."
            )
        for step, value in (("begin", self.begin), ("end", self.end)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise ValueError(f"Schedule.{step} is {value!r}; give a step, an integer from 0.")
        if self.end < self.begin:
            raise ValueError(
                f"The schedule ends at step {self.end}, before it begins at step {self.begin}; "
                "give an end of at least that."
            )
        if self.frequency is not None:
            if isinstance(self.frequency, bool) or not isinstance(self.frequency, int):
                raise ValueError(
                    f"Schedule.frequency is {self.frequency!r}; give a number of steps."
                )
            if self.frequency < 1:
                raise ValueError(f"Schedule.frequency is {self.frequency}; give at least 1 step.")
        if not (math.isfinite(self.exponent) and self.exponent > 0):
            raise ValueError(f"Schedule.exponent is {self.exponent}; give a number above 0.")

    def sparsity(self, step: int) -> float:
        """The share of zeros after so many optimizer steps."""
        if step < self.begin:
            return 0.0
        if step >= self.end:
            return self.final
        left = 1 - (step - self.begin) / (self.end - self.begin)
        return self.final + (self.initial - self.final) * float(left**self.exponent)

    def changes(self, step: int, *, endless: bool = False) -> bool:
        """Whether masks are remade after so many optimizer steps; endless: after the end too."""
        if step < self.begin or (step > self.end and not endless):
            return False
        return step == self.end or (step - self.begin) % (self.frequency or FREQUENCY) == 0

    def paced(self, *, dpf: bool) -> Schedule:
        """The same schedule with a frequency, chosen for pruning with or without feedback."""
        chosen = DPF if dpf else FREQUENCY
        return self if self.frequency is not None else replace(self, frequency=chosen)

    def scaled(self, final: float) -> Schedule:
        """The same steps with another final sparsity, for a tensor of its own."""
        initial = self.initial * final / self.final if self.final else 0.0
        return Schedule(final, self.begin, self.end, initial, self.frequency, self.exponent)
