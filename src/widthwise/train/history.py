"""What a training run was like: a frozen record of its epochs."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Epoch:
    """One pass over the training data.

    loss: mean over its steps. metric: on the validation data at full width, after the epoch; None
    when nothing was measured. seconds: wall time. processor: seconds of the (main) process's time.
    Times are not part of what makes two records equal; of a resumed run, what was done after the
    last checkpoint and had to be done again counts once.
    """

    loss: float
    metric: float | None = None
    seconds: float = field(default=0.0, compare=False)
    processor: float = field(default=0.0, compare=False)


@dataclass(frozen=True)
class History:
    """The epochs of a run, in order. steps: training steps taken in all."""

    epochs: tuple[Epoch, ...] = ()
    steps: int = 0

    @property
    def loss(self) -> float:
        """The mean loss of the last epoch; nan before the first is done."""
        return self.epochs[-1].loss if self.epochs else float("nan")

    @property
    def metric(self) -> float | None:
        """The metric after the last epoch."""
        return self.epochs[-1].metric if self.epochs else None

    @property
    def seconds(self) -> float:
        """Wall time of all epochs together."""
        return sum(e.seconds for e in self.epochs)

    @property
    def processor(self) -> float:
        """Seconds of processor time of all epochs together."""
        return sum(e.processor for e in self.epochs)
