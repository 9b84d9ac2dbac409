"""Symbolic sizes that the model needs to be equal although torch.export gave them two names."""

from __future__ import annotations

import math
from typing import Any

import torch
from sympy import Integer
from torch import Tensor, fx

aten = torch.ops.aten

_VIEWS = {
    aten._unsafe_view.default,
    aten.flatten.using_ints,
    aten.reshape.default,
    aten.unflatten.int,
    aten.view.default,
}


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
        ratio = _elements(node.args[0]) / _elements(node)
        powers: dict[Any, int] = ratio.xreplace(same).as_powers_dict()
        if sorted(powers.values()) == [-1, 1] and all(s.is_Symbol for s in powers):
            old, new = sorted(powers, key=str, reverse=True)
            same = {k: v.xreplace({old: new}) for k, v in same.items()} | {old: new}
    return same


def _elements(node: Any) -> Any:
    """The number of elements of a node's tensor, as an expression."""
    value: Tensor = node.meta["val"]
    return math.prod(_expression(s) for s in value.shape)


def _expression(size: Any) -> Any:
    return size.node.expr if isinstance(size, torch.SymInt) else Integer(size)
