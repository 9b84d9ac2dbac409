"""Symbolic sizes that the model needs to be equal although torch.export gave them two names."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from sympy import Integer
from torch import fx

aten = torch.ops.aten

_VIEWS = {aten._unsafe_view.default, aten.reshape.default, aten.view.default}


def same_symbols(graph: fx.Graph) -> dict[Any, Any]:
    """Symbol -> the symbol that it equals, from views, which keep the number of elements.

    Two inputs of one batch each have a symbol for it. Where a view of one takes its size from the
    other (as attention does with keys and queries), torch records that the numbers of elements are
    equal and does not conclude that the batches are.
    """
    same: dict[Any, Any] = {}
    for node in graph.nodes:
        if node.target not in _VIEWS:
            continue
        before, wanted = node.args[0].meta["val"].shape, [_value(s) for s in node.args[1]]
        if any(isinstance(s, int) and s < 0 for s in wanted) or 0 in before:
            continue
        ratio = (_product(before) / _product(wanted)).xreplace(same)
        powers: dict[Any, int] = ratio.as_powers_dict()
        if sorted(powers.values()) == [-1, 1] and all(s.is_Symbol for s in powers):
            old, new = sorted(powers, key=str, reverse=True)
            same = {k: v.xreplace({old: new}) for k, v in same.items()} | {old: new}
    return same


def _value(size: Any) -> Any:
    return size.meta["val"] if isinstance(size, fx.Node) else size


def _product(sizes: Iterable[Any]) -> Any:
    """The product of sizes as an expression."""
    return math.prod(s.node.expr if isinstance(s, torch.SymInt) else Integer(s) for s in sizes)
