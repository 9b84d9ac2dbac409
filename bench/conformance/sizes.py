"""The example at other sizes: batches, and lengths of sequences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor

Inputs = tuple[tuple[Any, ...], dict[str, Any]]


def other_sizes(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[tuple[str, Inputs]]:
    """Inputs at three other batch sizes, and three other lengths where there is one, by name."""
    tensors = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    batches = Counter(x.shape[0] for x in tensors if x.dim())
    if batches:
        batch = batches.most_common(1)[0][0]
        for size in (1, batch + 1, 3 * batch + 1):
            yield f"batch {size}", resized(args, kwargs, 0, batch, size)
    lengths = Counter(x.shape[1] for x in tensors if _is_sequence(x))
    if lengths:
        length = lengths.most_common(1)[0][0]
        for size in dict.fromkeys((max(length // 2, 1), length + 1, 2 * length + 1)):
            yield f"length {size}", resized(args, kwargs, 1, length, size)


def _is_sequence(x: Tensor) -> bool:
    """Whether dim 1 may be a length: token ids, masks, (batch, length, features)."""
    return x.dim() == 3 or (x.dim() == 2 and not x.is_floating_point())


def resized(args: Any, kwargs: Any, dim: int, before: int, after: int) -> Inputs:
    """Every tensor of this size in dim (0: batch, 1: length) at another; its entries repeat."""

    def one(x: Tensor) -> Tensor:
        eligible = x.dim() > dim and x.shape[dim] == before and (dim == 0 or x.dim() in (2, 3))
        if not eligible:
            return x
        picked = torch.arange(after) * 7 % before if before % 7 else torch.arange(after) % before
        new = x.index_select(dim, picked)
        if not new.is_floating_point():
            return new
        draws = torch.Generator().manual_seed(after)
        return new + 0.1 * torch.randn(new.shape, generator=draws, dtype=new.dtype)

    changed: Inputs = pytree.tree_map_only(Tensor, one, (args, kwargs))
    return changed
