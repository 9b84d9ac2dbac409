"""What all widths share: computed once at full width, then cut.

Up to the first operator that sums over, or compares, features that can be cut, a narrower network's
values are parts of the full network's values: the first layer of an MLP, everything before the
second convolution of a CNN. The evaluation graph is split there. The shared part runs once for a
batch; the rest is the elastic graph of what remains, and gets the shared values as further inputs,
which it slices as it slices parameters.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx

from widthwise.graph.axes import Axes
from widthwise.graph.capture.own_functions import Whole
from widthwise.graph.dims import fully_fixed
from widthwise.graph.memory import arguments, memory, written
from widthwise.graph.partial_sums import use_partial_sums
from widthwise.graph.relate import Related, is_shareable
from widthwise.graph.rewrite import elastic_graph


def split_graph(
    related: Related, axes: Axes, scaled: frozenset[tuple[str, int]] = frozenset()
) -> tuple[fx.Graph, fx.Graph]:
    """(shared, rest) of a graph without training-time state.

    shared: state and inputs -> tuple of the values that the rest reads, at full width.
    rest: widths, state, inputs, those values and a dict that starts empty -> outputs; as
    `elastic_graph` otherwise.
    """
    shared = shared_nodes(related, scaled)
    graph = related.program.graph
    given = [
        n
        for n in graph.nodes
        if n.op != "placeholder" and n in shared and any(u not in shared for u in n.users)
    ]
    rest = elastic_graph(related, axes, scaled, shared=shared, given=given)
    use_partial_sums(rest, {n.name for n in given})
    return _only(graph, shared, given), rest


def _only(graph: fx.Graph, shared: set[fx.Node], given: list[fx.Node]) -> fx.Graph:
    """The shared part as a graph of its own."""
    made = fx.Graph()
    new: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        if node.op == "placeholder" or node in shared:
            new[node] = made.node_copy(node, lambda n: new[n])
    made.output(tuple(new[n] for n in given))
    made.eliminate_dead_code()
    made.lint()
    return made


def shared_nodes(
    related: Related, scaled: frozenset[tuple[str, int]] = frozenset()
) -> set[fx.Node]:
    """The nodes whose value at any width is a part of their value at full width.

    scaled: tensors whose slices are multiplied by a factor of the width; they cannot be shared.
    """
    graph, state = related.program.graph, related.program.state
    changing = {name for name, _ in scaled}
    blocked = {n for n in graph.find_nodes(op="placeholder") if state.get(n.name) in changing}
    blocked |= {n for n in graph.nodes if _is_random(n) or _counts_features(related, n)}
    while True:
        found: dict[fx.Node, bool] = {}
        for node in graph.nodes:
            found[node] = (
                node.op != "output" and node not in blocked and is_shareable(related, node, found)
            )
        shared = {n for n, yes in found.items() if yes}
        wrong = set(_overwritten(graph, shared)) - blocked
        if not wrong:
            return shared
        blocked |= wrong


def _is_random(node: fx.Node) -> bool:
    """Draws that every width must make by itself; what user code does is not known."""
    if isinstance(node.target, Whole):
        return True
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    if torch.Tag.nondeterministic_seeded not in node.target.tags:
        return False
    values = arguments(node)
    off = (values.get(n, True) is False for n in ("train", "training"))
    return not any(off) and values.get("dropout_p", 1) != 0


def _counts_features(related: Related, node: fx.Node) -> bool:
    """Numbers taken from sizes that can be cut, which are not parts of anything."""
    if node.op != "call_function" or isinstance(related.program.sizes.get(node), list):
        return False
    if node.target is torch.ops.aten.sym_size.int:
        source, dim = node.args
        dims = related.dims.get(source, [])  # type: ignore[arg-type]
        return bool(dims) and not fully_fixed(dims[dim])
    return any(
        not fully_fixed(term)
        for source in node.all_input_nodes
        if isinstance(related.program.sizes.get(source), list)
        for term in _flat(related.dims.get(source))
    )


def _flat(dims: Any) -> Iterator[Any]:
    for item in dims or ():
        if isinstance(item, list):
            yield from _flat(item)
        else:
            yield item


def _overwritten(graph: fx.Graph, shared: set[fx.Node]) -> Iterator[fx.Node]:
    """Shared nodes that must not be, because of operators that write in place.

    A shared value must stay as it is while the rest runs, once for each width: neither may the rest
    write to its memory, nor may a shared operator overwrite what the rest still reads.
    """
    lies_in = memory(graph)
    position = {n: i for i, n in enumerate(graph.nodes)}
    for node in graph.nodes:
        for target in written(node):
            aliases = {n for n in lies_in if lies_in[n] is lies_in[target]}
            readers = {u for n in aliases for u in n.users if u not in shared}
            early = any(position[u] < position[node] for u in readers)
            if node not in shared:
                yield from aliases & shared
            elif early or lies_in[target].op == "placeholder":
                yield node
