"""Packed files: the parts of all tensors and a compressed manifest, in few bytes besides.

    write(path, manifest, parts)            # parts: {"fc.weight": {"codes": ..., "scales": ...}}
    manifest, parts = read(*tensorfile.read(path), path)

Files of version 2 (packed tensors) and 3 (quantized ones among them). To a safetensors reader they
hold one entry, `widthwise`, of type U8 and one dim, and a text of the same name beside `sha256`:

    8 bytes    length of the header, little-endian
    header     {"__metadata__": {"sha256": ..., "widthwise": notes}, "widthwise": {...}}
               notes are JSON, [version, metric, torch, widthwise], where the metric is null or
               [name, value, split], filled up with spaces to 96 bytes of the header
    the entry
      4 bytes  length of the manifest in bytes, little-endian
      manifest JSON as in folding.py, as a raw DEFLATE stream (RFC 1951)
      parts    of all tensors one after another, without gaps, little-endian: tensors ordered by
               name (Unicode code points), the parts of each by theirs

The size of every part follows from the manifest (`Packed.stored`, `Coded.stored`), and together
they fill the entry. Nothing is made of a part before that is known.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from widthwise.common.checks import need
from widthwise.common.jsonfile import parsed, too_many
from widthwise.errors import FileError
from widthwise.store import tensorfile
from widthwise.store.deflate import deflated, inflated
from widthwise.store.manifest import Manifest, from_notes, to_body, to_notes
from widthwise.store.packed.coding import Coded
from widthwise.store.packed.forms import Packed, Parts
from widthwise.store.packed.manifest_codec import MOST_TENSORS, folded, unfolded

MOST: Final = 4 * 1024**2  # bytes of a manifest's JSON; as many tensors as may be need less

_NAME: Final = "widthwise"
_LENGTH: Final = 4  # bytes
_U8: Final = torch.uint8


def size(manifest: Manifest) -> int:
    """Bytes of the file that `write` makes."""
    count = _LENGTH + len(encoded(manifest)) + sum(n for *_, n in _layout(manifest))
    entry = torch.empty(count, dtype=torch.uint8, device="meta")
    return tensorfile.size({_NAME: entry}, to_notes(manifest))


def write(path: str | os.PathLike[str], manifest: Manifest, parts: Mapping[str, Parts]) -> Path:
    """Write the file, whole or not at all. Raises FileError.

    parts: by name and part, each of one dim and as large as the manifest says.
    """
    text = encoded(manifest)
    pieces = [parts[name][part] for name, part, _, _ in _layout(manifest)]
    start = torch.frombuffer(bytearray(len(text).to_bytes(_LENGTH, "little") + text), dtype=_U8)
    entry = torch.cat([start, *map(_bytes, pieces)])
    return tensorfile.write(path, {_NAME: entry}, to_notes(manifest))


def packed(text: str) -> bool:
    """Whether the text beside the tensors of a file is a packed one's."""
    return text.startswith("[")


def read(
    tensors: Mapping[str, Tensor], notes: str, path: str | os.PathLike[str]
) -> tuple[Manifest, dict[str, Parts]]:
    """The manifest and the parts of a packed file, by name. path: named in messages.

    tensors, notes: as `tensorfile.read` gives them. Raises FileError.
    """
    entry = tensors.get(_NAME, torch.empty(()))
    if len(tensors) != 1 or entry.dtype != _U8 or entry.dim() != 1:
        raise FileError(f"{path} holds other tensors than packed ones; save it again.")
    length = int.from_bytes(entry[:_LENGTH].numpy().tobytes(), "little")
    stream = entry[_LENGTH : _LENGTH + length]
    manifest = from_notes(notes, lambda: unfolded(_manifest(stream, length)), str(path))
    layout, at = _layout(manifest), _LENGTH + length
    if at + sum(size for *_, size in layout) != len(entry):
        raise FileError(
            f"{path} holds more or fewer bytes than its manifest says; save or copy it again."
        )
    parts: dict[str, Parts] = {}
    for name, part, dtype, count in layout:
        # Copies: they start at multiples of their items, and do not keep the whole file in memory.
        parts.setdefault(name, {})[part] = entry[at : at + count].clone().view(dtype)
        at += count
    return manifest, parts


def _bytes(part: Tensor) -> Tensor:
    # Tensors of numpy's empty arrays have strides of zero, which `view` refuses.
    return part.contiguous().as_strided((len(part),), (1,)).view(_U8)


def _layout(manifest: Manifest) -> list[tuple[str, str, torch.dtype, int]]:
    """Tensor, part, type and bytes of all that is stored, in the order of the file."""
    stored: dict[str, Packed | Coded] = {**manifest.packed, **manifest.coded}
    return [
        (name, part, dtype, items * dtype.itemsize)
        for name in sorted(stored)
        for part, (dtype, items) in sorted(stored[name].stored.items())
    ]


def encoded(manifest: Manifest) -> bytes:
    """The bytes of a manifest in the file. Raises FileError."""
    short = folded(to_body(manifest))
    said = json.dumps(short, separators=(",", ":"), allow_nan=False)
    text = said.encode()
    count = len(manifest.packed) + len(manifest.coded)
    if len(text) > MOST or too_many(said) or count > MOST_TENSORS:
        raise FileError("The model has too many tensors for one packed file; split it.")
    return deflated(text)


def _manifest(stream: Tensor, length: int) -> Any:
    """The manifest's JSON. Raises ValueError for any but one stream of this length."""
    need(len(stream) == length, "it is not as long as was noted")
    return parsed(inflated(stream.numpy().tobytes(), MOST))
