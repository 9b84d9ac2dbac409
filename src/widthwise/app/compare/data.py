"""The data of a comparison: its task's, of which it may train on fewer.

task, data = loaded("fashion-mnist-cnn", examples=10_000)      # once in a process
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from widthwise.app.tasks.resolve import resolve
from widthwise.errors import TaskError
from widthwise.task import Splits, Task
from widthwise.train.batches import Batched, length


@cache
def loaded(task: str, examples: int | None) -> tuple[Task, Splits]:
    """A task and its splits, with so many training examples, drawn at random once for all seeds.

    Raises DataError, and TaskError when there are not as many.
    """
    found = resolve(task)
    data = found.splits()
    if examples is None:
        return found, data
    if getattr(data.train, "loader", None) is not None:
        raise TaskError(
            f"The train split of {found.name} is a DataLoader, of which examples cannot take some; "
            "give a Dataset in its place, or leave examples out."
        )
    count = length(data.train)
    if examples > count:
        raise TaskError(
            f"examples is {examples:,}, but {found.name} has {count:,} to train on; give at most "
            "as many, or leave it out."
        )
    chosen = torch.randperm(count, generator=torch.Generator().manual_seed(0))[:examples]
    return found, replace(data, train=some(data.train, chosen))


def some(data: Dataset[Any], chosen: Tensor) -> Dataset[Any]:
    """The items at `chosen` (N,) int64, in batches where the data set gives batches."""
    return _Batches(data, chosen) if isinstance(data, Batched) else Subset(data, chosen.tolist())


class _Batches(Dataset[Any]):
    """Some items of a data set that gives batches."""

    def __init__(self, data: Any, chosen: Tensor) -> None:
        self.data, self.chosen = data, chosen

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> Any:
        return self.data[int(self.chosen[index])]

    def batch(self, indices: Tensor) -> Any:
        """The items at `indices` (B,) int64 of the chosen ones."""
        return self.data.batch(self.chosen[indices])
