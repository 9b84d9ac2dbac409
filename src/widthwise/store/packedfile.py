"""The tensors of a file, packed: what is stored in their place, and back.

    stored, packed = pack_tensors({"fc.weight": w, "fc.bias": b}, "zeros")
    stored             # {"fc.weight.gaps": ..., "fc.weight.values": ..., "fc.bias": b}
    packed             # {"fc.weight": Packed("relative", ...)}, for the manifest
    unpack_tensors(stored, packed, path)

Parts are ordinary entries of the safetensors file, named after the tensor: nothing else of a module
goes by the name of a parameter and a dot, for torch allows no dots inside names. With "zstd" every
part that gets smaller is compressed and stored as bytes; nothing is believed of what a compressed
part says about its own size.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from types import ModuleType
from typing import Final, Literal, get_args

import torch
from torch import Tensor

from widthwise.errors import FileError
from widthwise.store.packing import INDEX_TYPES, MOST_TIMES, PARTS, Packed, Parts, pack, unpack
from widthwise.store.tensorfile import DTYPES

Pack = Literal["none", "zeros", "zstd"]
"""none: all numbers. zeros: tensors without their zeros, where that is smaller. zstd: the same, and
compressed."""

_LEVEL: Final = 3  # weights are noise: more effort gains nothing
_ENTRY: Final = 200  # bytes, besides twice the name, that a packed tensor adds to the header
_NOTED: Final = 48  # bytes, that a compressed part adds


def check(how: Pack) -> None:
    """Raise FileError for anything but a `Pack`, and for "zstd" without the package zstandard."""
    if how not in get_args(Pack):
        raise FileError(f"{how!r} is no way to pack; give one of {', '.join(get_args(Pack))}.")
    if how == "zstd":
        _zstandard()


def pack_tensors(
    tensors: Mapping[str, Tensor], how: Pack
) -> tuple[dict[str, Tensor], dict[str, Packed]]:
    """What to store in the place of these tensors, and how those that are packed are stored.

    Raises FileError for tensors without values, and as `check` does.
    """
    check(how)
    if how == "none":
        return dict(tensors), {}
    stored: dict[str, Tensor] = {}
    packed: dict[str, Packed] = {}
    for name, tensor in tensors.items():
        parts = {name: tensor}
        if tensor.is_meta:
            raise FileError(f"{name} has no values that could be packed; load the weights first.")
        if tensor.dtype in DTYPES:
            form, found = _packed(tensor, how, _ENTRY + 2 * len(name))
            if form is not None:
                packed[name], parts = form, {f"{name}.{part}": t for part, t in found.items()}
        if twice := parts.keys() & {*stored, *tensors} - {name}:
            raise FileError(f"{min(twice)} is also a part of the packed {name}; rename it.")
        stored |= parts
    return stored, packed


def unpack_tensors(
    stored: Mapping[str, Tensor], packed: Mapping[str, Packed], path: str | os.PathLike[str]
) -> dict[str, Tensor]:
    """The tensors that were packed. path: named in messages. Raises FileError."""
    tensors = dict(stored)
    for name, form in packed.items():
        try:
            parts = {part: tensors.pop(f"{name}.{part}") for part in PARTS[form.form]}
            if name in tensors:
                raise ValueError("it is there twice")
            tensors[name] = unpack(form, _expanded(form, parts))
        except KeyError as error:
            raise FileError(f"{path} lacks the part {error}; save it again.") from error
        except ValueError as error:
            raise FileError(
                f"{path} has a packed {name} that widthwise did not write ({error}); save it again."
            ) from error
    return tensors


def _packed(tensor: Tensor, how: Pack, cost: int) -> tuple[Packed | None, Parts]:
    """The smallest form of a tensor and its parts; None where all of it is nearly as small."""
    form, parts = pack(tensor, worth=cost)
    if how == "zstd":
        form, parts = _compressed(form, parts)
    if _bytes(parts) + cost > tensor.nbytes:
        return None, {}
    return form, parts


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
    return replace(form, zstd={n: parts[n].nbytes for n in parts if done[n] is not parts[n]}), done


def _expanded(form: Packed, parts: Parts) -> Parts:
    """The parts, not compressed. Raises ValueError, also where they are too small for the shape."""
    if not 0 < form.nbytes <= MOST_TIMES * _bytes(parts):
        raise ValueError("its shape is not one of so few bytes")
    return {name: _part(form, name, part) for name, part in parts.items()}


def _part(form: Packed, name: str, part: Tensor) -> Tensor:
    if name not in form.zstd:
        return part
    size, dtype = form.zstd[name], INDEX_TYPES.get(name, form.dtype)
    # No part has more than one item of at most eight bytes for each weight, or one more.
    if part.dtype != torch.uint8 or size % dtype.itemsize or not 0 < size <= 8 * (form.numel + 1):
        raise ValueError(f"its {name} cannot have been of {size} bytes")
    return _decompressed(part, size).view(dtype)


def _decompressed(part: Tensor, size: int) -> Tensor:
    """Exactly `size` bytes, whatever the compressed data promise. Raises ValueError, FileError."""
    zstandard = _zstandard()
    made = torch.empty(size, dtype=torch.uint8)
    left = made.numpy().data
    try:
        with zstandard.ZstdDecompressor().stream_reader(part.contiguous().numpy().data) as reader:
            while left and (count := reader.readinto(left)):
                left = left[count:]
            more = reader.read(1)
    except zstandard.ZstdError as error:
        raise ValueError(f"it cannot be decompressed: {error}") from error
    if left or more:
        raise ValueError("it has another size than was noted")
    return made


def _zstandard() -> ModuleType:
    try:
        import zstandard
    except ModuleNotFoundError as error:
        raise FileError(
            "Compressed files need the package zstandard, which is not installed; install it with: "
            "pip install 'widthwise[zstd]'"
        ) from error
    return zstandard
