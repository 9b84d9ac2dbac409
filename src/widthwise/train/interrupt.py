"""Ctrl-C in a training: heard between two steps, so that nothing half done is kept."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupt:
    """Whether the user pressed Ctrl-C; a second time, it is a KeyboardInterrupt at once."""

    def __init__(self) -> None:
        self.heard = False

    @contextmanager
    def listening(self, wanted: bool) -> Iterator[None]:
        """Hear Ctrl-C inside, where that is wanted and this is the main thread."""
        if not wanted or threading.current_thread() is not threading.main_thread():
            yield
            return

        def hear(number: int, frame: FrameType | None) -> None:
            self.heard = True
            signal.signal(signal.SIGINT, before)

        before = signal.signal(signal.SIGINT, hear)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
