"""How to distill where no criterion is known."""

from __future__ import annotations

from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch.nn import functional as F

from widthwise.errors import TrainingError
from widthwise.train.criteria import Criterion
from widthwise.train.teaching import DistillLoss


def implied(outputs: Any, target: Any) -> tuple[Criterion, DistillLoss | None]:
    """How to distill where no criterion is known: as the targets of the data say.

    Classes, int64 of the shape of the outputs without one dim, mean a cross entropy; in all
    other cases the outputs themselves are matched (Ba & Caruana, 2014).

    Raises TrainingError where two dims of the outputs may be the classes'.
    """
    if not (isinstance(outputs, Tensor) and isinstance(target, Tensor)):
        return _no_criterion, matched
    if target.is_floating_point() or target.dim() != outputs.dim() - 1:
        return _no_criterion, matched
    dims = [
        d
        for d in sorted({1, outputs.dim() - 1})
        if (*outputs.shape[:d], *outputs.shape[d + 1 :]) == target.shape
    ]
    if len(dims) > 1:
        raise TrainingError(
            f"Outputs of shape {list(outputs.shape)} may have their classes along dim 1 or the "
            "last; give the criterion= that the network was trained with."
        )
    if not dims or outputs.shape[dims[0]] == 1:
        return _no_criterion, matched
    (dim,) = dims
    return (lambda out, y: F.cross_entropy(out.movedim(dim, 1), y)), None


def _no_criterion(outputs: Any, target: Any) -> Tensor:
    """In the place of a criterion that is not asked for."""
    return torch.zeros(())


def matched(narrow: Any, full: Any) -> Tensor:
    """A `distill_loss`: the mean squared difference of outputs that both have in one shape, summed.

    Raises TrainingError where there are none.
    """
    pairs = zip(pytree.tree_leaves(narrow), pytree.tree_leaves(full), strict=True)
    losses = [
        F.mse_loss(a, b)
        for a, b in pairs
        if isinstance(a, Tensor) and a.is_floating_point() and a.shape == b.shape
    ]
    if not losses:
        raise TrainingError(
            "The two networks have no outputs in common; give distill_loss=, a function of both."
        )
    return torch.stack(losses).sum()
