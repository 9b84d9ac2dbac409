"""What describes a network of the zoo."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

Made = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]

SIZES = (64, 96, 128, 160, 192, 224, 240, 256, 299, 384)  # image heights that are tried, in pixels


@dataclass(frozen=True)
class Network:
    """A public architecture at a size that runs quickly.

    name: family/architecture. make: returns (model, args, kwargs) with random weights, drawn from
    torch's global generator. note: what differs from the architecture as published, if anything.
    """

    name: str
    make: Callable[[], Made]
    note: str = ""

    @property
    def family(self) -> str:
        """The part of the name that says where the architecture comes from."""
        return self.name.partition("/")[0]


def on_smallest_image(
    build: Callable[[int], nn.Module], sizes: Iterable[int] = SIZES, batch: int = 2
) -> Made:
    """The model on the smallest square image that it takes in training and in evaluation.

    build: returns the model for an image of this height. Raises RuntimeError, with the last reason,
    when none of the sizes will do.
    """
    reason: Exception | None = None
    for size in sizes:
        try:
            model = build(size)
            x = torch.randn(batch, 3, size, size)
            with torch.no_grad():
                for training in (True, False):
                    model.train(training)(x)
        except Exception as error:  # noqa: BLE001 - architectures refuse sizes in many ways
            reason = error
            continue
        return model, (x,), {}
    raise RuntimeError(f"No image size will do: {reason}")
