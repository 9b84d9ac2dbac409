"""What describes a network of the test set, and its examples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

Example = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Net:
    """A network with one trait.

    build, example: the module and its (args, kwargs); both draw from torch's global generator.
    axes: how many axes can be cut, by thought rather than by what the engine finds.
    note: which axes these are, with their sizes.
    """

    name: str
    build: Callable[[], nn.Module]
    example: Callable[[], Example]
    axes: int
    note: str


def floats(*shapes: tuple[int, ...]) -> Callable[[], Example]:
    return lambda: (tuple(torch.randn(s) for s in shapes), {})


def tokens(*specs: tuple[int, tuple[int, ...]]) -> Callable[[], Example]:
    return lambda: (tuple(torch.randint(0, high, shape) for high, shape in specs), {})


IMAGE = floats((3, 3, 8, 8))
STEPS = floats((3, 7, 5))
