"""What all scores share: a progress bar, and numbers that are numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from widthwise.errors import ScoreError

T = TypeVar("T")


def shown(stream: Iterable[T], batches: object, what: str, progress: bool) -> Iterator[T]:
    """The stream, with a bar on standard error that counts the batches it is made from."""
    total = len(batches) if isinstance(batches, Sized) else None
    yield from track(
        stream, what, total, console=Console(stderr=True), disable=not progress, transient=True
    )


def finite(scores: dict[str, Tensor]) -> dict[str, Tensor]:
    """The scores; raises ScoreError when one is not a finite number."""
    for name, value in scores.items():
        if not torch.isfinite(value).all():
            raise ScoreError(
                f"A score of {name!r} is not a finite number; look for values that are not finite "
                "in the weights or the data."
            )
    return scores
