"""Shells of quantized weights: what a level adds, as codes with scales of its own.

    data = encode(kept, wide, below, 8)            # of what `wide` keeps and `below` does not
    decode(data, wide, below, 8, torch.float32)    # these entries, in the order of `deltas.shells`
    size(wide, below, 8, torch.float32)            # its bytes, without making it

What a level adds to a matrix (first dim, all others) are two matrices: in the rows that are there
already, the columns that are new; and the rows that are new. Each has a scale and a zero point for
every row, so that a level never changes what the levels below it keep.
"""

from __future__ import annotations

import math
from functools import reduce

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from widthwise.formats import Uniform
from widthwise.quantization.quantize import uniform
from widthwise.store.packed.coding import Coded, in_bits
from widthwise.store.packed.coding import decode as decoded
from widthwise.store.packed.forms import Parts
from widthwise.store.progressive import deltas
from widthwise.store.progressive.deltas import Layouts

Marks = NDArray[np.bool_]


def encode(kept: Tensor, wide: Layouts, below: Layouts | None, bits: int) -> bytes:
    """The bytes of a shell. kept: all that `wide` keeps of a tensor of two dims or more.

    Raises QuantizationError for weights that are not finite.
    """
    matrix = kept.detach().cpu().reshape(kept.shape[0], -1)
    rows, columns = _marks(wide, below)
    found = []
    for some in (matrix[rows][:, ~columns], matrix[~rows]):
        if some.numel():
            coded, parts = in_bits(uniform(some, Uniform(bits)))
            found += [parts[name].numpy().tobytes() for name in coded.stored]
    return b"".join(found)


def decode(
    data: bytes, wide: Layouts, below: Layouts | None, bits: int, dtype: torch.dtype
) -> Tensor:
    """What a shell holds, of one dim and this type, in the order of `deltas.shells`.

    Raises ValueError for what is no shell of such a size.
    """
    rows, columns = _marks(wide, below)
    matrix = torch.zeros(rows.size, columns.size, dtype=dtype)
    at = 0
    places = ((rows, ~columns), (~rows, np.ones_like(columns)))
    for (some, others), coded in zip(places, _coded(wide, below, bits, dtype), strict=True):
        if coded is None:
            continue
        parts: Parts = {}
        for name, (kind, count) in coded.stored.items():
            piece = data[at : at + count * kind.itemsize]
            parts[name] = torch.frombuffer(bytearray(piece), dtype=kind)
            at += len(piece)
        matrix[np.ix_(some, others)] = decoded(coded, parts).dense()
    return matrix.reshape(-1)[torch.from_numpy(~np.logical_and.outer(rows, columns).reshape(-1))]


def size(wide: Layouts, below: Layouts | None, bits: int, dtype: torch.dtype) -> int:
    """Bytes of a shell."""
    every = (coded for coded in _coded(wide, below, bits, dtype) if coded is not None)
    return sum(kind.itemsize * n for coded in every for kind, n in coded.stored.values())


def _coded(
    wide: Layouts, below: Layouts | None, bits: int, dtype: torch.dtype
) -> list[Coded | None]:
    """How both matrices are stored; None for one without entries."""
    rows, columns = _shape(wide)
    old_rows, old_columns = (0, 0) if below is None else _shape(below)
    return [
        Coded(Uniform(bits), "dense", shape, dtype, math.prod(shape)) if all(shape) else None
        for shape in ((old_rows, columns - old_columns), (rows - old_rows, columns))
    ]


def _shape(layouts: Layouts) -> tuple[int, int]:
    rows, *others = deltas.shape(layouts)
    return rows, math.prod(others)


def _marks(wide: Layouts, below: Layouts | None) -> tuple[Marks, Marks]:
    """Which of the rows that `wide` keeps `below` keeps too, and which of the columns."""
    if below is None:
        rows, columns = _shape(wide)
        return np.zeros(rows, np.bool_), np.zeros(columns, np.bool_)
    first, *others = deltas.marks(wide, below)
    return first, reduce(np.logical_and.outer, others).reshape(-1)
