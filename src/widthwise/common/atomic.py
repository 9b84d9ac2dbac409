"""Files appear whole or not at all: written beside their place, synced, then renamed.

    write_whole(path, [b"..."])             # a file of these bytes
    with beside(path) as made:              # a file that something else writes, and that
        ...                                 # is looked at before it takes its place

Both are made in a folder beside their place, with a lock in it that goes with the process. What a
killed process left is taken away by the next one that writes this file, or holds the run folder: it
is known by its name, and by its lock, which nobody holds.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from widthwise.common.lock import locked, open_lock
from widthwise.errors import FileError

Chunk = bytes | bytearray | memoryview
_PART: Final = re.compile(r"\.(?P<file>.+)\.[0-9a-f]{12}\.part")
_LOCK: Final = ".lock"  # in such a folder


def write_whole(
    path: str | os.PathLike[str],
    chunks: Iterable[Chunk],
    last: Callable[[], tuple[int, bytes]] | None = None,
) -> Path:
    """Write the chunks, one after another, as the file at `path`, replacing what was there.

    last: called after the chunks, for (offset, bytes) to write over what is there: a checksum, say.

    Raises FileError when that cannot be done (folder missing, disk full, ...); the file that was
    there before is then untouched and nothing is left over.
    """
    path = Path(path)
    with atomic_replace(path) as made, made.open("xb") as file:
        for chunk in chunks:
            file.write(chunk)
        if last is not None:
            offset, data = last()
            file.seek(offset)
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return path


@contextmanager
def atomic_replace(path: Path) -> Iterator[Path]:
    """A name for a file to be made and looked at, which then takes the place of `path`.

    Where an error is raised inside, what was at `path` stays, and nothing is left over. Raises
    FileError for an OSError, inside too.
    """
    with _named(path):
        tidy(path.parent, path.name)
        folder, handle = _new_folder(path)
        try:
            made = folder / path.name
            yield made
            made.replace(path)
            _sync_folder(path.parent)
        finally:
            _remove(folder, handle)


def left_over(name: str) -> bool:
    """Whether a file or folder of this name is one that was to take the place of another."""
    return _PART.fullmatch(name) is not None


def tidy(folder: Path, name: str | None = None) -> None:
    """Take away what processes that are no more left in a folder, or beside one file of it."""
    with suppress(OSError):
        for found in folder.iterdir():
            match = _PART.fullmatch(found.name)
            # A link would lead to a folder of somebody else.
            if match and name in (None, match["file"]) and not found.is_symlink():
                with suppress(OSError):
                    _remove_if_left(found)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FileError(
            f"{path} could not be written ({error.strerror or error}); free some space there or "
            "give another place."
        ) from error


def _new_folder(path: Path) -> tuple[Path, int]:
    """A new folder beside `path`, locked by the handle."""
    while True:
        part = path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")
        part.mkdir()
        try:
            handle = open_lock(part / _LOCK)
        except FileNotFoundError:
            continue  # taken for left over before it was locked
        if locked(handle) is not False and (part / _LOCK).exists():
            return part, handle
        os.close(handle)


def _remove_if_left(part: Path) -> None:
    handle = open_lock(part / _LOCK)
    if locked(handle):
        _remove(part, handle)
    else:
        os.close(handle)


def _remove(part: Path, handle: int) -> None:
    """Remove a folder whose lock is held by the handle."""
    shutil.rmtree(part, ignore_errors=True)  # all of it while it is locked, but for Windows' lock
    os.close(handle)
    with suppress(OSError):
        (part / _LOCK).unlink(missing_ok=True)
        part.rmdir()


def _sync_folder(folder: Path) -> None:
    """Make the rename itself last through a power cut, where the system can do that."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
