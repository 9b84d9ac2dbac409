"""How stored tensors are described in a manifest, as JSON, and read back.

    description(packed)     # {"form": "relative", "shape": [4, 9], "dtype": "F32", "numbers": ...}
    description(coded)      # {"form": "dense", ..., "bits": 4, "huffman": 2, "numbers": [17]}
    packed_as(...), coded_as(...)

`numbers` are what the rest does not imply, in this order: how many values or codes there are (not
where the form is dense), the bytes of the gaps beyond half a byte for each of these (where it is
relative), the bytes of the Huffman codes (where there are any) and of each part that is compressed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from widthwise.common.checks import need
from widthwise.formats import Codebook, Format, Uniform
from widthwise.store.packed.coding import Coded
from widthwise.store.packed.forms import FORMS, PARTS, Packed
from widthwise.store.tensorfile import DTYPES

_MOST_DIMS = 64  # as in torch
_TYPES = {name: dtype for dtype, name in DTYPES.items()}
_TENSOR = ("form", "shape", "dtype", "numbers")


def description(stored: Packed | Coded) -> dict[str, Any]:
    """The entry of a tensor, in which only what differs from the usual is named."""
    numbers = [stored.count] if stored.form != "dense" else []
    numbers += [stored.gaps - -(-stored.count // 2)] if stored.form == "relative" else []
    how: dict[str, Any] = {}
    if isinstance(stored, Packed):
        if stored.zstd:
            how = {"zstd": list(stored.zstd)}
        numbers += stored.zstd.values()
    else:
        how = _format(stored.format)
        if stored.huffman:
            how["huffman"] = stored.huffman
            numbers.append(stored.stream)
    return {
        "form": stored.form,
        "shape": list(stored.shape),
        "dtype": DTYPES[stored.dtype],
        **how,
        "numbers": numbers,
    }


def packed_as(data: Any) -> Packed:
    """What `description` said. Raises ValueError, TypeError and KeyError for anything else."""
    shape, count, gaps, numbers = _tensor(data)
    need(data.keys() <= {*_TENSOR, "zstd"}, "a packed tensor has other entries")
    names = data.get("zstd", [])
    need(isinstance(names, list) and {*names} <= {*PARTS[data["form"]]}, "it has other parts")
    zstd = dict(zip(names, numbers, strict=True))
    need(len(zstd) == len(names), "it has a part twice")
    return Packed(data["form"], shape, _TYPES[data["dtype"]], count, gaps, zstd)


def coded_as(data: Any) -> Coded:
    """What `description` said. Raises ValueError, TypeError and KeyError for anything else."""
    shape, count, gaps, numbers = _tensor(data)
    how = {name: value for name, value in data.items() if name not in _TENSOR}
    huffman = how.pop("huffman", 0)
    need(type(huffman) is int, "its symbols are not counted")
    need(len(numbers) == bool(huffman), "it has more or fewer numbers")
    found: Format = Codebook(**how) if "values" in how else Uniform(**({"bits": None} | how))
    dtype, stream = _TYPES[data["dtype"]], sum(numbers)
    return Coded(found, data["form"], shape, dtype, count, gaps, huffman, stream)


def _format(form: Format) -> dict[str, Any]:
    if isinstance(form, Codebook):
        return {"values": form.values}
    usual = {f.name: f.default for f in fields(Uniform)} | {"bits": None}
    how = {name: value for name, value in asdict(form).items() if value != usual[name]}
    if form.per != "group":
        how.pop("group", None)
    return how


def _tensor(data: Mapping[str, Any]) -> tuple[tuple[int, ...], int, int, list[int]]:
    """Shape, count and gaps of a tensor, and the numbers that are left."""
    need(isinstance(data, dict), "a table is missing")
    need(data["form"] in FORMS, "a stored tensor has no form")
    need(isinstance(data["dtype"], str) and data["dtype"] in _TYPES, "a tensor has no type")
    shape, numbers = tuple(_counts(data["shape"])), _counts(data["numbers"])
    need(len(shape) <= _MOST_DIMS, "a stored tensor has too many dims")
    known = {"dense": 0, "relative": 2}.get(data["form"], 1)
    need(len(numbers) >= known, "a stored tensor has too few numbers")
    count = numbers[0] if known else math.prod(shape)
    gaps = -(-count // 2) + numbers[1] if known == 2 else 0
    return shape, count, gaps, numbers[known:]


def _counts(value: Any) -> list[int]:
    right = isinstance(value, list) and all(type(v) is int and v >= 0 for v in value)
    need(right, "a size is not a whole number")
    return list(value)
