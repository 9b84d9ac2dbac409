"""Widths to measure a network at, from narrow to full.

even_levels(net)                  # every width of an MLP, or 16 of them
usual_widths(net)            # along the levels of the training, if there were any
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from widthwise.elastic.network import Elastic
from widthwise.elastic.recalibration import (
    has_statistics,
)
from widthwise.errors import WidthError
from widthwise.graph.axes import Grid
from widthwise.sampling.levels import along
from widthwise.variant import Widths


def even_levels(
    net: Elastic,
    count: int | None = None,
    *,
    lowest: float = 1 / 16,
    multiple_of: int = 1,
    drawn: bool = True,
) -> list[Widths]:
    """Widths from narrow to full, all axes together.

    Where all axes have the same size (an MLP 784-256-256-10) and no count is given: every width
    from 1 to that size. Otherwise `count` (16) fractions from `lowest` to 1, each the same factor
    above the last, because budgets are thought of in factors; those that round to the same widths
    come once. Axes inside another (a head size) stay full, as in `net.widths`; all widths are ones
    that the network's constraints allow.

    Args:
        drawn: no axis is narrower than training draws it (`net.lowest`). False for widths that a
            training is still to draw from.

    Raises:
        WidthError: For a count below 1 or a fraction outside (0, 1].
    """
    axes = {name: axis for name, axis in net.free.items() if axis.inner_of is None}
    sizes = {name: axis.size for name, axis in axes.items()}
    if not sizes:
        return [Widths()]
    if count is None and len(set(sizes.values())) == 1:
        steps = range(1, max(sizes.values()) + 1)
        every = [Widths({n: a.near(w, multiple_of) for n, a in axes.items()}) for w in steps]
        return _raised(net, every, multiple_of, drawn)
    count = 16 if count is None else count
    if count < 1:
        raise WidthError(f"The number of widths is {count}; give at least 1.")
    if not 0 < lowest <= 1:
        raise WidthError(f"The lowest fraction is {lowest}; give a number above 0, at most 1.")
    fractions = [lowest ** (i / max(1, count - 1)) for i in reversed(range(count))]
    found = [net.widths(f, multiple_of) for f in fractions[:-1]]
    return _raised(net, [*found, Widths(sizes)], multiple_of, drawn)


def _raised(net: Elastic, widths: Iterable[Widths], multiple_of: int, drawn: bool) -> list[Widths]:
    """These widths, none below what training draws; those that become the same come once."""
    lowest: dict[str, int] = {}
    for name, width in net.lowest.items() if drawn else ():
        axis = net.free[name]
        grid = Grid(math.lcm(multiple_of, axis.grid.multiple_of), axis.grid.at_least)
        lowest[name] = min(axis.size, grid.up(width))
    raised = (Widths({n: max(w, lowest.get(n, w)) for n, w in some.items()}) for some in widths)
    return list(dict.fromkeys(raised))


def usual_widths(net: Elastic, count: int | None = None) -> list[Widths]:
    """Widths from narrow to full: along the levels that the network was trained at, else levels.

    count: how many; None is every level, and two more between any two of them where all widths are
        measured together; or what `even_levels` chooses. Raises WidthError for a count below 1.
    """
    if not net.levels:
        return even_levels(net, count)
    if count is not None and count < 1:
        raise WidthError(f"The number of widths is {count}; give at least 1.")
    if count is None:
        # With statistics of its own, each width costs as much as a validation.
        count = len(net.levels) if has_statistics(net.model) else 3 * len(net.levels) - 2
    return along(net.free, net.levels, count)
