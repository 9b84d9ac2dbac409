"""The bytes of a progressive file: a header, the manifest, and a shell for each level, in order.

    8 bytes    length of the header, little-endian
    header     {"__metadata__": {"progressive": digest, "widthwise": notes}, "widthwise": {...},
               "shell.0": {...}, "shell.1": {...}, ...}, filled up with spaces to a multiple of 8
    manifest   the entry `widthwise`: JSON as a raw DEFLATE stream (RFC 1951), filled up with zeros
    shells     shell.0, shell.1, ...: what each level adds to the one before

docs/format.md has it byte by byte. The digest is the SHA-256 of header and manifest with its own
digits as zeros; the manifest holds the shells' digests, so that each prefix is checked by itself.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import torch

from widthwise.common.atomic import write_whole
from widthwise.common.checks import need
from widthwise.common.jsonfile import parsed
from widthwise.errors import BudgetError, FileError
from widthwise.store.deflate import deflated, inflated
from widthwise.store.manifest import TORCH, NewerError, believed
from widthwise.store.packed.container import MOST
from widthwise.store.progressive.manifest import MOST_LEVELS, LevelTable
from widthwise.store.progressive.ranges import ByteSource
from widthwise.store.tensorfile import DTYPES
from widthwise.version import VERSION

FORMAT_VERSION: Final = 4
CODED_VERSION: Final = 5  # of a file with quantized weights, which readers of 4 do not know
MAX_HEADER: Final = 64 * 1024  # bytes; 255 levels need less than 24 kB
MOST_WORK: Final = 64 * 1024**2  # bytes of the manifest's JSON, times the levels
FIRST: Final = 2048  # bytes read at once; less than the files of small networks

_BEGIN: Final = b'{"__metadata__":{"progressive":"'
_ZEROS: Final = "0" * 64
_SUM: Final = slice(8 + len(_BEGIN), 8 + len(_BEGIN) + 64)  # where the digits are in the file
_MANIFEST: Final = "widthwise"
_TYPES: Final = {name: dtype for dtype, name in DTYPES.items()}


@dataclass(frozen=True)
class Start:
    """What stands before the shells: where each of them ends, in bytes of the file, and the levels.

    ends: of the manifest, then of each shell. ahead: what was read of the shells already.
    """

    ends: tuple[int, ...]
    table: LevelTable
    ahead: bytes


def progressive(start: bytes) -> bool:
    """Whether the first bytes of a file belong to a progressive one."""
    return start[8 : 8 + len(_BEGIN)] == _BEGIN


def write(path: str | os.PathLike[str], body: Mapping[str, Any], shells: Sequence[bytes]) -> Path:
    """Write the file, whole or not at all. Raises FileError.

    body: the manifest's JSON without checksums. shells: the bytes of each, as it says.
    """
    digests = [hashlib.sha256(shell).hexdigest() for shell in shells]
    try:
        whole = {**body, "sha256": digests}
        text = json.dumps(whole, separators=(",", ":"), allow_nan=False).encode()
    except (ValueError, TypeError) as error:
        raise FileError("A metric to store is not a number; leave it out.") from error
    if len(text) > min(MOST, MOST_WORK // len(shells)):
        raise FileError("The model has too many tensors for so many levels; give fewer.")
    manifest = _filled(deflated(text), b"\0")
    table = LevelTable.read(json.loads(text), TORCH, VERSION)
    sizes = [len(manifest), *map(len, shells)]
    start = _header(sizes, table, _ZEROS) + manifest
    digest = hashlib.sha256(start).hexdigest()
    start = start[: _SUM.start] + digest.encode() + start[_SUM.stop :]
    return write_whole(path, [start, *shells])


def read(source: ByteSource, most: int | None = None) -> Start:
    """What stands before the shells of a file, after checking it.

    most: bytes that may be read at all. Raises FileError, and BudgetError where they are too few.
    """
    name = source.name
    if most is not None and most < _SUM.stop:
        raise _too_few(source, most)
    first = source.read(0, FIRST if most is None else min(FIRST, most))
    if not progressive(first):
        raise FileError(
            f"{name} is not a progressive file that widthwise wrote, or its start is damaged; give "
            "one that save_progressive wrote."
        )
    length = int.from_bytes(first[:8], "little")
    broken = f"{name} is damaged or ends before its first network; copy or download it again."
    if not len(_BEGIN) + 64 <= length <= MAX_HEADER:
        raise FileError(broken)
    first = _longer(source, first, 8 + length, most)
    sizes, item, notes = _sizes(first[8 : 8 + length], name)
    if sizes[0] > MOST:
        raise FileError(broken)
    first = _longer(source, first, 8 + length + sizes[0], most)
    begin = 8 + length + sizes[0]
    digest = hashlib.sha256(first[: _SUM.start] + _ZEROS.encode() + first[_SUM.stop : begin])
    if digest.hexdigest().encode() != first[_SUM]:
        raise FileError(broken)
    table = believed(lambda: _table(notes, first[8 + length : begin], sizes[1:], item), name)
    ends = [8 + length]
    for size in sizes:
        ends.append(ends[-1] + size)
    return Start(tuple(ends[1:]), table, first[begin:])


def _longer(source: ByteSource, start: bytes, end: int, most: int | None) -> bytes:
    """The first bytes of a file, up to this end at least."""
    if most is not None and end > most:
        raise _too_few(source, most)
    if end > len(start):
        start += source.read(len(start), end)
    if len(start) < end:
        raise FileError(f"{source.name} ends before its first network; copy or download it again.")
    return start


def _too_few(source: ByteSource, most: int) -> BudgetError:
    return BudgetError(
        f"No network of {source.name} fits in {most} bytes; its header alone takes more."
    )


def _filled(data: bytes, by: bytes) -> bytes:
    return data + by * (-len(data) % 8)


def _item(table: LevelTable) -> torch.dtype:
    """The type of the shells' entries: all tensors' type, or bytes where there are several, or
    codes."""
    types = {entry.dtype for entry in table.entries.values()}
    return types.pop() if len(types) == 1 and not table.coded else torch.uint8


def _version(table: LevelTable) -> int:
    return CODED_VERSION if table.coded else FORMAT_VERSION


def _header(sizes: Sequence[int], table: LevelTable, digest: str) -> bytes:
    item = _item(table)
    notes = json.dumps([_version(table), TORCH, VERSION], separators=(",", ":"))
    entries: dict[str, Any] = {"__metadata__": {"progressive": digest, "widthwise": notes}}
    offset = 0
    for number, size in enumerate(sizes):
        dtype = item if number else torch.uint8
        entries[f"shell.{number - 1}" if number else _MANIFEST] = {
            "dtype": DTYPES[dtype],
            "shape": [size // dtype.itemsize],
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = _filled(json.dumps(entries, separators=(",", ":")).encode(), b" ")
    return len(text).to_bytes(8, "little") + text


def _sizes(header: bytes, name: str) -> tuple[list[int], str, str]:
    """The bytes of the manifest and of each shell, the type of shells, and the notes."""
    return believed(lambda: _parsed(header), name)


def _parsed(header: bytes) -> tuple[list[int], str, str]:
    entries = parsed(header)
    metadata = entries.pop("__metadata__")
    need({*metadata} == {"progressive", _MANIFEST}, "it has other notes")
    notes = metadata[_MANIFEST]
    count = len(entries) - 1
    names = [_MANIFEST, *(f"shell.{k}" for k in range(count))]
    need({*names} == {*entries} and 1 <= count <= MOST_LEVELS, "it has other entries than shells")
    need(isinstance(notes, str), "it has no notes")
    offsets = [entries[n]["data_offsets"] for n in names]
    right = all(
        isinstance(o, list) and len(o) == 2 and all(type(n) is int for n in o) for o in offsets
    )
    need(right and offsets[0][0] == 0, "its offsets are no numbers")
    need(all(a[1] == b[0] for a, b in pairwise(offsets)), "its shells do not follow each other")
    sizes = [end - begin for begin, end in offsets]
    need(min(sizes) >= 0 and offsets[-1][1] < 2**63, "an entry has no size")
    types = {entries[n]["dtype"] for n in names[1:]}
    need(len(types) == 1 and entries[_MANIFEST]["dtype"] == "U8", "its shells are of other types")
    item = types.pop()
    need(isinstance(item, str), "its shells have no type")
    size = _TYPES[item].itemsize
    shapes = [[n // (size if k else 1)] for k, n in enumerate(sizes)]
    need([entries[n]["shape"] for n in names] == shapes, "an entry has another shape")
    members = {"dtype", "shape", "data_offsets"}
    need(all({*entries[n]} == members for n in names), "an entry has other members")
    return sizes, item, notes


def _table(notes: str, stream: bytes, sizes: Sequence[int], item: str) -> LevelTable:
    said = parsed(notes)
    need(isinstance(said, list) and len(said) == 3, "other notes")
    need(type(said[0]) is int and said[0] >= FORMAT_VERSION, "no version")
    if said[0] > CODED_VERSION:
        raise NewerError
    need(all(isinstance(word, str) for word in said[1:]), "no versions")
    text = inflated(stream, min(MOST, MOST_WORK // len(sizes)), filled=7)
    table = LevelTable.read(parsed(text), said[1], said[2])
    need(said[0] == _version(table), "it is of another version")
    need(len(table) == len(sizes), "it has more or fewer shells than levels")
    need(DTYPES[_item(table)] == item, "its shells are of another type")
    need(table.sizes() == list(sizes), "a shell is of another size")
    return table
