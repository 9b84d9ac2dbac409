"""What comparison tests run in other processes: importable there."""

import os
import signal
import time
from pathlib import Path


def square(number: int) -> int:
    return number * number


def refuse(number: int) -> int:
    from widthwise.errors import DataError

    raise DataError(f"No data for {number}; get some.")


def dies_once(place: str, number: int) -> int:
    """Is killed the first time that it runs for a number, as by the kernel for want of memory."""
    mark = Path(place) / str(number)
    if number == 2 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def always_dies(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


def reach() -> tuple[int, object]:
    return os.getpgrp(), signal.getsignal(signal.SIGINT)


def sleeps(seconds: float) -> float:
    time.sleep(seconds)
    return seconds
