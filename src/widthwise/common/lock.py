"""Keeping other processes out of a folder, by locks that go with their process.

    with held(folder, ".lock"):        # another process meets a RunError
        ...

A lock is on a file that is there for it alone and that stays; nothing is ever left behind to be
cleared by hand. Some network file systems have no locks. Nobody is kept out there, since no run
should fail for that.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import lock_descriptor

from widthwise.errors import RunError


@contextmanager
def held(folder: Path, name: str) -> Iterator[None]:
    """Hold a folder, made if need be, against other processes; they meet a RunError.

    name: of the file in it that is locked (`is_lock`), so that a command and the training inside
        it can each hold the folder.

    Raises RunError when another process holds it, or when it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = open_lock(folder / name)
    except OSError as error:
        raise RunError(
            f"{folder} cannot be used as a run folder ({error.strerror or error}); give another."
        ) from error
    try:
        if locked(handle) is False:
            raise RunError(
                f"{folder} is in use by another widthwise process; wait until it is done, or give "
                "another folder."
            )
        yield
    finally:
        os.close(handle)


def is_lock(name: str) -> bool:
    """Whether a file of this name is one that is there to be locked."""
    return name.startswith(".") and name.endswith(".lock")


def open_lock(path: Path) -> int:
    """A file to lock, made if need be; `os.close` unlocks it. Raises OSError."""
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)


def locked(handle: int) -> bool | None:
    """Lock an open file until it is closed, or the process ends, whichever way.

    Returns False where another process has it, None where there are no locks.
    """
    try:
        return lock_descriptor(handle, blocking=False)
    except OSError:
        return None
