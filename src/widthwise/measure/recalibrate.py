"""Batch-norm statistics of a cut network, re-estimated on data that are given.

`Elastic.cut` does so by itself where the network remembers data (`elastic/recalibration.py`). This
is for networks that were cut without, or whose data are others now.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn

from widthwise.elastic.recalibration import estimate, has_statistics
from widthwise.measure.data import pairs
from widthwise.measure.pairs import size_of


def recalibrate_(module: nn.Module, batches: Iterable[tuple[Any, Any]]) -> nn.Module:
    """Re-estimate the running statistics of a cut network, in place, on training data.

    They become the plain mean over the batches, while dropout stays off and no weight changes.
    Works for every module whose statistics are kept by torch's batch norm or instance norm layers,
    and for graph modules.

    Args:
        module: a cut network; a module without statistics stays as it is.
        batches: pairs (inputs, target); about a hundred batches are plenty, none of a single item.

    Returns:
        The module, in evaluation mode.

    Raises:
        DataError: when there is no batch.

    Example:
        small = recalibrate(net.cut(widths, recalibrate=False), loader)

    References:
        Yu & Huang, "Universally Slimmable Networks and Improved Training Techniques", 2019.
    """
    module.eval()
    if has_statistics(module):
        estimate(module, _of_several(inputs for inputs, _ in pairs(batches, module)))
    return module


__all__ = ["has_statistics", "recalibrate_"]


def _of_several(batches: Iterable[Any]) -> Iterator[Any]:
    """The batches without a last one of a single item, which has no statistics."""
    largest = 0
    for inputs in batches:
        size = size_of(inputs) or 1
        largest = max(largest, size)
        if not size == 1 < largest:
            yield inputs
