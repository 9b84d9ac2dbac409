"""What a network costs at any widths, told from the shapes: nothing is cut.

    costs = Costs(net, "macs")
    costs.total(net.full())                 # 268800.0
    costs.total({"0": 3, "2": 200})

Every cost is a sum of parts, such as a tensor or a matrix product, each an amount times the numbers
of features that some dims keep.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn
from torch.utils.flop_counter import FlopCounterMode

from widthwise.common.calling import batch_size
from widthwise.elastic.network import Elastic
from widthwise.graph.dims import Term, free_factors, size
from widthwise.graph.relate import Related
from widthwise.graph.rewrite import keeper
from widthwise.graph.rules import recurrent
from widthwise.graph.slicing import count
from widthwise.measure.cost import FORMULAS

Unit = Literal["params", "bytes", "macs"]


@dataclass(frozen=True)
class _Part:
    """A share of the cost: an amount times the numbers of features that these terms keep."""

    amount: float
    terms: tuple[Term, ...]


class Costs:
    """What a network costs at any widths, as a sum of parts.

    unit: "params", "bytes" (of the tensors) or "macs" (for one example).
    """

    def __init__(self, net: Elastic, unit: Unit) -> None:
        self.net = net
        self.parts = list({"params": _params, "bytes": _bytes, "macs": _macs}[unit](net))
        self.of: dict[str, list[_Part]] = {name: [] for name in net.free}
        self.axes: dict[int, set[str]] = {}
        for part in self.parts:
            factors = {f for term in part.terms for f in free_factors(term)}
            names = {net.engine.table.of[f] for f in factors if f in net.engine.table.of}
            self.axes[id(part)] = names
            for name in names:
                self.of[name].append(part)

    def total(self, widths: Mapping[str, int]) -> float:
        """The cost at these widths."""
        return self._sum(self.parts, widths)

    def freed(self, name: str, widths: Mapping[str, int], below: int) -> float:
        """What cutting one axis further would free."""
        parts = self.of[name]
        return self._sum(parts, widths) - self._sum(parts, {**widths, name: below})

    def neighbours(self, name: str) -> set[str]:
        """The axes whose prices depend on the width of this one, itself included."""
        return {other for part in self.of[name] for other in self.axes[id(part)]} | {name}

    def _sum(self, parts: list[_Part], widths: Mapping[str, int]) -> float:
        keep = keeper(self.net.engine.table, widths)
        shares = (p.amount * math.prod(count(t, keep) for t in p.terms) for p in parts)
        return float(round(sum(shares)))


def _params(net: Elastic) -> Iterator[_Part]:
    parameters = {id(p) for p in net.model.parameters()}
    for tensor, terms in _distinct(net).values():
        if id(tensor) in parameters:
            yield _Part(1.0, terms)


def _bytes(net: Elastic) -> Iterator[_Part]:
    for tensor, terms in _distinct(net).values():
        yield _Part(float(tensor.element_size()), terms)


def sizes(net: Elastic, widths: Mapping[str, int]) -> dict[str, int]:
    """How many numbers each tensor of the network has at these widths.

    Tied ones are there once, by the first of their names in the model.
    """
    keep = keeper(net.engine.table, net.complete(widths))
    return {
        name: math.prod(int(count(term, keep)) for term in terms)
        for name, (_, terms) in _distinct(net).items()
    }


def _distinct(net: Elastic) -> dict[str, tuple[Tensor, tuple[Term, ...]]]:
    """Every tensor with the terms of its dims; tied ones once, by the first of their names."""
    state: Mapping[str, Tensor] = net.engine.state()
    terms = {id(state[name]): tuple(dims) for name, dims in net.engine.relations.state.items()}
    names = (*dict(net.model.named_parameters()), *net.engine.relations.state)
    return {n: (state[n], terms.pop(id(state[n]))) for n in names if id(state[n]) in terms}


def _macs(net: Elastic) -> Iterator[_Part]:
    """One part for each operator that sums over features: its output's dims x what it sums over."""
    related, example = net.engine.evaluation, net.engine.example()
    program, state = related.program, net.engine.state()
    # Forward may write to buffers, and draw: neither is for the user to notice.
    held = [_unshared(state[name]) for name in program.state.values()]
    counter = _Counter(program.graph, held)
    with torch.no_grad(), torch.random.fork_rng([]):
        counter.run(*held, *pytree.tree_leaves(example))
    samples = batch_size(example) or 1
    for node, flops in counter.flops.items():
        if flops:
            yield from _shares(related, node, flops / 2 / samples)


def _unshared(tensor: Tensor) -> Tensor:
    kept = tensor.detach()
    return kept if isinstance(tensor, nn.Parameter) else kept.clone()


class _Counter(fx.Interpreter):
    """Runs a graph and counts the operations of each of its operators."""

    def __init__(self, graph: fx.Graph, state: list[Tensor]) -> None:
        super().__init__(nn.Module(), graph=graph)
        self.flops: dict[fx.Node, int] = {}
        # Where the parameters are; what operators make may have been elsewhere at the capture.
        self.device = state[0].device if state else torch.device("cpu")

    def run_node(self, n: fx.Node) -> Any:
        with FlopCounterMode(display=False, custom_mapping=FORMULAS) as counter:
            value = super().run_node(n)
        self.flops[n] = int(counter.get_total_flops())
        return value

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if "device" in kwargs:
            kwargs = {**kwargs, "device": self.device}
        return super().call_function(target, args, kwargs)


def is_recurrent(node: fx.Node) -> bool:
    """Whether an operator is a recurrent layer, or one step of it."""
    return str(node.target).removeprefix("aten.").split(".")[0] in recurrent.RULES


def _shares(related: Related, node: fx.Node, macs: float) -> Iterator[_Part]:
    """What an operator's multiply-accumulates are in proportion to."""
    if is_recurrent(node):
        # Every matrix is used once at each step.
        sources = [n for n in node.all_input_nodes if n.name in related.program.state]
        terms = [tuple(related.dims[n]) for n in sources if len(related.dims[n]) == 2]
        whole = sum(math.prod(map(size, t)) for t in terms)
        yield from (_Part(macs / whole, t) for t in terms)
        return
    if node.target is torch.ops.aten.scaled_dot_product_attention.default:
        query, key, value = (list(related.dims[n]) for n in node.all_input_nodes[:3])
        shared = (*query[:-1], key[-2])  # every two places compare keys and then add up values
        whole = size(query[-1]) + size(value[-1])
        for each in (query[-1], value[-1]):
            yield _part(macs * size(each) / whole, [*shared, each])
        return
    used = [*_first(related.dims.get(node, [])), *related.contracted.get(node, ())]
    yield _part(macs, used)


def _part(amount: float, terms: list[Term]) -> _Part:
    """An amount at full width that is in proportion to what these terms keep."""
    free = tuple(t for t in terms if next(free_factors(t), None) is not None)
    return _Part(amount / math.prod(map(size, free)), free)


def _first(dims: list[Term] | list[list[Term]]) -> list[Term]:
    """The terms of the first of an operator's outputs."""
    first = dims[0] if dims and isinstance(dims[0], list) else dims
    return list(first)  # type: ignore[arg-type]
