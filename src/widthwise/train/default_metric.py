"""How a task is judged that names no metric: it follows from its loss.

    default_metric(F.cross_entropy).name     # "accuracy"
    default_metric(nn.MSELoss()).name        # "RMSE"

Which losses of torch's a function calls is seen by calling it once, with small made-up outputs;
what they are given, on real data, is what the metric compares. So an accuracy counts along the
class dim of the cross entropy, without the positions that this ignores.
"""

import math
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from widthwise.errors import TrainingError
from widthwise.measure.metric import Metric
from widthwise.train.calls import Call, Noting
from widthwise.train.criteria import Criterion

Compare = Callable[[Call], tuple[Tensor, Tensor | int]]
"""(a loss that was called) -> sum over what it compares, and how many these are."""


def default_metric(loss: Criterion) -> Metric:
    """The metric that fits a loss.

    Accuracy for cross entropies, binary ones too; the root of the mean squared error (RMSE) for the
    mean squared error, the mean absolute error (MAE) for that, and the loss itself, lower is
    better, for anything else. loss: (outputs, target) -> 0-dim tensor.
    """
    kinds = _kinds(loss)
    if kinds and kinds <= _CLASSES.keys():
        return Metric("accuracy", _Read(loss, _CLASSES))
    if kinds == {"mse_loss"}:
        table = {"mse_loss": _squares}
        return Metric("RMSE", _Read(loss, table), higher_is_better=False, finish=math.sqrt)
    if kinds == {"l1_loss"}:
        return Metric("MAE", _Read(loss, {"l1_loss": _distances}), higher_is_better=False)
    return Metric("loss", partial(_summed, loss), higher_is_better=False)


def _kinds(loss: Criterion) -> set[str]:
    """The losses of torch's that a function calls, none where it takes no single tensor."""
    for shape, target in _TRIED:
        noted = Noting()
        # What was made up need not fit a user's function, which may then fail in any way.
        with suppress(Exception), noted, warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            loss(torch.full(shape, 0.5), target)
        if noted.calls:
            return {call.kind for call in noted.calls}
    return set()


_TRIED: Final = (
    ((2, 3), torch.zeros(2, dtype=torch.int64)),
    ((2, 3), torch.zeros(2, 3)),
    ((2, 1), torch.zeros(2)),
    ((2, 3, 4), torch.zeros(2, 4, dtype=torch.int64)),
    ((2, 3, 4, 5), torch.zeros(2, 4, 5, dtype=torch.int64)),
)
"""Shapes of outputs, and targets, of the usual losses."""


@dataclass(frozen=True)
class _Read:
    """A metric of what a loss is given. table: how each kind of loss is compared."""

    loss: Criterion
    table: Mapping[str, Compare]

    def __call__(self, outputs: Any, target: Any) -> tuple[Tensor, Tensor | int]:
        noted = Noting()
        with noted:
            self.loss(outputs, target)
        found = [self.table[c.kind](c) for c in noted.calls if c.kind in self.table]
        if not found:
            raise TrainingError(
                "The loss calls other losses of torch's on these data than on made-up ones, so "
                "that no metric follows from it; give the task a metric=."
            )
        total, count = found[0]
        for value, more in found[1:]:
            total, count = total + value, count + more
        return total, count


def _right_classes(call: Call) -> tuple[Tensor, Tensor | int]:
    outputs, target = call.prediction, call.target
    dim = min(1, outputs.dim() - 1)
    found = outputs.argmax(dim)
    if target.is_floating_point():
        return (found == target.argmax(dim)).sum(), found.numel()
    counted = target != call.given["ignore_index"]
    return ((found == target) & counted).sum(), counted.sum()


def _right_sides(call: Call, middle: float) -> tuple[Tensor, int]:
    right = (call.prediction > middle) == (call.target > 0.5)
    return right.sum(), right.numel()


def _squares(call: Call) -> tuple[Tensor, int]:
    apart = call.prediction - call.target
    return apart.square().sum(), apart.numel()


def _distances(call: Call) -> tuple[Tensor, int]:
    apart = call.prediction - call.target
    return apart.abs().sum(), apart.numel()


def _summed(loss: Criterion, outputs: Any, target: Any) -> tuple[Tensor, int]:
    """The loss times the number of examples, and that number."""
    tensors = [t for t in pytree.tree_leaves((target, outputs)) if isinstance(t, Tensor)]
    count = next((len(t) for t in tensors if t.dim()), 1)
    return loss(outputs, target) * count, count


_CLASSES: Final[Mapping[str, Compare]] = {
    "cross_entropy": _right_classes,
    "nll_loss": _right_classes,
    "binary_cross_entropy": partial(_right_sides, middle=0.5),
    "binary_cross_entropy_with_logits": partial(_right_sides, middle=0.0),
}
