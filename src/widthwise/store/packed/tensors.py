"""The tensors of a file, packed: what is stored of them, and back.

    packed = pack_tensors({"fc.weight": w, "fc.bias": b}, "zeros")
    packed             # {"fc.weight": (Packed("relative", ...), {"gaps": ..., "values": ...})}
    unpack_tensors({"fc.weight": form}, {"fc.weight": parts}, path)

With "zstd" every part that gets smaller is compressed and stored as bytes; nothing is believed of
what a compressed part says about its own size.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from types import ModuleType
from typing import Final, Literal, get_args

import torch
from torch import Tensor

from widthwise.common.messages import lacking
from widthwise.errors import FileError
from widthwise.store.packed.forms import MOST_TIMES, PARTS, Packed, Parts, pack, unpack
from widthwise.store.tensorfile import DTYPES

Pack = Literal["none", "zeros", "zstd"]
"""none: all numbers. zeros: tensors without their zeros, where that is smaller. zstd: the same, and
compressed."""

_LEVEL: Final = 3  # weights are noise: more effort gains nothing
_WINDOW: Final = 2**23  # bytes that a frame may ask for, or as many as it becomes
_NOTED: Final = 10  # bytes of the manifest that a packed tensor adds, and each compressed part


def check(how: Pack) -> None:
    """Raise FileError for anything but a `Pack`, and for "zstd" without the package zstandard."""
    if how not in get_args(Pack):
        raise FileError(f"{how!r} is no way to pack; give one of {', '.join(get_args(Pack))}.")
    if how == "zstd":
        _zstandard()


def pack_tensors(tensors: Mapping[str, Tensor], how: Pack) -> dict[str, tuple[Packed, Parts]]:
    """The tensors that are smaller packed: how each is stored, and its parts.

    Raises FileError for tensors without values, and as `check` does.
    """
    check(how)
    if how == "none":
        return {}
    found: dict[str, tuple[Packed, Parts]] = {}
    for name, tensor in tensors.items():
        _storable(name, tensor)
        form, parts = pack(tensor, worth=_NOTED)
        if how == "zstd":
            form, parts = _compressed(form, parts)
        if _bytes(parts) + _NOTED <= tensor.nbytes:
            found[name] = form, parts
    return found


def as_they_are(tensors: Mapping[str, Tensor]) -> dict[str, tuple[Packed, Parts]]:
    """Tensors of a packed file that are stored with all their numbers.

    Raises FileError for tensors without values and for odd types.
    """
    for name, tensor in tensors.items():
        _storable(name, tensor)
    return {name: pack(tensor, form="dense") for name, tensor in tensors.items()}


def unpack_tensors(
    packed: Mapping[str, Packed], stored: Mapping[str, Parts], path: str | os.PathLike[str]
) -> dict[str, Tensor]:
    """The tensors that were packed. path: named in messages. Raises FileError."""
    tensors: dict[str, Tensor] = {}
    for name, form in packed.items():
        try:
            parts = {part: stored[name][part] for part in PARTS[form.form]}
            tensors[name] = unpack(form, _expanded(form, parts))
        except KeyError as error:
            raise FileError(f"{path} lacks a part of {name} ({error}); save it again.") from error
        except ValueError as error:
            raise FileError(
                f"{path} has a packed {name} that widthwise did not write ({error}); save it again."
            ) from error
    return tensors


def _storable(name: str, tensor: Tensor) -> None:
    if tensor.is_meta:
        raise FileError(f"{name} has no values that could be packed; load the weights first.")
    if tensor.dtype not in DTYPES:
        raise FileError(f"{name} of type {tensor.dtype} cannot be stored; convert it first.")


def _bytes(parts: Parts) -> int:
    return sum(part.nbytes for part in parts.values())


def _compressed(form: Packed, parts: Parts) -> tuple[Packed, Parts]:
    """The same with those parts compressed that are smaller then."""
    compressor = _zstandard().ZstdCompressor(level=_LEVEL)
    done = dict(parts)
    for name, part in parts.items():
        data = compressor.compress(part.view(torch.uint8).numpy().data) if part.nbytes else b""
        if len(data) + _NOTED < part.nbytes:
            done[name] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    if form.nbytes > MOST_TIMES * _bytes(done):
        return form, parts
    return replace(form, zstd={n: done[n].nbytes for n in parts if done[n] is not parts[n]}), done


def _expanded(form: Packed, parts: Parts) -> Parts:
    """The parts, not compressed. Raises ValueError, also where they are too small for the shape."""
    if form.form == "dense" and not form.zstd:
        return parts
    if not 0 < form.nbytes <= MOST_TIMES * _bytes(parts):
        raise ValueError("its shape is not one of so few bytes")
    return {name: _part(form, name, part) for name, part in parts.items()}


def _part(form: Packed, name: str, part: Tensor) -> Tensor:
    if name not in form.zstd:
        return part
    if part.dtype != torch.uint8:
        raise ValueError(f"its {name} are not compressed")
    dtype, items = form.parts[name]
    return _decompressed(part, items * dtype.itemsize).view(dtype)


def _decompressed(part: Tensor, size: int) -> Tensor:
    """Exactly `size` bytes, whatever the compressed data promise. Raises ValueError, FileError."""
    zstandard = _zstandard()
    made = torch.empty(size, dtype=torch.uint8)
    left = made.numpy().data
    reader = zstandard.ZstdDecompressor(max_window_size=min(max(_WINDOW, size), 2**31))
    try:
        with reader.stream_reader(part.contiguous().numpy().data) as stream:
            while left and (count := stream.readinto(left)):
                left = left[count:]
            more = stream.read(1)
    except zstandard.ZstdError as error:
        raise ValueError(f"it cannot be decompressed: {error}") from error
    if left or more:
        raise ValueError("it has another size than was noted")
    return made


def _zstandard() -> ModuleType:
    try:
        import zstandard
    except ModuleNotFoundError as error:
        raise FileError(lacking("zstandard", "A compressed file")) from error
    return zstandard
