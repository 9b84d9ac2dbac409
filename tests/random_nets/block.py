"""What a step of a random network is: a function of the place where it is put, giving a block."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

T = TypeVar("T")
SIZES = (8, 6, 12, 4, 9, 10)


@dataclass(frozen=True)
class Shape:
    """kind: image, sequence or vector. channels: features. space: (H, W), (L,) or ()."""

    kind: str
    channels: int
    space: tuple[int, ...]


class Block(nn.Module):
    """A function with the modules, parameters, buffers and sizes that it uses as attributes."""

    def __init__(
        self,
        compute: Callable[..., Tensor],
        channels: int,
        space: tuple[int, ...] | None = None,
        kind: str | None = None,
        other: int | None = None,
        takes_arguments: bool = False,
        **parts: Any,
    ) -> None:
        super().__init__()
        self.compute, self.other, self.takes_arguments = compute, other, takes_arguments
        self.makes = (kind, channels, space)
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, x: Tensor, other: Tensor, *arguments: Any) -> Tensor:
        return self.compute(self, x, other, *arguments)


class Place:
    """Where a step is put: the value's shape, the earlier ones, and numbers that choose."""

    def __init__(self, shapes: Sequence[Shape], numbers: Sequence[int]) -> None:
        self.shapes, self.shape = shapes, shapes[-1]
        self.c, self.space = self.shape.channels, self.shape.space
        self._numbers = list(numbers)

    def pick(self, options: Sequence[T]) -> T:
        number = self._numbers.pop(0) if self._numbers else 0
        return options[number % len(options)]

    def size(self) -> int:
        return self.pick(SIZES)

    def divisor(self) -> int:
        """A way to part the channels into groups; 1 where there is none."""
        return self.pick([d for d in range(2, self.c) if self.c % d == 0] or [1])

    def earlier(self) -> int:
        """The number of an earlier value of the same kind and space."""
        wanted = (self.shape.kind, self.space)
        same = [i for i, s in enumerate(self.shapes) if (s.kind, s.space) == wanted]
        return self.pick(same[::-1])

    def activation(self) -> Callable[[Tensor], Tensor]:
        return self.pick((torch.relu, F.gelu, torch.sigmoid, F.silu, F.softplus, torch.tanh, F.elu))


Step = Callable[[Place], Block | None]


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape) / shape[-2 if len(shape) > 1 else 0] ** 0.5)
