"""Whose memory the values of a graph lie in, and which operators write to it."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx


def memory(graph: fx.Graph) -> dict[fx.Node, fx.Node]:
    """For each node the node that made the memory its value lies in, as far as schemas tell."""
    made: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        made[node] = node
        if isinstance(node.target, torch._ops.OpOverload):
            named = [arguments(node).get(a.name) for a in _aliased(node)]
            sources = [s for s in named if isinstance(s, fx.Node)]
            if not sources and _may_alias(node):
                sources = node.all_input_nodes
        else:  # getitem
            sources = node.all_input_nodes if node.op == "call_function" else []
        if sources:
            made[node] = made[sources[0]]
    return made


def _may_alias(node: fx.Node) -> bool:
    """Operators that may or may not copy, of which their schemas say nothing."""
    name = str(node.target).removeprefix("aten.").split(".")[0]
    return name in {"reshape", "contiguous", "to", "flatten", "dropout", "type_as", "reshape_as"}


def _aliased(node: fx.Node) -> list[Any]:
    assert isinstance(node.target, torch._ops.OpOverload)
    return [a for a in node.target._schema.arguments if a.alias_info is not None]


def written(node: fx.Node) -> list[fx.Node]:
    """The tensors that an operator writes to."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return []
    values = arguments(node)
    given = [values.get(a.name) for a in _aliased(node) if a.alias_info.is_write]
    return [v for v in given if isinstance(v, fx.Node)]


def arguments(node: fx.Node) -> dict[str, Any]:
    """The arguments given to an operator, by the names of its schema."""
    assert isinstance(node.target, torch._ops.OpOverload)
    names = [a.name for a in node.target._schema.arguments]
    return dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
