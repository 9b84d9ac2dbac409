"""How a tensor's weights are written in few bits, as data.

Uniform(8, symmetric=True)              # evenly spaced weights, a scale for each row
Uniform(4)                              # and a zero point: where the range is not even
Uniform(4, per="group", group=64)       # a scale for every 64 weights of a row
Uniform(8, per="tensor")                # one for all
Codebook(16)                            # sixteen values that all weights share: 4 bits each
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Per = Literal["tensor", "channel", "group"]


@dataclass(frozen=True)
class Uniform:
    """Evenly spaced weights: scale x (code - zero point), codes from 0 to 2^bits - 1.

    Args:
        bits: 2 to 8, of a code.
        symmetric: the zero point is 2^(bits-1) and code 0 is not used, so that the range is as wide
            below zero as above; otherwise each scale has a zero point of its own, a code, and the
            range reaches from the least to the largest weight, and always to zero. Zero is exact in
            both, for its code is the zero point.
        per: who shares a scale: all weights of a tensor; all of an output channel (an entry of
            the first dim; tensors of one dim have one scale); or each `group` of weights that
            follow each other within a channel, the last group of a channel being shorter where they
            do not fit.

    Raises:
        ValueError: For values outside their ranges.
    """

    bits: int = 8
    symmetric: bool = False
    per: Per = "channel"
    group: int = 64

    def __post_init__(self) -> None:
        if type(self.bits) is not int or not 2 <= self.bits <= 8:
            raise ValueError(f"A code has {self.bits!r} bits; give 2 to 8.")
        if type(self.symmetric) is not bool:
            raise ValueError(f"symmetric is {self.symmetric!r}; give True or False.")
        if self.per not in get_args(Per):
            raise ValueError(f"A scale is for each {self.per!r}; give one of {get_args(Per)}.")
        if type(self.group) is not int or self.group < 1:
            raise ValueError(f"A group has {self.group!r} weights; give at least 1.")


@dataclass(frozen=True)
class Codebook:
    """Shared values: every weight is one of `values` float32 numbers, and stored as its number.

    Args:
        values: 2 to 256, at most; a tensor that has fewer different weights gets a codebook of
            these. A tensor with zeros has 0.0 among them.

    Raises:
        ValueError: For another number.
    """

    values: int

    def __post_init__(self) -> None:
        if type(self.values) is not int or not 2 <= self.values <= 256:
            raise ValueError(f"A codebook has {self.values!r} values; give 2 to 256.")


Format = Uniform | Codebook
