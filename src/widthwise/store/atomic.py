"""Files appear whole or not at all: written beside their place, synced, then renamed."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from widthwise.errors import FileError

Chunk = bytes | bytearray | memoryview


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
    beside = path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")
    try:
        try:
            _write(beside, chunks, last)
            beside.replace(path)
        except BaseException:
            with suppress(OSError):
                beside.unlink()
            raise
        _sync_folder(path.parent)
    except OSError as error:
        raise FileError(
            f"{path} could not be written ({error.strerror or error}); free some space there or "
            "give another place."
        ) from error
    return path


def _write(
    path: Path, chunks: Iterable[Chunk], last: Callable[[], tuple[int, bytes]] | None
) -> None:
    # "x" refuses to follow what another process may have put there.
    with path.open("xb") as file:
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
