"""How weights of different tensors are compared when some of them go."""

from __future__ import annotations

from typing import Final, Literal, get_args

import torch
from torch import Tensor

Scope = Literal["tensor", "global", "lamp"]
SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)


def checked(scope: Scope) -> Scope:
    """The same. Raises ValueError for what is none."""
    if scope not in SCOPES:
        raise ValueError(f"The scope is {scope!r}; give 'tensor', 'global' or 'lamp'.")
    return scope


def lamp(values: Tensor) -> Tensor:
    """Magnitudes of one tensor made comparable with those of others: float64, of the same shape.

    The square of each, as a share of the sum of the squares that are at least as large (Lee et al.,
    "Layer-adaptive sparsity for the magnitude-based pruning", 2021). The largest one of every
    tensor gets 1, however small it is, and the order within a tensor stays as it is; of equal ones
    those that come first get less. Sorts, which takes several times as long as choosing does.

    values: not negative but for -inf, which stays: the mark of what is gone already.
    """
    flat = values.detach().flatten()
    ordered, order = flat.sort(stable=True)
    squares = ordered.to(torch.float64).clamp_min(0).square_()
    rest = squares.flip(0).cumsum(0).flip(0)  # of this one and all that are at least as large
    shares = torch.empty_like(squares)
    shares[order] = squares / rest.clamp_min(torch.finfo(torch.float64).tiny)
    return shares.masked_fill_(flat == -torch.inf, -torch.inf).view(values.shape)
