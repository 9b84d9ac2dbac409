"""One quantized tensor as data: codes, and what turns them into weights.

    found = uniform(weight, Uniform(4))
    found.codes                     # uint8, of the tensor's shape
    found.dense()                   # the weights: the very bits that are trained, stored and loaded
    found.of(other)                 # another tensor on the same grid

`dense` is the only code that makes weights of codes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from widthwise.formats import Codebook, Uniform


def blocks(shape: Sequence[int], form: Uniform) -> tuple[int, int, int]:
    """How a tensor falls apart: rows, groups in each, weights in each group.

    shape: of a tensor that is not empty. The last group of a row may be short.
    """
    rows = shape[0] if form.per != "tensor" and len(shape) >= 2 else 1
    columns = math.prod(shape) // rows
    length = min(form.group, columns) if form.per == "group" else columns
    return rows, -(-columns // length), length


def grouped(tensor: Tensor, form: Uniform) -> Tensor:
    """The tensor as (rows, groups, weights in each group), short groups filled up with zeros."""
    rows, groups, length = blocks(tensor.shape, form)
    flat = tensor.reshape(rows, -1)
    return F.pad(flat, (0, groups * length - flat.shape[1])).view(rows, groups, length)


def ungrouped(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """The reverse."""
    rows = tensor.shape[0]
    return tensor.flatten(1)[:, : math.prod(shape) // rows].reshape(tuple(shape))


@dataclass(frozen=True, eq=False)
class Rounded:
    """A tensor on evenly spaced weights.

    Args:
        codes: uint8, of the tensor's shape.
        scales: float32 (rows, groups).
        zero_points: uint8 (rows, groups); none where the format is symmetric.
        dtype: of the tensor.
    """

    format: Uniform
    codes: Tensor
    scales: Tensor
    zero_points: Tensor | None
    dtype: torch.dtype

    @property
    def zero(self) -> Tensor:
        """The code of zero: int32 (rows, groups)."""
        if self.zero_points is None:
            return torch.full_like(self.scales, 2 ** (self.format.bits - 1), dtype=torch.int32)
        return self.zero_points.int()

    @property
    def parts(self) -> dict[str, Tensor]:
        """What there is beside the codes, by name."""
        found = {"scales": self.scales}
        return found if self.zero_points is None else {**found, "zero_points": self.zero_points}

    def with_parts(self, parts: Mapping[str, Tensor]) -> Rounded:
        """The same codes beside other `parts`."""
        return replace(self, scales=parts["scales"], zero_points=parts.get("zero_points"))

    def dense(self) -> Tensor:
        """The weights: computed in float32, then of the tensor's dtype."""
        steps = grouped(self.codes, self.format).int() - self.zero[..., None]
        return ungrouped(steps * self.scales[..., None], self.codes.shape).to(self.dtype)

    def of(self, tensor: Tensor) -> Rounded:
        """Another tensor of the shape with these scales: each weight its nearest one, or the end.

        Where two are as near, the even step from zero.
        """
        zero, most = self.zero[..., None], 2**self.format.bits - 1
        steps = (grouped(tensor.float(), self.format) / self.scales[..., None]).round()
        codes = (steps + zero).clamp(int(self.format.symmetric), most).to(torch.uint8)
        return replace(self, codes=ungrouped(codes, tensor.shape), dtype=tensor.dtype)


@dataclass(frozen=True, eq=False)
class Shared:
    """A tensor whose weights share a few values.

    Args:
        codes: uint8, of the tensor's shape.
        values: float32 (n,).
        dtype: of the tensor.
    """

    format: Codebook
    codes: Tensor
    values: Tensor
    dtype: torch.dtype

    @property
    def zero(self) -> int:
        """The code of the value zero, or 0 where there is none."""
        return int((self.values == 0).int().argmax())

    @property
    def parts(self) -> dict[str, Tensor]:
        """What there is beside the codes, by name."""
        return {"values": self.values}

    def with_parts(self, parts: Mapping[str, Tensor]) -> Shared:
        """The same codes beside other `parts`."""
        return replace(self, values=parts["values"])

    def dense(self) -> Tensor:
        """The weights: float32 values, as the tensor's dtype."""
        return self.values[self.codes.long()].to(self.dtype)

    def of(self, tensor: Tensor) -> Shared:
        """Another tensor with these values: each weight the nearest one."""
        values, order = self.values.sort()
        between = (values[1:] + values[:-1]) / 2
        # Zero belongs to the value zero, also where both neighbours are at one tiny distance.
        place = torch.bucketize(tensor.float().contiguous(), between)
        codes = order.to(torch.uint8)[place]
        if (self.values == 0).any():
            codes[tensor == 0] = self.zero
        return replace(self, codes=codes, dtype=tensor.dtype)


Quantized = Rounded | Shared


def on_cpu(found: Quantized) -> Quantized:
    """The same tensor with all its parts on the CPU."""
    parts = {name: part.cpu() for name, part in found.parts.items()}
    return replace(found.with_parts(parts), codes=found.codes.cpu())
