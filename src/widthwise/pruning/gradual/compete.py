"""How weights of different tensors are compared when some of them go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, get_args

import torch
from torch import Tensor

from widthwise.pruning.gradual.select import ascending, lowest

Scope = Literal["layer", "global", "lamp"]
SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)


def checked(scope: Scope) -> Scope:
    """The same. Raises ValueError for what is none."""
    if scope not in SCOPES:
        raise ValueError(f"The scope is {scope!r}; give 'layer', 'global' or 'lamp'.")
    return scope


def lamp(values: Tensor) -> Tensor:
    """Magnitudes of one tensor made comparable with other tensors': float64, of the same shape.

    The square of each, as a share of the sum of the squares that are at least as large (Lee et al.,
    "Layer-adaptive sparsity for the magnitude-based pruning", 2021). The largest one of every
    tensor gets 1, however small it is, and the order within a tensor stays as it is; of equal ones
    those that come first get less. Sorts, which takes several times as long as choosing does.

    values: not negative but for -inf, which stays: the mark of what is gone already.
    """
    flat = values.detach().flatten()
    ordered, order = flat.sort(stable=True)
    found = torch.empty(flat.shape, dtype=torch.float64, device=flat.device)
    found[order] = _shares(ordered)
    return found.masked_fill_(flat == -torch.inf, -torch.inf).view(values.shape)


def lowest_by_lamp(tensors: Sequence[Tensor], count: int) -> list[Tensor]:
    """Which `count` entries of all tensors are the lowest by `lamp`: bool (n,) for each of (n,).

    As choosing among the values of `lamp` does, in much less time: the order within a tensor is
    the order of magnitudes, so all that is to be found is how many of each tensor go.
    """
    together = lowest(torch.cat([_shares(ascending(values)) for values in tensors]), count)
    pieces = together.split([len(values) for values in tensors])
    return [
        lowest(values, int(gone.count_nonzero()))
        for values, gone in zip(tensors, pieces, strict=True)
    ]


def _shares(ordered: Tensor) -> Tensor:
    """The square of each as a share of the squares from it on, float64; ordered: ascending."""
    squares = ordered.to(torch.float64).clamp_min(0).square_()
    rest = squares.flip(0).cumsum(0).flip(0)  # of this one and all that are at least as large
    return squares / rest.clamp_min(torch.finfo(torch.float64).tiny)
