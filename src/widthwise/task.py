"""A task: model, data, loss and metric together.

Everything that the command line does, it does to a task. A task is plain data made of
functions; a user's own is one function in one file:

    # mine.py
    def task() -> Task:
        return Task(name="mine", model=make_model, example=make_example, splits=load_splits,
                    loss=torch.nn.functional.cross_entropy)

    widthwise train mine.py:task
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from widthwise.graph.constraints import Constraints
from widthwise.measure.metric import Metric, as_metric
from widthwise.train.default_metric import default_metric
from widthwise.train.recipe import Recipe
from widthwise.train.teaching import HALF, Distill, DistillLoss

__all__ = ["Recipe", "Splits", "Task"]


@dataclass(frozen=True)
class Splits:
    """Three data sets whose items are (inputs, target), or DataLoaders over such.

    `inputs` is a tensor, a tuple of positional arguments or a dict of keyword arguments of the
    model's forward.

    Args:
        train: what networks are trained on.
        valid: what choices are made on.
        test: what is only reported.
    """

    train: Dataset[tuple[Any, Any]]
    valid: Dataset[tuple[Any, Any]]
    test: Dataset[tuple[Any, Any]]


@dataclass(frozen=True)
class Task:
    """What to train, on what, and how it is judged.

    Args:
        name: short, used in file names and titles.
        model: () -> the full-size module, newly initialised.
        example: () -> tuple of positional example inputs (batch of at least 2).
        splits: () -> Splits. It raises DataError, saying how to get the data, when these are
            missing.
        loss: (outputs, target) -> 0-dim tensor, the mean over the batch.
        metric: how a network is judged: a Metric, an object of torchmetrics or a function of
            sklearn.metrics. None follows from the loss: accuracy for cross entropies, RMSE for the
            mean squared error, MAE for the absolute one, and for anything else the loss itself.
        distill: how narrow networks learn from the full one; None teaches them by the loss alone.
        distill_loss: (narrow outputs, full outputs) -> 0-dim tensor, in the place of what follows
            from the loss (see `SandwichLoss`).
        recipe: training length and speed.
        weights: () -> a safetensors file of trained weights for `model`, named as its state dict;
            None when the task has none. It raises DataError, saying how to get the file, when that
            is missing. `trained_model` of `app/tasks/weights.py` builds the model that has them.
        extra_metrics: (module, "valid" or "test") -> figures beside the metric, by name, such as
            BLEU. They may take long, and are computed at the end of `widthwise train` only, of the
            full network on the test split.
        classes: names of the classes, in the order of the outputs; () where they have none.
        text: of tasks on tokens, () -> (token numbers (T,) int64 -> what they say).
        reference: what `resolve` found it by, which files note; set by `resolve`.
        constraints: which axes stay whole or share a width, and which widths they may have.
    """

    name: str
    model: Callable[[], torch.nn.Module]
    example: Callable[[], tuple[Any, ...]]
    splits: Callable[[], Splits]
    loss: Callable[[Any, Any], Tensor]
    metric: Metric | Any = None
    recipe: Recipe = field(default_factory=Recipe)
    weights: Callable[[], Path] | None = None
    extra_metrics: Callable[[torch.nn.Module, str], Mapping[str, float]] | None = None
    classes: tuple[str, ...] = ()
    text: Callable[[], Callable[[Tensor], str]] | None = None
    reference: str = ""
    constraints: Constraints = field(default_factory=Constraints)
    distill: Distill | None = HALF
    distill_loss: DistillLoss | None = None

    def __post_init__(self) -> None:
        judged = default_metric(self.loss) if self.metric is None else as_metric(self.metric)
        object.__setattr__(self, "metric", judged)
