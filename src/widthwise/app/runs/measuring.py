"""How the networks of a task are measured, and on which of its data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Final

from widthwise.elastic.network import Elastic
from widthwise.elastic.recalibration import ITEMS, Recalibrate, has_statistics
from widthwise.measure.evaluation import Evaluation
from widthwise.task import Splits, Task
from widthwise.train.batches import drawn, in_order, own_randomness

_BATCH = 256  # items evaluated at once
SAMPLES: Final = 2000  # of the training data, for post-processing that need no whole training


def evaluation(task: Task, data: Splits, split: str) -> Evaluation:
    """How a network of this task is measured on one of its splits."""
    items = {"train": data.train, "valid": data.valid, "test": data.test}[split]
    return Evaluation(in_batches(items), task.metric, split)


def same(a: float, b: float) -> bool:
    """Whether two measured values agree to rounding; one more item classified wrongly does not."""
    return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9)


def sample(task: Task, data: Splits, count: int, seed: int) -> list[Any]:
    """Batches of so many training samples, or of all, drawn at random."""
    return drawn(data.train, count, task.recipe.batch_size, seed)


def statistics_batches(task: Task, data: Splits) -> list[Any]:
    """Batches of training data drawn at random, always the same ones."""
    return sample(task, data, ITEMS, seed=0)


def statistics_of(net: Elastic, task: Task, data: Splits) -> Recalibrate:
    """What cuts of a network estimate running statistics on; nothing is read where it has none."""
    return statistics_batches(task, data) if has_statistics(net.model) else False


def in_batches(data: Any) -> Callable[[], Iterator[Any]]:
    """The data as batches of (inputs, target), the same at every call."""

    def again() -> Iterator[Any]:
        with own_randomness():
            yield from in_order(data, _BATCH, 0)

    return again
