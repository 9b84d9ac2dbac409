"""What a person sees of a training run: a line for each epoch, and on a terminal a bar below."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from widthwise.train.history import Epoch


class Display:
    """Shows a run on standard error; a context manager.

    steps, epochs: in all. done: steps taken before. metric: its name. shown: False shows nothing.
    """

    def __init__(
        self, steps: int, epochs: int, done: int, metric: str | None, *, shown: bool
    ) -> None:
        self.steps = steps
        self.epochs = epochs
        self.done = done
        self.metric = metric
        self.shown = shown
        self.console = Console(stderr=True)
        self.bar: Progress | None = None
        self.task = TaskID(0)
        self.text = ""

    def __enter__(self) -> Display:
        if self.shown and self.console.is_terminal:
            # Drawing the bar takes some milliseconds of the training thread's time.
            self.bar = Progress(
                TextColumn("training"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[loss]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self.console,
                refresh_per_second=2,
            )
            self.task = self.bar.add_task("", total=self.steps, completed=self.done, loss="")
            self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.bar is not None:
            self.bar.stop()

    def step(self, done: int, loss: float) -> None:
        """Say how far the run is and what the last losses were."""
        if self.bar is not None:
            self.bar.update(self.task, completed=done, loss=f"loss {loss:.4f}{self.text}")

    def epoch(self, number: int, epoch: Epoch) -> None:
        """Say what the epoch, counted from 1, came to."""
        if epoch.metric is not None:
            self.text = f"  {self.metric} {epoch.metric:.4f}"
        if self.shown:
            console = self.console if self.bar is None else self.bar.console  # above the bar
            console.print(
                f"epoch {number} of {self.epochs}: loss {epoch.loss:.4f}{self.text}"
                f"  ({epoch.seconds:.1f} s)",
                highlight=False,
            )


class Pace:
    """Says when it is time: after so many calls or seconds, whichever comes first."""

    def __init__(self, calls: int, seconds: float) -> None:
        self.calls = calls
        self.seconds = seconds
        self.reset()

    def reset(self) -> None:
        """Start counting from zero."""
        self.count = 0
        self.last = time.monotonic()

    def due(self) -> bool:
        """Count a call and say whether it is time."""
        self.count += 1
        return self.count >= self.calls or time.monotonic() - self.last >= self.seconds
