"""The widths between levels: a path from the narrowest network of a family to the full one.

Levels are widths from narrow to full, such as a training went along. Any point between two of them
is a network as well, with widths that lie between theirs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from widthwise.graph.axes import Axis
from widthwise.sampling.draws import share_kept
from widthwise.variant import Widths


def along(axes: Mapping[str, Axis], levels: Sequence[Widths], count: int) -> list[Widths]:
    """At most `count` widths at even steps along the path, with its two ends; no two are equal.

    levels: at least one, each with every axis. count: at least 1; one alone is the widest level.
    """
    last = len(levels) - 1
    places = [last * i / max(1, count - 1) for i in range(count)] if count > 1 else [float(last)]
    return list(dict.fromkeys(_between(axes, levels, place) for place in places))


def at_share(axes: Mapping[str, Axis], levels: Sequence[Widths], share: float) -> Widths:
    """The widths on the path that keep this share of their features, in the mean over the axes.

    The narrowest level, where none keeps so little.
    """
    shares = [share_kept(axes, level) for level in levels]
    above = next((i for i, kept in enumerate(shares) if kept >= share), len(levels) - 1)
    if above == 0 or shares[above] <= share:
        return levels[above]
    before, after = shares[above - 1 : above + 1]
    return _between(axes, levels, above - 1 + (share - before) / (after - before))


def _between(axes: Mapping[str, Axis], levels: Sequence[Widths], place: float) -> Widths:
    """The widths at a place from 0 to the number of levels less one."""
    index = min(int(place), len(levels) - 1)
    part, low = place - index, levels[index]
    if part == 0:
        return low
    high = levels[index + 1]
    return Widths(
        {n: axes[n].near(w + part * (high[n] - w)) if w != high[n] else w for n, w in low.items()}
    )
