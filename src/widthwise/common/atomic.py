"""Files appear whole or not at all: written beside their place, synced, then renamed.

    write_whole(path, [b"..."])             # a file of these bytes
    with beside(path) as made:              # a file that something else writes, and that
        ...                                 # is looked at before it takes its place

What a killed process left beside a file is taken away by the next one that writes this file, or
holds the run folder. It is known by its name, and by a lock that went with its process.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from widthwise.common.lock import locked
from widthwise.errors import FileError

Chunk = bytes | bytearray | memoryview
_PART = re.compile(r"\.(?P<file>.+)\.[0-9a-f]{12}\.part")


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
    with _named(path):
        tidy(path.parent, path.name)
        part, file = _new_file(path)
        try:
            with file:
                _write(file, chunks, last)
                if sys.platform == "win32":
                    file.close()  # or it could not be renamed
                part.replace(path)  # while it is locked, so that nobody takes it for left over
        except BaseException:
            with suppress(OSError):
                part.unlink()
            raise
        _sync_folder(path.parent)
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
            shutil.rmtree(folder, ignore_errors=True)
            if handle is not None:
                os.close(handle)


def left_over(name: str) -> bool:
    """Whether a file or folder of this name is one that was to take the place of another."""
    return _PART.fullmatch(name) is not None


def tidy(folder: Path, name: str | None = None) -> None:
    """Take away what processes that are no more left in a folder, or beside one file of it."""
    if sys.platform == "win32":  # has no locks that would tell them from others
        return
    with suppress(OSError):
        for found in folder.iterdir():
            match = _PART.fullmatch(found.name)
            if match and name in (None, match["file"]):
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


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")


def _new_file(path: Path) -> tuple[Path, BinaryIO]:
    """A new file beside `path`, locked."""
    while True:
        part = _part(path)
        # "x" refuses to follow what another process may have put there.
        file = part.open("xb")
        locked(file.fileno())
        if part.exists():
            return part, file
        file.close()  # taken for left over before it was locked


def _new_folder(path: Path) -> tuple[Path, int | None]:
    """A new folder beside `path`, locked by the handle."""
    while True:
        part = _part(path)
        part.mkdir()
        try:
            handle = None if sys.platform == "win32" else os.open(part, os.O_RDONLY)
        except FileNotFoundError:
            continue
        if handle is not None:
            locked(handle)
        if part.exists():
            return part, handle
        if handle is not None:
            os.close(handle)


def _remove_if_left(part: Path) -> None:
    with suppress(OSError):
        handle = os.open(part, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            if locked(handle):
                shutil.rmtree(part) if part.is_dir() else part.unlink()
        finally:
            os.close(handle)


def _write(
    file: BinaryIO, chunks: Iterable[Chunk], last: Callable[[], tuple[int, bytes]] | None
) -> None:
    for chunk in chunks:
        file.write(chunk)
    if last is not None:
        offset, data = last()
        file.seek(offset)
        file.write(data)
    file.flush()
    os.fsync(file.fileno())


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
