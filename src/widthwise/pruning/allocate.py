"""Allocation: how many features each axis keeps under a budget, decided by scores.

    widths = allocate(net, scores, max_params=100_000)
    order(net, scores)
    small = net.cut(widths)
    frontier = sweep(net, evaluation, allocated_levels(net, scores, 16))

From full width on, the features with the lowest score for what they free (parameters, bytes,
multiply-accumulates) go first, until the budget is met. The scores must be comparable across axes,
as those are that estimate a change of the loss.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from torch import Tensor

from widthwise.common.units import parse_size
from widthwise.elastic.network import Elastic
from widthwise.errors import BudgetError
from widthwise.graph.axes import Axis
from widthwise.measure.shape_costs import Costs, Unit
from widthwise.pruning.order import ranking
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

    Args:
        scores: (size,) for each axis that may be cut; axes without scores, and axes inside another
            (a head size), stay full. The network need not be ordered by them yet.
        max_params: numbers in the parameters.
        max_bytes: of the stored file, a number or a text such as "300kB".
        max_macs: multiply-accumulates for one example, counted layer by layer.
        least: the share of its features that every axis keeps.

    Raises:
        BudgetError: Unless exactly one budget is given, and when it cannot be met, naming the
            smallest that can.
        ScoreError: As `order` does.
    """
    given: dict[Unit, int | str | None] = {
        "params": max_params,
        "bytes": max_bytes,
        "macs": max_macs,
    }
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


def allocated_levels(
    net: Elastic,
    scores: Mapping[str, Tensor],
    count: int = 16,
    *,
    lowest: float = 1 / 16,
    drawn: bool = True,
) -> list[Widths]:
    """Widths from narrow to full for `sweep`, as `allocate` gives them.

    Args:
        count: how many levels, each the same factor above the last in parameters.
        lowest: the share of the parameters that the first has, or the least that can be reached.
        drawn: no axis is narrower than training draws it (`net.lowest`). False for levels that a
            training is still to draw from (`SandwichLoss(levels=...)`).
    """
    path = list(removals(net, scores, "params", floors=net.lowest if drawn else {}))
    full = path[0][1]
    wanted = [full * lowest ** (i / max(1, count - 1)) for i in range(count)]
    found = [next((w for w, total in path if total <= most), path[-1][0]) for most in wanted]
    return list(dict.fromkeys(reversed(found)))


def removals(
    net: Elastic,
    scores: Mapping[str, Tensor],
    unit: Unit,
    least: float = 0.0,
    floors: Mapping[str, int] | None = None,
) -> Iterator[tuple[Widths, float]]:
    """(widths, cost) from full width down to the least, one removal after the other.

    unit: of the cost, "params", "bytes" (of the tensors) or "macs". least, floors: what every axis
    keeps, as a share and, by axis, in features.
    """
    lost = {name: scores[name][ranking(net, name, scores[name])].double() for name in scores}
    axes = {n: a for n, a in net.free.items() if n in lost and a.inner_of is None}
    costs = Costs(net, unit)
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


def _price(axis: Axis, lost: Tensor, costs: Costs, widths: Mapping[str, int], least: int) -> float:
    """What the next removal loses for each unit that it frees; infinite when there is none."""
    width = widths[axis.name]
    below = _below(axis, width, least)
    freed = costs.freed(axis.name, widths, below) if below else 0.0
    return float(lost[below:width].sum()) / freed if freed > 0 else math.inf


__all__ = ["allocate", "allocated_levels", "removals"]
