"""Quantized tensors in as few bytes as their codes need, and back.

    coded, parts = encode(found)    # Coded(Uniform(4), "dense", (256, 784), ...), {"codes": ...}
    decode(coded, parts)            # the same codes, scales, zero points or values

Parts, each of one dim:

    codes        how far each code is above zero's, modulo how many codes there are, so that zero
                 weights are 0 everywhere. Either `bits` bits each, the first in the highest bits of
                 the first byte, the last byte filled up with zeros; or as a raw DEFLATE stream of
                 Huffman codes only (RFC 1951) of bytes that hold one code, or as many as fit, the
                 first in the lowest bits, the last byte filled up with zeros: whatever is smaller
    mask, gaps, rows and columns
                 where the codes belong: zeros are left out where that is smaller, in the forms of
                 packing.py; the codes are then the other weights'
    scales       float32, of all rows and their groups
    zero_points  `bits` bits each, as codes
    values       float32, of a codebook

The smallest of all forms is taken. What is read is checked before anything is made of it.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from widthwise.common.checks import need
from widthwise.formats import Codebook, Format, Uniform
from widthwise.quantization.quantize import DTYPES
from widthwise.quantization.quantized import Quantized, Rounded, Shared, blocks, ungrouped
from widthwise.store.deflate import deflated, inflated
from widthwise.store.packed.forms import FORMS, MOST_TIMES, PARTS, Form, Packed, Parts, pack, unpack

Codes = NDArray[np.uint8]

_NOTED: Final = 2  # bytes that the size of a stream takes in the manifest
_CHUNK: Final = 2**20  # codes handled at a time; a multiple of 8, so that chunks are whole bytes
_MOST: Final = 2**31 - 1  # weights of a tensor whose rows and columns are int32


@dataclass(frozen=True)
class Coded:
    """How a quantized tensor is stored, but for its parts.

    format: of a codebook, with the number of values that there are. form: where its codes belong.
    shape, dtype: of the tensor. count: codes stored. gaps: bytes of the relative index, 0 in other
    forms. huffman: how many codes are one symbol of the Huffman code; 0 where there is none.
    stream: bytes of the Huffman codes, or 0.

    Raises ValueError for values that no tensor of weights has.
    """

    format: Format
    form: Form
    shape: tuple[int, ...]
    dtype: torch.dtype
    count: int
    gaps: int = 0
    huffman: int = 0
    stream: int = 0

    def __post_init__(self) -> None:
        need(self.dtype in DTYPES, "its type is not one of weights")
        need(0 < self.numel <= _MOST, "its shape is not one of weights")
        need(self.index.count == self.count, "it has more or fewer codes than weights")
        need(self.huffman in (0, 1, 8 // self.bits), "its symbols are of another size")
        right = self.stream > 0 if self.huffman else self.stream == 0
        need(right, "its codes have no size or two")

    @property
    def index(self) -> Packed:
        """Where the codes belong: as a tensor of bytes does."""
        return Packed(self.form, self.shape, torch.uint8, self.count, self.gaps)

    @property
    def numel(self) -> int:
        """Weights of the tensor, zeros among them."""
        return math.prod(self.shape)

    @property
    def codes(self) -> int:
        """How many different codes there are."""
        return 2**self.format.bits if isinstance(self.format, Uniform) else self.format.values

    @property
    def bits(self) -> int:
        """Bits of a code where it is not Huffman-coded."""
        return (self.codes - 1).bit_length()

    @property
    def stored(self) -> dict[str, tuple[torch.dtype, int]]:
        """The type and the number of items of each part."""
        index = self.index.parts
        del index["values"]
        codes = self.stream if self.huffman else -(-self.count * self.bits // 8)
        found = {**index, "codes": (torch.uint8, codes)}
        if isinstance(self.format, Codebook):
            return {**found, "values": (torch.float32, self.format.values)}
        rows, groups, _ = blocks(self.shape, self.format)
        found["scales"] = (torch.float32, rows * groups)
        points = (torch.uint8, -(-rows * groups * self.format.bits // 8))
        return found if self.format.symmetric else {**found, "zero_points": points}


def encode(found: Quantized) -> tuple[Coded, Parts]:
    """The tensor in the form with the fewest bytes, and the parts of that form by name."""
    form, own = _own(found)
    shape, dtype = tuple(found.codes.shape), found.dtype
    plain = Coded(form, "dense", shape, dtype, found.codes.numel())
    codes = _shifted(plain, found.codes.cpu(), _zero(found, shape), -1)
    # Up to half of zeros, Huffman codes of all weights take less than an index.
    forms = FORMS if 2 * int(codes.count_nonzero()) <= codes.numel() else FORMS[:1]
    ways = [_in_form(plain, each, codes, own) for each in forms]
    return min((way for way in ways if _fits(*way)), key=lambda way: _bytes(way[1]))


def _in_form(plain: Coded, form: Form, codes: Tensor, own: Parts) -> tuple[Coded, Parts]:
    packed, index = pack(codes, form=form)
    values = index.pop("values").numpy()
    stream, huffman = _smaller(values, plain.bits)
    coded = replace(
        plain,
        form=form,
        count=packed.count,
        gaps=packed.gaps,
        huffman=huffman,
        stream=len(stream) if huffman else 0,
    )
    return coded, {**index, "codes": stream, **own}


def in_bits(found: Rounded) -> tuple[Coded, Parts]:
    """The tensor with all its codes in bits: larger than `encode` may make it, of a known size."""
    shape = tuple(found.codes.shape)
    coded = Coded(found.format, "dense", shape, found.dtype, found.codes.numel())
    codes = _shifted(coded, found.codes.cpu(), _zero(found, shape), -1).flatten().numpy()
    return coded, {"codes": torch.from_numpy(_bitwise(codes, coded.bits)), **_own(found)[1]}


def decode(coded: Coded, parts: Mapping[str, Tensor]) -> Quantized:
    """The tensor that was encoded, on the CPU.

    Raises ValueError, before anything is made, for parts that do not belong together.
    """
    need(_fits(coded, parts), "its shape is not one of so few bytes")
    own = {name: parts[name] for name in ("scales", "zero_points", "values") if name in parts}
    found = _with(coded, own)
    stream = parts["codes"]
    need(stream.dim() == 1 and stream.dtype == torch.uint8, "its codes are of another type")
    read = _joint if coded.huffman else _unpacked
    values = read(stream.contiguous().numpy(), coded)
    need(not len(values) or int(values.max()) < coded.codes, "it has codes that there are not")
    index = {name: parts[name] for name in PARTS[coded.form][:-1]}
    codes = unpack(coded.index, {**index, "values": torch.from_numpy(values)})
    codes = _shifted(coded, codes, _zero(found, coded.shape), 1)
    return replace(found, codes=codes)


def _own(found: Quantized) -> tuple[Format, Parts]:
    """The format as it is stored, and the parts beside the codes."""
    if isinstance(found, Shared):
        values = found.values.cpu()
        # A codebook of one value would have codes of no bits.
        values = torch.cat([values, values]) if len(values) == 1 else values
        return Codebook(len(values)), {"values": values}
    own = {"scales": found.scales.cpu().flatten()}
    if found.zero_points is not None:
        points = found.zero_points.cpu().flatten().numpy()
        own["zero_points"] = torch.from_numpy(_bitwise(points, found.format.bits))
    return found.format, own


def _with(coded: Coded, own: Mapping[str, Tensor]) -> Quantized:
    """The tensor but for its codes. Raises ValueError for other scales, zero points or values."""
    nothing = torch.empty(0, dtype=torch.uint8)
    form = coded.format
    if isinstance(form, Codebook):
        _numbers(own["values"], form.values, "values")
        return Shared(form, nothing, own["values"], coded.dtype)
    rows, groups, _ = blocks(coded.shape, form)
    _numbers(own["scales"], rows * groups, "scales")
    need(bool((own["scales"] > 0).all()), "its scales are not above zero")
    points = None
    if not form.symmetric:
        stream = own["zero_points"]
        right = stream.dim() == 1 and stream.dtype == torch.uint8
        need(right, "its zero points are of another type")
        values = _bits_of(stream.contiguous().numpy(), form.bits, rows * groups)
        points = torch.from_numpy(values).view(rows, groups)
    return Rounded(form, nothing, own["scales"].view(rows, groups), points, coded.dtype)


def _numbers(part: Tensor, count: int, name: str) -> None:
    right = part.dtype == torch.float32 and part.dim() == 1 and len(part) == count
    need(right and bool(part.isfinite().all()), f"its {name} are others")


def _zero(found: Quantized, shape: tuple[int, ...]) -> Tensor:
    """The code of zero for each weight, or for all: int32."""
    if isinstance(found, Shared):
        return torch.tensor(found.zero, dtype=torch.int32)
    length = blocks(shape, found.format)[2]
    zero = found.zero.cpu()[..., None]
    return ungrouped(zero.expand(*zero.shape[:2], length), shape)


def _shifted(coded: Coded, codes: Tensor, zero: Tensor, sign: int) -> Tensor:
    """Codes counted from the code of zero (-1), or the reverse (1), modulo how many there are."""
    return ((codes.int() + sign * zero) % coded.codes).to(torch.uint8)


def _smaller(values: Codes, bits: int) -> tuple[Tensor, int]:
    """The codes in bits, or as Huffman codes, and how many are one symbol of these."""
    best, symbol = _bitwise(values, bits).tobytes(), 0
    for each in sorted({1, 8 // bits}):
        short = deflated(_joined(values, bits, each).tobytes(), zlib.Z_HUFFMAN_ONLY)
        if len(short) + _NOTED < len(best):
            best, symbol = short, each
    return torch.from_numpy(np.frombuffer(bytearray(best), dtype=np.uint8)), symbol


def _joined(values: Codes, bits: int, each: int) -> Codes:
    """So many codes in each byte."""
    rows = np.pad(values, (0, -len(values) % each)).reshape(-1, each)
    shifts = np.arange(each, dtype=np.uint8) * np.uint8(bits)
    joined: Codes = np.bitwise_or.reduce(rows << shifts, axis=1)
    return joined


def _bitwise(values: Codes, bits: int) -> Codes:
    """So many bits of each, one after another."""
    pieces = [
        np.packbits(np.unpackbits(values[at : at + _CHUNK, None], axis=1)[:, 8 - bits :])
        for at in range(0, len(values), _CHUNK)
    ]
    return np.concatenate([*pieces, np.empty(0, dtype=np.uint8)])


def _bits_of(stream: Codes, bits: int, count: int) -> Codes:
    """The reverse. Raises ValueError for a stream of another length."""
    need(len(stream) == -(-count * bits // 8), "it has more or fewer bits than codes")
    values = np.empty(count, dtype=np.uint8)
    for at in range(0, count, _CHUNK):
        some = values[at : at + _CHUNK]
        read = stream[at * bits // 8 : -(-(at + len(some)) * bits // 8)]
        flags = np.unpackbits(read, count=len(some) * bits).reshape(len(some), bits)
        some[:] = np.packbits(flags, axis=1)[:, 0] >> (8 - bits)
    return values


def _unpacked(stream: Codes, coded: Coded) -> Codes:
    return _bits_of(stream, coded.bits, coded.count)


def _joint(stream: Codes, coded: Coded) -> Codes:
    """Exactly as many codes as were noted, whatever the stream says."""
    symbols = -(-coded.count // coded.huffman)
    data = inflated(stream.tobytes(), symbols)
    need(len(data) == symbols, "it has fewer codes than were noted")
    joined = np.frombuffer(bytearray(data), dtype=np.uint8)
    if coded.huffman == 1:
        return joined
    shifts = np.arange(coded.huffman, dtype=np.uint8) * np.uint8(coded.bits)
    values: Codes = (joined[:, None] >> shifts & np.uint8(2**coded.bits - 1)).reshape(-1)
    return values[: coded.count]


def _bytes(parts: Mapping[str, Tensor]) -> int:
    return sum(part.nbytes for part in parts.values())


def _fits(coded: Coded, parts: Mapping[str, Tensor]) -> bool:
    """Whether the tensor is not too large for so few bytes: a small file makes no huge tensor."""
    return coded.numel * coded.dtype.itemsize <= MOST_TIMES * _bytes(parts)
