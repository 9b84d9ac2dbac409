"""Tensors without their zeros: three packed forms beside the dense one, and back, bit for bit.

    packed, parts = pack(weight)    # Packed("relative", (2600, 650), torch.float32, ...), {...}
    unpack(packed, parts)           # the same bits

Non-zeros are counted in row-major order; a weight is zero where all its bits are, so that -0.0 and
NaN stay. Every form has `values`, and where they belong:

    dense      nothing: the values are all weights
    bitmask    mask: 1 bit a weight, the first in the highest bit of the first byte (as in numpy's
               packbits), the last byte filled up with zeros
    relative   gaps: 4 bits a value, the first in the lower half of the first byte: how many zeros
               lie before it, 0 to 14. A 15 is a filler: fifteen zeros and no value. Zeros behind
               the last value are fillers as far as they go, and one fills up the last byte
    csr        rows, columns: int32, of the tensor as a matrix (first dim, all others); row i holds
               the values from rows[i] to rows[i + 1]

The relative index is from "Deep Compression" (Han, Mao, Dally 2015); there a filler carries a
value, a zero of 32 bits, here it costs its 4 bits only. A form is not taken where it would be less
than a thousandth of the dense bytes, and not read either: a small file never becomes a huge tensor.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from widthwise.common.checks import need

Form = Literal["dense", "bitmask", "relative", "csr"]
FORMS: Final[tuple[Form, ...]] = get_args(Form)
PARTS: Final[Mapping[Form, tuple[str, ...]]] = {
    "dense": ("values",),
    "bitmask": ("mask", "values"),
    "relative": ("gaps", "values"),
    "csr": ("rows", "columns", "values"),
}
INDEX_TYPES: Final[Mapping[str, torch.dtype]] = {
    "mask": torch.uint8, "gaps": torch.uint8, "rows": torch.int32, "columns": torch.int32,
}  # fmt: skip
MOST_TIMES: Final = 1000  # what a packed tensor takes, times this, is at least its dense bytes

_FILLER: Final = 15
_INT32: Final = 2**31 - 1
_BITS: Final = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by item size

Positions = NDArray[np.int64]
Parts = dict[str, Tensor]
"""Parts of a packed tensor by name, each of one dim."""


@dataclass(frozen=True)
class Packed:
    """How a tensor is stored, but for its parts.

    shape, dtype: of the tensor. count: values stored. gaps: bytes of the relative index, 0 in other
    forms. zstd: the parts that are compressed -> their bytes in the file.

    Raises ValueError for what no tensor of this shape has.
    """

    form: Form
    shape: tuple[int, ...]
    dtype: torch.dtype
    count: int
    gaps: int = 0
    zstd: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # torch counts in 64 bits, and multiplies the other dims where one is zero.
        need(math.prod(max(1, n) for n in self.shape) < 2**63, "its shape is not one of a tensor")
        most = self.numel
        right = self.count == most if self.form == "dense" else 0 <= self.count <= most
        need(right, "it has more or fewer values than weights")
        # Every code of a gap but one that fills up stands for a weight or more.
        least, most = (0, most + 1) if self.form == "relative" else (0, 0)
        need(least <= 2 * self.gaps <= most, "it has more gaps than weights")

    @property
    def numel(self) -> int:
        """Weights of the tensor, zeros among them."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the dense tensor."""
        return self.numel * self.dtype.itemsize

    @property
    def matrix(self) -> tuple[int, int]:
        """Rows and columns of the tensor as a matrix."""
        rows = self.shape[0] if self.shape else 1
        return rows, self.numel // max(1, rows)

    @property
    def parts(self) -> dict[str, tuple[torch.dtype, int]]:
        """The type and the number of items of each part, before any is compressed."""
        items = {
            "mask": -(-self.numel // 8), "gaps": self.gaps, "rows": self.matrix[0] + 1,
            "columns": self.count, "values": self.count,
        }  # fmt: skip
        return {n: (INDEX_TYPES.get(n, self.dtype), items[n]) for n in PARTS[self.form]}

    @property
    def stored(self) -> dict[str, tuple[torch.dtype, int]]:
        """The same of the parts in the file."""
        return self.parts | {name: (torch.uint8, size) for name, size in self.zstd.items()}


def pack(tensor: Tensor, *, worth: int = 1, form: Form | None = None) -> tuple[Packed, Parts]:
    """The tensor in the form with the fewest bytes, and the parts of that form by name.

    tensor: any shape and strides, of at most 8 bytes an item. worth: the bytes that a bit mask must
    save at least; the tensor stays dense otherwise. form: this one, whatever it saves.
    """
    bits = _bits(tensor)
    plain = Packed("dense", tuple(tensor.shape), tensor.dtype, tensor.numel())
    # The bit mask is the first of the forms to win as weights become zero: no more need be known.
    least = _bitmask_bytes(plain, int(np.count_nonzero(bits)))
    if form == "dense" or (form is None and (not bits.size or least > plain.nbytes - worth)):
        return plain, {"values": _flat(tensor)}
    positions = np.flatnonzero(bits != 0)
    form = form or _smallest(plain, positions)
    index = _index(plain, form, positions)
    gaps = len(index["gaps"]) if "gaps" in index else 0
    packed = replace(plain, form=form, count=len(positions), gaps=gaps)
    values = torch.from_numpy(bits[positions]).view(tensor.dtype)
    return packed, {**index, "values": values}


def unpack(packed: Packed, parts: Mapping[str, Tensor]) -> Tensor:
    """The tensor that was packed, on the CPU. parts: as its form has them, not compressed.

    Raises ValueError, before anything is made, for parts that do not belong together.
    """
    values = parts["values"]
    need(values.dim() == 1 and values.dtype == packed.dtype, "its values are of another type")
    for name in PARTS[packed.form][:-1]:
        index = parts[name]
        right = index.dim() == 1 and index.dtype == INDEX_TYPES[name]
        need(right, f"its {name} are of another type")
    if packed.form == "dense":
        need(values.numel() == packed.numel, "it has more or fewer values than weights")
        return values.reshape(packed.shape)
    made = torch.zeros(packed.numel, dtype=_BITS[packed.dtype.itemsize])
    bits = values.contiguous().view(made.dtype).numpy()
    where = _where(packed, {n: parts[n].numpy() for n in parts if n != "values"}, len(bits))
    made.numpy()[where] = bits
    return made.view(packed.dtype).reshape(packed.shape)


def published_accounting(tensors: Iterable[Tensor]) -> int:
    """Bytes by the formula of "To prune, or not to prune" (Zhu & Gupta 2017, section 4).

    For each tensor its non-zeros, 4 bytes each in float32, and the cheaper of 1 bit a weight and
    4 bits a non-zero; tensors that are cheaper dense count as they are. No headers, and none of the
    fillers that gaps of more than 4 bits need.
    """
    return sum(_published(tensor) for tensor in tensors)


def _bits(tensor: Tensor) -> NDArray[Any]:
    """The items in row-major order, as integers of their size."""
    bits: NDArray[Any] = _flat(tensor).view(_BITS[tensor.dtype.itemsize]).numpy()
    return bits


def _flat(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().reshape(-1)


def _published(tensor: Tensor) -> int:
    count, item = int(np.count_nonzero(_bits(tensor))), tensor.dtype.itemsize
    return min(tensor.nbytes, count * item + min(-(-tensor.numel() // 8), -(-count // 2)))


def _bitmask_bytes(packed: Packed, count: int) -> int:
    return -(-packed.numel // 8) + count * packed.dtype.itemsize


def _smallest(packed: Packed, positions: Positions) -> Form:
    """The packed form with the fewest bytes. positions: of the non-zeros."""
    count = len(positions)
    values = count * packed.dtype.itemsize
    fillers, behind = _fillers(packed, positions)
    codes = count + int(fillers.sum()) + behind
    sizes: dict[Form, int] = {"bitmask": _bitmask_bytes(packed, count)}
    # A short tensor of zeros would have gaps of no bytes, which is less than a thousandth.
    if codes:
        sizes["relative"] = -(-codes // 2) + values
    rows, columns = packed.matrix
    csr = 4 * (rows + 1 + count) + values
    if max(columns, count) <= _INT32 and packed.nbytes <= MOST_TIMES * csr:
        sizes["csr"] = csr
    return min(sizes, key=lambda form: sizes[form])


def _fillers(packed: Packed, positions: Positions) -> tuple[Positions, int]:
    """How many fillers stand before each value, and behind the last one."""
    last = int(positions[-1]) if len(positions) else -1
    gaps = np.diff(positions, prepend=-1) - 1
    return gaps // _FILLER, (packed.numel - 1 - last) // _FILLER


def _index(packed: Packed, form: Form, positions: Positions) -> Parts:
    """The parts of a form that say where the values belong."""
    rows, columns = packed.matrix
    index: dict[str, NDArray[Any]] = {}
    if form == "bitmask":
        flags = np.zeros(packed.numel, dtype=bool)
        flags[positions] = True
        index["mask"] = np.packbits(flags)
    elif form == "relative":
        index["gaps"] = _gaps(packed, positions)
    else:
        starts = np.searchsorted(positions, np.arange(rows + 1, dtype=np.int64) * columns)
        index["rows"] = starts.astype(np.int32)
        index["columns"] = (positions % max(1, columns)).astype(np.int32)
    return {name: torch.from_numpy(part) for name, part in index.items()}


def _gaps(packed: Packed, positions: Positions) -> NDArray[np.uint8]:
    fillers, behind = _fillers(packed, positions)
    ends = np.cumsum(fillers + 1)  # the codes up to and including each value's
    count = behind + (int(ends[-1]) if len(ends) else 0)
    codes = np.full(count + count % 2, _FILLER, dtype=np.uint8)
    codes[ends - 1] = np.diff(positions, prepend=-1) - 1 - _FILLER * fillers
    paired: NDArray[np.uint8] = codes[0::2] | codes[1::2] << np.uint8(4)
    return paired


def _where(packed: Packed, index: Mapping[str, NDArray[Any]], count: int) -> Positions:
    """Where the `count` values are in the tensor, which is then known to hold all of them."""
    if packed.form == "bitmask":
        return _where_masked(packed, index["mask"], count)
    if packed.form == "relative":
        return _where_relative(packed, index["gaps"], count)
    return _where_in_rows(packed, index["rows"], index["columns"], count)


def _where_masked(packed: Packed, mask: NDArray[np.uint8], count: int) -> Positions:
    need(len(mask) == -(-packed.numel // 8), "its mask has another length")
    # Positions rather than flags: indexing by flags takes twice the time.
    positions = np.flatnonzero(np.unpackbits(mask, count=packed.numel).view(bool))
    need(len(positions) == count, "it has more or fewer values than its mask says")
    return positions


def _where_relative(packed: Packed, gaps: NDArray[np.uint8], count: int) -> Positions:
    need(len(gaps) == packed.gaps, "it has more or fewer gaps than were noted")
    codes = np.empty(2 * len(gaps), dtype=np.uint8)
    codes[0::2], codes[1::2] = gaps & 15, gaps >> 4
    held = codes != _FILLER
    positions: Positions = np.cumsum(codes + held, dtype=np.int64)[np.flatnonzero(held)] - 1
    need(len(positions) == count, "it has more or fewer values than its gaps say")
    need(not count or int(positions[-1]) < packed.numel, "its gaps lead beyond its end")
    return positions


def _where_in_rows(
    packed: Packed, starts: NDArray[np.int32], columns: NDArray[np.int32], count: int
) -> Positions:
    rows, width = packed.matrix
    need(len(starts) == rows + 1, "it has more or fewer row starts than rows")
    bounds = starts.astype(np.int64)
    lengths = bounds[1:] - bounds[:-1]
    ordered = starts[0] == 0 and bool((lengths >= 0).all())
    need(bool(ordered) and starts[-1] == len(columns) == count, "its row starts do not fit")
    inside = bool(((columns >= 0) & (columns < width)).all())
    firsts = np.arange(rows, dtype=np.int64) * width
    positions: Positions = np.repeat(firsts, lengths) + columns
    need(inside and bool((np.diff(positions) > 0).all()), "its columns do not fit")
    return positions
