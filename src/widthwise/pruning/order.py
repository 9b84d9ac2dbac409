"""Order: put the features of every axis in the order of their scores.

    order(net, scores)                  # in place; the network computes what it did
    small = net.cut(net.widths(0.5))    # every width is now the best features

From here on a trained network is like one that structural dropout trained.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from widthwise.elastic.network import Elastic
from widthwise.errors import ScoreError
from widthwise.graph.dims import Factor, fully_fixed
from widthwise.graph.slicing import layout, part


def order_(net: Elastic, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Permute features in place, highest scores first; ties stay in order.

    Args:
        scores: (size,) for each axis to order; axes that it does not name stay as they are. What
            the network computes does not change, up to rounding. An optimizer's state is not
            permuted: make the optimizer afterwards.

    Returns:
        The old positions in the new order, int64 (size,), by axis.

    Raises:
        ScoreError: For axes that do not exist or cannot be cut, scores of another size, and scores
            that are not numbers.
    """
    ordered = {name: ranking(net, name, value) for name, value in scores.items()}
    factors = net.engine.table.of

    def kept(f: Factor) -> Tensor | int:
        return ordered.get(factors[f], f.size) if f in factors else f.size

    done: set[int] = set()
    state = net.engine.state()
    with torch.no_grad():
        for name, dims in net.engine.relations.state.items():
            tensor = state[name]
            specs = tuple((d, layout(t, kept)) for d, t in enumerate(dims) if not fully_fixed(t))
            if id(tensor) not in done:
                done.add(id(tensor))
                tensor.copy_(part(tensor.detach(), specs).clone())
    return ordered


def ranking(net: Elastic, name: str, scores: Tensor) -> Tensor:
    """An axis' features from the highest score to the lowest, int64 (size,). Raises ScoreError."""
    axis = net.free.get(name)
    if axis is None:
        raise ScoreError(f"There are scores for {name!r}, which is no axis that can be cut.")
    if scores.shape != (axis.size,):
        raise ScoreError(
            f"The scores of {name!r} are of shape {tuple(scores.shape)}; give one for each of its "
            f"{axis.size} features."
        )
    if scores.isnan().any():
        raise ScoreError(f"A score of {name!r} is not a number; compute the scores again.")
    return scores.argsort(descending=True, stable=True).cpu()
