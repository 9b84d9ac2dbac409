"""Rewrite a captured graph with widths put in.

Literal sizes in the graph become what the rules said they follow. With widths as graph inputs the
result is the elastic graph, which slices its full parameters and runs every width; with numbers it
is the graph of one cut network, whose parameters are the slices already.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import torch
from torch import fx
from torch.fx.proxy import GraphAppendingTracer

from widthwise.graph.axes import Axes
from widthwise.graph.dims import Factor, Term, fully_fixed, resolve
from widthwise.graph.memory import arguments, memory
from widthwise.graph.relate import Related
from widthwise.graph.slicing import count, layout, part, put_back, simple

Kept = Callable[[Factor], Any]

# Operators that update an argument in place although their schema does not say so.
_UPDATES = {
    torch.ops.aten.batch_norm.default: ("running_mean", "running_var"),
    torch.ops.aten.instance_norm.default: ("running_mean", "running_var"),
}


def elastic_graph(
    related: Related,
    axes: Axes,
    scaled: frozenset[tuple[str, int]] = frozenset(),
    *,
    shared: AbstractSet[fx.Node] = frozenset(),
    given: Sequence[fx.Node] = (),
) -> fx.Graph:
    """The graph with one integer input for each free axis, first and in order.

    scaled: (tensor name, dim) whose slices are multiplied by full size / width, the scale of
    structural dropout as published, folded into the weights that read the features.
    shared: operators that are left out; given: the ones whose values at full width are further
    inputs, last and in order (see shared.py).
    """
    graph = fx.Graph()
    names = {name: graph.placeholder(f"width_{i}") for i, name in enumerate(axes.free)}
    tracer = GraphAppendingTracer(graph)
    proxies = {name: fx.Proxy(node, tracer) for name, node in names.items()}
    # What no parameter holds (copies made by expand, say) is no axis and stays full.
    rewriter = _Rewriter(
        related,
        graph,
        lambda f: proxies[axes.of[f]] if f in axes.of else f.size,
        scaled,
        slices=True,
    )
    return rewriter.run(shared, given)


def cut_graph(related: Related, axes: Axes, widths: Mapping[str, int]) -> fx.Graph:
    """The graph of the network cut to these widths; its state inputs are the cut tensors."""
    return _Rewriter(related, fx.Graph(), keeper(axes, widths), frozenset(), slices=False).run()


def keeper(axes: Axes, widths: Mapping[str, int]) -> Callable[[Factor], int]:
    """How many features of a factor are kept at these widths."""
    return lambda f: widths[axes.of[f]] if f in axes.of else f.size


class _Rewriter:
    def __init__(
        self,
        related: Related,
        graph: fx.Graph,
        kept: Kept,
        scaled: frozenset[tuple[str, int]],
        slices: bool,
    ) -> None:
        self.related = related
        self.graph = graph
        self.kept = kept
        self.scaled = scaled
        self.slices = slices
        self.home = memory(related.program.graph)
        self.new: dict[fx.Node, Any] = {}
        self.counts: dict[Term, Any] = {}
        # sliced node -> (full tensor, dims) of slices that are copies
        self.copies: dict[fx.Node, tuple[fx.Node, Any]] = {}

    def run(
        self, shared: AbstractSet[fx.Node] = frozenset(), given: Sequence[fx.Node] = ()
    ) -> fx.Graph:
        placeholders = self.related.program.graph.find_nodes(op="placeholder")
        for node in placeholders:
            self.new[node] = self.graph.node_copy(node)
        for node in given:
            self.new[node] = self.graph.placeholder(node.name)
        if self.slices:
            for node in (*placeholders, *given):
                self._slice(node)
        for node in self.related.program.graph.nodes:
            if node.op != "placeholder" and node not in shared:
                self._copy(node)
        self.graph.lint()
        return self.graph

    def _slice(self, node: fx.Node) -> None:
        """Put the cut part of a parameter, buffer or shared value in the place of the whole."""
        target = self.related.program.state.get(node.name, "")
        terms = self.related.dims.get(node, ())
        dims = tuple(
            (d, _nodes(layout(term, self.kept)))
            for d, term in enumerate(terms)
            if not fully_fixed(term)
        )
        if not dims:
            return
        full = self.new[node]
        sliced = self.graph.call_function(part, (full, dims))
        sliced.meta = {"val": node.meta.get("val")}
        if not all(simple(spec) for _, spec in dims):
            self.copies[sliced] = (full, dims)
        for d, term in enumerate(terms):
            if (target, d) in self.scaled and not fully_fixed(term):
                ratio = math.prod(f.size for f in resolve(term)) / self._count(term)
                sliced = self.graph.call_function(torch.mul, (sliced, ratio.node))
        self.new[node] = sliced

    def _copy(self, node: fx.Node) -> None:
        copied = self.graph.node_copy(node, lambda n: self.new[n])
        self.new[node] = copied
        for name, terms in self.related.follow.get(node, {}).items():
            self._follow(node, copied, name, terms)
        self._write_back(node)

    def _follow(self, node: fx.Node, copied: fx.Node, name: str, terms: Any) -> None:
        """Let one argument of an operator follow the widths."""
        assert isinstance(node.target, torch._ops.OpOverload)
        names = [a.name for a in node.target._schema.arguments]
        if name not in names:
            return
        at = names.index(name)
        positional = at < len(copied.args)
        literal = copied.args[at] if positional else copied.kwargs.get(name)
        if literal is None and isinstance(terms, tuple):
            return  # an open bound stays open
        with self.graph.inserting_before(copied):
            if isinstance(terms, list):
                assert isinstance(literal, (list, tuple))
                pairs = zip(literal, terms, strict=True)
                value: Any = [self._size(old, term) for old, term in pairs]
            else:
                value = self._size(literal, terms)
        if positional:
            copied.args = (*copied.args[:at], value, *copied.args[at + 1 :])
        else:
            copied.kwargs = {**copied.kwargs, name: value}

    def _size(self, literal: Any, term: Term) -> Any:
        """A literal size in terms of the widths; -1, "to the end" and uncut sizes stay."""
        open_end = isinstance(literal, int) and not 0 <= literal < sys.maxsize
        if fully_fixed(term) or open_end:
            return literal
        if not isinstance(literal, fx.Node):
            return _node(self._count(term))
        # A size that came with the input times features: scale the features' share of it.
        free = tuple(f for f in resolve(term) if not fully_fixed((f,)))
        kept, full = self._count(free), math.prod(f.size for f in free)
        if isinstance(kept, int) and kept == full:
            return literal
        return self.graph.call_function(scaled_size, (literal, _node(kept), full))

    def _count(self, term: Term) -> Any:
        # Never cached across insertion points: a node must come before all its uses.
        return count(term, self.kept)

    def _write_back(self, node: fx.Node) -> None:
        """Statistics that an operator updates in a copied slice go back to the full buffer."""
        if not isinstance(node.target, torch._ops.OpOverload):
            return
        schema = node.target._schema.arguments
        written = {a.name for a in schema if a.alias_info and a.alias_info.is_write}
        if self.related.program.training:
            written |= set(_UPDATES.get(node.target, ()))
        given = arguments(node)
        for name in sorted(written & given.keys()):
            # What is written to may be a view, or the slice without its gradients.
            value = self.new[self.home[given[name]]] if isinstance(given[name], fx.Node) else None
            if value in self.copies:
                full, dims = self.copies[value]
                self.graph.call_function(put_back, (full, dims, value))


def scaled_size(size: int, kept: int, full: int) -> int:
    """A size that holds `full` features, with `kept` of them."""
    return size // full * kept


def _node(value: Any) -> Any:
    return value.node if isinstance(value, fx.Proxy) else value


def _nodes(spec: Any) -> Any:
    """A layout with graph nodes in the place of proxies."""
    if isinstance(spec, tuple):
        return tuple(_nodes(s) for s in spec)
    return _node(spec)
