"""Allocation: how many features each axis keeps under a budget, decided by scores.

    widths = allocate(net, scores, max_params=100_000)
    order(net, scores)
    small = net.cut(widths)
    frontier = sweep(net, evaluation, allocated_ladder(net, scores, 16))

From full width on, the features with the lowest score for what they free (parameters, bytes,
multiply-accumulates) go first, until the budget is met. The scores must be comparable across axes,
as those are that estimate a change of the loss.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx
from torch.utils.flop_counter import FlopCounterMode

from widthwise.elastic import Elastic
from widthwise.errors import BudgetError
from widthwise.graph.axes import Axis
from widthwise.graph.dims import Term, free_factors, size
from widthwise.graph.relate import Related
from widthwise.graph.rewrite import keeper
from widthwise.graph.slicing import count
from widthwise.importance.lockstep import Side
from widthwise.importance.order import ranking
from widthwise.importance.places import is_recurrent
from widthwise.measure.cost import FORMULAS, batch_size
from widthwise.measure.size import parse_size
from widthwise.store.file import prepare
from widthwise.variant import Widths

_STEPS = 64  # a step removes one of so many features that are left


def allocate(
    net: Elastic,
    scores: Mapping[str, Tensor],
    *,
    max_params: int | None = None,
    max_bytes: int | str | None = None,
    max_macs: int | None = None,
    least: float = 0.0,
) -> Widths:
    """The widths that lose the least score within one budget.

    scores: (size,) for each axis that may be cut; axes without scores, and axes inside another (a
        head size), stay full. The network need not be ordered by them yet.
    max_params: numbers in the parameters. max_bytes: of the stored file, a number or a text such as
        "300kB". max_macs: multiply-accumulates for one example, counted layer by layer.
    least: the share of its features that every axis keeps.

    Raises BudgetError unless exactly one budget is given, and when it cannot be met, naming the
    smallest that can; ScoreError as `order` does.
    """
    given = {"params": max_params, "bytes": max_bytes, "macs": max_macs}
    chosen = [(unit, limit) for unit, limit in given.items() if limit is not None]
    if len(chosen) != 1:
        raise BudgetError("Give one budget: max_params, max_bytes or max_macs.")
    ((unit, limit),) = chosen
    limit = parse_size(limit) if unit == "bytes" else int(limit)
    reached = 0.0
    for widths, total in removals(net, scores, unit, least):
        reached = total
        if unit == "bytes" and total <= limit:
            reached = prepare(net, widths).bytes  # the file has a header too
        if reached <= limit:
            return widths
    if unit == "bytes":
        reached = prepare(net, widths).bytes
    raise BudgetError(
        f"{limit:,} {unit} cannot be met; the least that these scores reach is {int(reached):,}."
    )


def allocated_ladder(
    net: Elastic,
    scores: Mapping[str, Tensor],
    rungs: int = 16,
    *,
    lowest: float = 1 / 16,
    drawn: bool = True,
) -> list[Widths]:
    """Widths from narrow to full for `sweep`, as `allocate` gives them.

    rungs: how many, each the same factor above the last in parameters. lowest: the share of the
    parameters that the first has, or the least that can be reached.
    drawn: no axis is narrower than training draws it (`net.lowest`). False for rungs that a
        training is still to draw from (`SandwichLoss(rungs=...)`).
    """
    path = list(removals(net, scores, "params", floors=net.lowest if drawn else {}))
    full = path[0][1]
    wanted = [full * lowest ** (i / max(1, rungs - 1)) for i in range(rungs)]
    found = [next((w for w, total in path if total <= most), path[-1][0]) for most in wanted]
    return list(dict.fromkeys(reversed(found)))


def removals(
    net: Elastic,
    scores: Mapping[str, Tensor],
    unit: str,
    least: float = 0.0,
    floors: Mapping[str, int] | None = None,
) -> Iterator[tuple[Widths, float]]:
    """(widths, cost) from full width down to the least, one removal after the other.

    unit: of the cost, "params", "bytes" (of the tensors) or "macs". least, floors: what every axis
    keeps, as a share and, by axis, in features.
    """
    lost = {name: scores[name][ranking(net, name, scores[name])].double() for name in scores}
    axes = {n: a for n, a in net.free.items() if n in lost and a.inner_of is None}
    costs = _Costs(net, unit)
    widths = dict(net.full())
    kept = {n: max((floors or {}).get(n, 1), math.ceil(least * a.size)) for n, a in axes.items()}
    prices = {n: _price(axis, lost[n], costs, widths, kept[n]) for n, axis in axes.items()}
    yield Widths(widths), costs.total(widths)
    while any(price < math.inf for price in prices.values()):
        name = min(prices, key=lambda n: prices[n])
        widths[name] = _below(axes[name], widths[name], kept[name])
        yield Widths(widths), costs.total(widths)
        for other in costs.neighbours(name) & axes.keys():
            prices[other] = _price(axes[other], lost[other], costs, widths, kept[other])


def _below(axis: Axis, width: int, least: int) -> int:
    """The next smaller width to try, 0 when there is none."""
    step = max(1, width // _STEPS)
    # The full size may be off the grid, from which the first step is then shorter.
    wanted = (width - step) // axis.grid.multiple_of * axis.grid.multiple_of
    lowest = axis.grid.up(max(1, least))
    return max(wanted, lowest) if width > lowest else 0


def _price(axis: Axis, lost: Tensor, costs: _Costs, widths: Mapping[str, int], least: int) -> float:
    """What the next removal loses for each unit that it frees; infinite when there is none."""
    width = widths[axis.name]
    below = _below(axis, width, least)
    freed = costs.freed(axis.name, widths, below) if below else 0.0
    return float(lost[below:width].sum()) / freed if freed > 0 else math.inf


@dataclass(frozen=True)
class _Part:
    """A share of the cost: an amount times the numbers of features that these terms keep."""

    amount: float
    terms: tuple[Term, ...]


class _Costs:
    """What a network costs at any widths, as a sum of parts."""

    def __init__(self, net: Elastic, unit: str) -> None:
        self.net = net
        self.parts = list({"params": _params, "bytes": _bytes, "macs": _macs}[unit](net))
        self.of: dict[str, list[_Part]] = {name: [] for name in net.free}
        self.axes: dict[int, set[str]] = {}
        for part in self.parts:
            factors = {f for term in part.terms for f in free_factors(term)}
            names = {net.table.of[f] for f in factors if f in net.table.of}
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
        keep = keeper(self.net.table, widths)
        shares = (p.amount * math.prod(count(t, keep) for t in p.terms) for p in parts)
        return float(round(sum(shares)))


def _params(net: Elastic) -> Iterator[_Part]:
    parameters = {id(p) for p in net.model.parameters()}
    for tensor, terms in _distinct(net):
        if id(tensor) in parameters:
            yield _Part(1.0, terms)


def _bytes(net: Elastic) -> Iterator[_Part]:
    for tensor, terms in _distinct(net):
        yield _Part(float(tensor.element_size()), terms)


def _distinct(net: Elastic) -> Iterator[tuple[Tensor, tuple[Term, ...]]]:
    """Every tensor with the terms of its dims, tied ones once."""
    state = net.state()
    seen: set[int] = set()
    for name, dims in net.relations.state.items():
        if id(state[name]) not in seen:
            seen.add(id(state[name]))
            yield state[name], tuple(dims)


def _macs(net: Elastic) -> Iterator[_Part]:
    """One part for each operator that sums over features: its output's dims x what it sums over."""
    related, example = net.evaluation, net.example()
    program, state = related.program, {n: t.detach() for n, t in net.state().items()}
    inputs = [pytree.tree_leaves(example)]
    side = Side(program.graph, list(program.state.values()), state, inputs)
    samples = batch_size(*example)
    for node in program.graph.nodes:
        if node.op != "call_function":
            continue
        with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=FORMULAS) as counter:
            side.run(node)
        side.forget(node)
        macs = counter.get_total_flops() / 2 / samples
        if macs:
            yield from _shares(related, node, macs)


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


__all__ = ["allocate", "allocated_ladder", "removals"]
