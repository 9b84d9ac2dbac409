"""Shells: a tensor taken apart into what each level adds to the one below, and back.

    parts = shells(weight, levels)         # as many 1-D tensors as there are levels
    assemble(parts[:3], levels[:3])        # what the third level keeps of the weight, bit for bit

levels: for each level, from narrow to wide, the layouts of all dims of the tensor
(graph/slicing.py), each of which keeps all that the one before keeps. Shell k holds the entries
that level k keeps and level k-1 does not, in the row-major order of the tensor; shell 0 all that
level 0 keeps. What is kept of a dim need not be its first entries: heads of some size, the gates
of an LSTM and what is laid end to end keep the first of each.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import reduce
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from widthwise.graph.slicing import Layout, part, positions

Layouts = tuple[Layout, ...]
"""What is kept of each dim of a tensor."""

_BITS: Final = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by item size


def shape(layouts: Layouts) -> tuple[int, ...]:
    """The shape of what is kept of a tensor."""
    return tuple(_kept(spec) for spec in layouts)


def full_shape(layouts: Layouts) -> tuple[int, ...]:
    """The shape of the tensor that some is kept of."""
    return tuple(math.prod(full for full, _ in spec) for spec in layouts)


def shells(tensor: Tensor, levels: Sequence[Layouts]) -> list[Tensor]:
    """A tensor at full size as shells, each of one dim and of its type, on the CPU."""
    whole = tensor.detach().cpu()
    found: list[Tensor] = []
    below: Layouts | None = None
    for layouts in levels:
        kept = part(whole, tuple(enumerate(layouts))).reshape(-1)
        if below is not None:
            kept = _as(kept.dtype, _bits(kept)[~_inside(layouts, below)])
        found.append(kept.clone())
        below = layouts
    return found


def assemble(shells: Iterable[Tensor], levels: Sequence[Layouts]) -> Tensor:
    """What the last of these levels keeps of the tensor that the shells were made of.

    shells, levels: of as many levels, from the first one on. A tensor of its own, on the CPU.
    """
    made: NDArray[Any] | None = None
    dtype = torch.float32
    for number, shell in enumerate(shells):
        dtype, bits = shell.dtype, _bits(shell)
        if made is not None:
            inside = _inside(levels[number], levels[number - 1])
            wider = np.empty(inside.size, bits.dtype)
            wider[inside], wider[~inside] = made, bits
            bits = wider
        made = bits
    assert made is not None
    return _as(dtype, made.copy()).reshape(shape(levels[-1]))


def scaled(tensor: Tensor, dims: Iterable[int], layouts: Layouts) -> Tensor:
    """A kept part, multiplied in place by full size / kept size of each of these dims."""
    for d in dims:
        tensor *= full_shape(layouts)[d] / tensor.shape[d]
    return tensor


def marks(wide: Layouts, narrow: Layouts) -> list[NDArray[np.bool_]]:
    """For each dim, whether `narrow` keeps what `wide` keeps, index by index."""
    return [
        torch.isin(positions(a), positions(b), assume_unique=True).numpy()
        for a, b in zip(wide, narrow, strict=True)
    ]


def _inside(wide: Layouts, narrow: Layouts) -> NDArray[np.bool_]:
    """Whether `narrow` keeps each entry that `wide` keeps, in row-major order."""
    if not math.prod(shape(wide)):
        return np.empty(0, np.bool_)  # the other dims may be of any size
    flags: NDArray[np.bool_] = reduce(
        np.logical_and.outer, marks(wide, narrow), np.ones((), np.bool_)
    )
    return flags.reshape(-1)


def _kept(spec: Layout) -> int:
    """Entries that are kept of a dim."""
    counts = (
        kept
        if isinstance(kept, int)
        else len(kept)
        if isinstance(kept, Tensor)
        else sum(map(_kept, kept))
        for _, kept in spec
    )
    return math.prod(counts)


def _bits(flat: Tensor) -> NDArray[Any]:
    """Items as integers of their size, so that every NaN stays what it is."""
    items = _BITS[flat.dtype.itemsize]
    empty = torch.empty(0, dtype=items)
    bits: NDArray[Any] = (flat.contiguous().view(items) if flat.numel() else empty).numpy()
    return bits


def _as(dtype: torch.dtype, bits: NDArray[Any]) -> Tensor:
    # numpy's empty arrays may have strides of zero, which `view` refuses.
    return torch.from_numpy(bits).view(dtype) if bits.size else torch.empty(0, dtype=dtype)
