"""Where the marks of the curve go: the same for the picture and for the page."""

import math
from collections.abc import Sequence
from dataclasses import replace

from widthwise.measure.frontier import Frontier, Point

_LABEL = 0.24  # the length of a label as a share of the scale, on the page of a phone


def best_that_fits(frontier: Frontier) -> list[Point]:
    """The best points by size, the last one again at the largest size, where it still fits."""
    line = list(frontier.best())
    return [*line, replace(line[-1], bytes=max(p.bytes for p in frontier.points))]


def what_fits(
    frontier: Frontier, shares: Sequence[float] = (1, 0.5, 0.25, 0.1, 0.05)
) -> list[tuple[float, Point]]:
    """The best point within each share of the largest one's bytes, where there is one.

    A point that is the best for two budgets comes once, with the smaller budget.
    """
    largest = max(p.bytes for p in frontier.points)
    found: dict[Point, float] = {}
    for share in shares:
        fitting = [p for p in frontier.best() if p.bytes <= share * largest]
        if fitting:
            found[fitting[-1]] = share
    return [(share, point) for point, share in found.items()]


def size_ticks(low: int, high: int, most: int) -> list[int]:
    """At most `most` round sizes in bytes for a logarithmic scale that reaches from low to high."""
    decades = [10**k for k in range(13)]
    for steps in ((1, 2, 5), (1, 3), (1,)):
        ticks = [s * d for d in decades for s in steps if low <= s * d <= high]
        if len(ticks) <= most:
            break
    kept = ticks[:: max(1, -(-len(ticks) // most))]
    return kept if len(kept) > 1 else sorted({low, high})


def place_labels(sizes: Sequence[int], low: int, high: int) -> list[tuple[bool, int]]:
    """For the mark at every size: whether its label ends there rather than begins, and its row.

    Labels lie below or above the marks, in rows, so that two that are near do not overlap.
    """
    reach = math.log(high / low) or 1.0
    placed: list[tuple[bool, int]] = [(False, 0)] * len(sizes)
    taken: list[float] = []  # where the last label of each row ends, as a share of the scale
    for i in sorted(range(len(sizes)), key=lambda i: sizes[i]):
        at = math.log(sizes[i] / low) / reach
        ends = at > 0.8
        start = at - _LABEL if ends else at
        row = next((r for r, end in enumerate(taken) if start >= end), len(taken))
        taken[row : row + 1] = [start + _LABEL]
        placed[i] = (ends, row)
    return placed
