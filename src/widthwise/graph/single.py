"""Operators that know single precision only, called from a graph in double precision."""

from __future__ import annotations

from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx

from widthwise.graph.rules import quantization


def in_single(graph: fx.Graph) -> None:
    """Let fake quantization run in single precision; it rounds each entry by itself."""
    for node in graph.nodes:
        target = node.target
        if not isinstance(target, torch._ops.OpOverload):
            continue
        if target._schema.name.removeprefix("aten::") in quantization.RULES:
            node.args = (target, *node.args)
            node.target = single


def single(operator: torch._ops.OpOverload, *args: Any, **kwargs: Any) -> Any:
    """Call the operator on single-precision copies; what it writes goes back to the originals."""
    copies = [x.float() if _double(x) else x for x in args]
    result = operator(*copies, **kwargs)
    for argument, x, copy in zip(operator._schema.arguments, args, copies, strict=False):
        if copy is not x and argument.alias_info and argument.alias_info.is_write:
            x.copy_(copy)
    return pytree.tree_map_only(
        Tensor, lambda t: t.double() if t.is_floating_point() else t, result
    )


def _double(x: Any) -> bool:
    return isinstance(x, Tensor) and x.dtype is torch.float64
