"""Keeping other processes out of a run folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from widthwise.errors import RunError


@contextmanager
def held(folder: Path, file: str | None = None) -> Iterator[None]:
    """Hold a run folder, made if need be, against other processes; they meet a RunError.

    The lock goes with the process, so nothing is ever left behind to be cleared by hand.
    file: lock a file of this name in the folder rather than the folder itself, so that a command
        and the training inside it can each hold the folder.

    Raises RunError when another process holds it, or when it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = _opened(folder, file)
    except OSError as error:
        raise RunError(
            f"{folder} cannot be used as a run folder ({error.strerror or error}); give another."
        ) from error
    try:
        _lock(handle, folder)
        yield
    finally:
        if handle is not None:
            os.close(handle)


def _opened(folder: Path, file: str | None) -> int | None:
    if sys.platform == "win32":  # has no locks that go with the process
        return None
    if file is None:
        return os.open(folder, os.O_RDONLY)
    return os.open(folder / file, os.O_RDWR | os.O_CREAT, 0o644)


def _lock(handle: int | None, folder: Path) -> None:
    # Some network file systems have no locks, and no run should fail for that.
    if handle is not None and locked(handle) is False:
        raise RunError(
            f"{folder} is in use by another widthwise process; wait until it is done, or give "
            "another folder."
        )


def locked(handle: int) -> bool | None:
    """Lock an open file or folder until it is closed, or the process ends, whichever way.

    Returns False where another process has it, None where there are no locks.
    """
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
