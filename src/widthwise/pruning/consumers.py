"""Which dims of which parameters read features, that is, sum over them.

The rules know those that operators take as they are. Added here are the weights that a recurrent
layer multiplies its own features by, and weights that are transposed, or picked from, first.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass

from torch import fx

from widthwise.elastic.network import Elastic
from widthwise.graph.dims import Factor, Term, free_factors
from widthwise.graph.relate import Related
from widthwise.measure.shape_costs import is_recurrent

Dim = tuple[str, int]  # of a tensor

_VIEWS = frozenset(
    """
    t transpose permute numpy_T view reshape _unsafe_view flatten unflatten squeeze unsqueeze
    expand contiguous clone alias index index_select slice select
    split split_with_sizes chunk unbind getitem
    """.split()
)


@dataclass(frozen=True)
class Readers:
    """read: the dims of parameters that read features. tied: the ones that make some, too."""

    read: frozenset[Dim]
    tied: frozenset[Dim]


def find_readers(net: Elastic) -> Readers:
    """The readers of all axes."""
    related = net.engine.evaluation
    users: dict[Dim, set[fx.Node]] = {}
    parameter: dict[Dim, fx.Node] = {}
    for node in related.contracted:
        for place, source, user in _read_by(net, related, node):
            users.setdefault(place, set()).add(user)
            parameter[place] = source
    tied = {p for p, by in users.items() if parameter[p].users.keys() - by}
    return Readers(frozenset(net.engine.relations.consumed | users.keys()), frozenset(tied))


def _name(node: fx.Node) -> str:
    if node.target is operator.getitem:
        return "getitem"
    return str(node.target).removeprefix("aten.").split(".")[0]


def _read_by(
    net: Elastic, related: Related, node: fx.Node
) -> Iterator[tuple[Dim, fx.Node, fx.Node]]:
    """(what an operator reads features with, its parameter, the operator that takes this)."""
    wanted = {f for term in related.contracted[node] for f in free_factors(term)}
    sources, state = node.all_input_nodes, related.program.state
    direct: set[Factor] = set()
    for source in sources:
        name = state.get(source.name, "")
        for dim, term in enumerate(net.engine.relations.state.get(name, ())):
            read = (name, dim) in net.engine.relations.consumed or (is_recurrent(node) and dim == 1)
            if read and _holds(term, wanted):
                direct.update(free_factors(term))
                yield (name, dim), source, node
    if len(sources) < 2:
        return  # a sum over the features of one thing, which nothing is multiplied by
    for source in sources:
        found, user = _origin(source, node)
        name = state.get(found.name, "")
        terms = net.engine.relations.state.get(name, ())
        dims = [d for d, term in enumerate(terms) if _holds(term, wanted - direct)]
        if len(dims) == 1:
            yield (name, dims[0]), found, user


def _holds(term: Term, wanted: set[Factor]) -> bool:
    return any(f in wanted for f in free_factors(term))


def _origin(node: fx.Node, user: fx.Node) -> tuple[fx.Node, fx.Node]:
    """What a chain of views begins with, and what takes it first."""
    while node.op == "call_function" and _name(node) in _VIEWS:
        node, user = node.all_input_nodes[0], node
    return node, user


__all__ = ["Dim", "Readers", "find_readers"]
