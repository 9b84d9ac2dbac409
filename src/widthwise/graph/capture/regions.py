"""Regions of a captured graph in which gradients are off, put in line.

torch.export makes a graph of its own of what runs under `no_grad` or `autocast`. In line, a region
without gradients is the same operators on detached tensors: nothing that it computes takes part in
gradients, whatever mode the whole network is called in.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from widthwise.errors import CaptureError
from widthwise.graph.memory import written


def inline_regions(owner: fx.GraphModule, graph: fx.Graph) -> None:
    """Put the bodies of all regions in line.

    Raises CaptureError for a region that switches autocast on.
    """
    for node in list(graph.nodes):
        region = _region(owner, node)
        if region is None:
            continue
        with graph.inserting_before(node):
            results = _Inliner(graph).run(region, list(region.given))
        for user in list(node.users):
            if user.target is operator.getitem:
                user.replace_all_uses_with(results[user.args[1]])  # type: ignore[index]
                graph.erase_node(user)
        graph.erase_node(node)


@dataclass(frozen=True)
class _Region:
    """A graph, what it is given, and whether gradients are on in it (None: as around it)."""

    body: fx.GraphModule
    given: tuple[Any, ...]
    enabled: bool | None


def _region(owner: fx.GraphModule, node: fx.Node) -> _Region | None:
    name = getattr(node.target, "__name__", "")
    if node.op != "call_function" or not name.startswith("wrap_with_"):
        return None
    if name == "wrap_with_autocast" and node.args[2]:
        raise CaptureError(
            "The model switches autocast on inside forward, which its narrower networks would "
            "lose; take it out of forward and call the network under autocast instead."
        )
    at = next(i for i, a in enumerate(node.args) if isinstance(a, fx.Node) and a.op == "get_attr")
    body: Any = getattr(owner, str(node.args[at].target))  # type: ignore[union-attr]
    enabled = bool(node.args[0]) if name == "wrap_with_set_grad_enabled" else None
    return _Region(body, tuple(node.args[at + 1 :]), enabled)


@dataclass
class _Inliner:
    """Copies regions into a graph.

    detached: node of the graph -> the same tensor without gradients. free: nodes that take part in
    no gradient as it is.
    """

    graph: fx.Graph
    detached: dict[fx.Node, fx.Node] = field(default_factory=dict)
    free: set[fx.Node] = field(default_factory=set)

    def run(self, region: _Region, given: list[Any], outer: bool = True) -> Any:
        """The region's results as nodes of the graph; `outer`: whether gradients are on there."""
        enabled = outer if region.enabled is None else region.enabled
        body = region.body.graph
        values: dict[fx.Node, Any] = dict(
            zip(body.find_nodes(op="placeholder"), given, strict=True)
        )
        for node in body.nodes:
            inner = _region(region.body, node)
            if inner is not None:
                inside = [values[g] if isinstance(g, fx.Node) else g for g in inner.given]
                values[node] = self.run(inner, inside, enabled)
            elif node.op == "call_function":
                values[node] = self._copy(node, values, enabled)
            elif node.op == "output":
                results = fx.node.map_arg(node.args[0], lambda n: values[n])
                return results if isinstance(results, (tuple, list)) else (results,)
        raise AssertionError("a region without an output")

    def _copy(self, node: fx.Node, values: dict[fx.Node, Any], enabled: bool) -> Any:
        if node.target is operator.getitem and isinstance(values[node.args[0]], (tuple, list)):  # type: ignore[index]
            return values[node.args[0]][node.args[1]]  # type: ignore[index]
        if enabled:
            return self.graph.node_copy(node, lambda n: values[n])
        copied = self.graph.node_copy(node, lambda n: self._without_gradient(values[n]))
        returned = _returned(node)
        if returned is not None:
            return values[returned]
        self.free.add(copied)
        return copied

    def _without_gradient(self, node: fx.Node) -> fx.Node:
        value = node.meta.get("val")
        if node in self.free or not isinstance(value, Tensor):
            return node
        if not (value.is_floating_point() or value.is_complex()):
            return node
        if node not in self.detached:
            made = self.graph.call_function(torch.ops.aten.detach.default, (node,))
            made.meta = dict(node.meta)
            self.detached[node] = made
        return self.detached[node]


def _returned(node: fx.Node) -> fx.Node | None:
    """The argument that an operator writes to and returns, as the very same tensor."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return None
    returns = [r.alias_info for r in node.target._schema.returns]
    if len(returns) != 1 or returns[0] is None or not returns[0].is_write:
        return None
    return next(iter(written(node)), None)
