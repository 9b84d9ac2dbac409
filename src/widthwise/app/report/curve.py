"""Where the marks of the curve go: the same for the picture and for the page."""

import math
from collections.abc import Sequence
from dataclasses import replace

from widthwise.measure.frontier import Frontier, Point

# The size of a label as a share of the plot, on the page of a phone.
_LONG, _HIGH = 0.26, 0.12


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


def proposed(frontier: Frontier, share: float) -> Point:
    """The best point within this share of the largest one's bytes, or else the smallest."""
    found = what_fits(frontier, (share,))
    return found[0][1] if found else min(frontier.points, key=lambda p: p.bytes)


def size_ticks(low: int, high: int, most: int) -> list[int]:
    """At most `most` round sizes in bytes for a logarithmic scale that reaches from low to high."""
    decades = [10**k for k in range(13)]
    for steps in ((1, 2, 5), (1, 3), (1,)):
        ticks = [s * d for d in decades for s in steps if low <= s * d <= high]
        if len(ticks) <= most:
            break
    kept = ticks[:: max(1, -(-len(ticks) // most))]
    return kept if len(kept) > 1 else sorted({low, high})


def place_labels(frontier: Frontier, marks: Sequence[tuple[int, float]]) -> list[tuple[bool, int]]:
    """For every mark (bytes, metric): whether its label ends there or begins, and in which row.

    Labels lie on the worse side of their marks, row 0 nearest; rows are chosen so that no two
    labels overlap.
    """
    known = [(p.bytes, p.metric) for p in frontier.points] + list(marks)
    low, high = min(size for size, _ in known), max(size for size, _ in known)
    worst, best = min(value for _, value in known), max(value for _, value in known)
    across, up = math.log(high / low) or 1.0, (best - worst) or 1.0
    sign = -1 if frontier.higher_is_better else 1
    placed: list[tuple[bool, int]] = [(False, 0)] * len(marks)
    taken: list[tuple[float, float]] = []  # left end and height of each label, shares of the plot
    for i in sorted(range(len(marks)), key=lambda i: marks[i]):
        at = math.log(marks[i][0] / low) / across
        ends = at > 0.8
        left, height = at - _LONG * ends, (marks[i][1] - worst) / up
        row = 0
        while any(
            abs(left - x) < _LONG and abs(height + sign * _HIGH * row - y) < _HIGH for x, y in taken
        ):
            row += 1
        taken.append((left, height + sign * _HIGH * row))
        placed[i] = (ends, row)
    return placed
