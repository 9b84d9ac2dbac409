"""Time that a training has taken, over all the processes that went on with it."""

from __future__ import annotations

import time


class Clock:
    """Runs from when it is made.

    Args:
        wall: seconds that had passed before.
        processor: seconds of this process's time, on all its threads, that had passed before.
    """

    def __init__(self, wall: float = 0.0, processor: float = 0.0) -> None:
        self._wall, self._processor = time.monotonic() - wall, time.process_time() - processor

    @property
    def wall(self) -> float:
        """Seconds that have passed."""
        return time.monotonic() - self._wall

    @property
    def processor(self) -> float:
        """Seconds of processor time that have passed."""
        return time.process_time() - self._processor
