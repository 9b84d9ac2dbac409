"""k-means on a line: exact Lloyd iterations on sorted numbers, a few milliseconds each.

On a line the numbers nearest to a centre follow each other, so that all sums are differences of
running sums: an iteration takes time in proportion to the centres, whatever the number of points.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_MOST: Final = 300  # iterations; they stop when nothing moves


def centres(points: Floats, weights: Floats | None, count: int) -> Floats:
    """At most `count` centres, ascending, for points (n,) with weights (n,) of at least zero.

    Three beginnings are tried, evenly spaced over the range, even shares of the distinct points,
    and even shares of the weight (zeros' weight not counted, of which there may be many); the
    least squared error is kept, so that it is never above even spacing's. Where there are
    zeros, one centre is and stays 0.0. No randomness.
    """
    order = np.argsort(points, kind="stable")
    line = _Line(points[order], None if weights is None else weights[order])
    distinct = np.unique(points)
    if len(distinct) <= count:
        return distinct + 0.0  # -0.0 is zero
    even = np.linspace(points.min(), points.max(), count)
    shares = distinct[((np.arange(count) + 0.5) / count * len(distinct)).astype(np.int64)]
    starts = (even, shares, line.shares(count))
    found = [line.settled(_with_zero(start, line.has_zeros)) for start in starts]
    return min(found, key=line.error)


def _with_zero(start: Floats, wanted: bool) -> Floats:
    """The beginning with its centre nearest to zero put there."""
    start = start.copy()
    if wanted:
        start[np.abs(start).argmin()] = 0.0
    return start


class _Line:
    """Sorted points and the running sums of their weights, w x and w x^2."""

    def __init__(self, x: Floats, w: Floats | None) -> None:
        if w is None or not w.sum() > 0:
            w = np.ones_like(x)
        self.x = x
        self.has_zeros = bool((x == 0).any())
        sums = [np.concatenate([[0.0], np.cumsum(part)]) for part in (w, w * x, w * x * x)]
        self.w, self.wx, self.wxx = sums

    def shares(self, count: int) -> Floats:
        """The points in the middle of even shares of the weight of those that are not zero."""
        mass = np.cumsum(np.diff(self.w) * (self.x != 0))
        middles = (np.arange(count) + 0.5) / count * mass[-1]
        found: Floats = self.x[np.searchsorted(mass, middles)]
        return found

    def _cells(self, at: Floats) -> tuple[Floats, Floats, Floats]:
        """Sums over the points nearest to each centre."""
        inner = np.searchsorted(self.x, (at[1:] + at[:-1]) / 2)
        edges = np.concatenate([[0], inner, [len(self.x)]])
        return np.diff(self.w[edges]), np.diff(self.wx[edges]), np.diff(self.wxx[edges])

    def settled(self, at: Floats) -> Floats:
        """The centres after Lloyd's iterations. A cell without weight keeps its centre."""
        for _ in range(_MOST):
            w, wx, _ = self._cells(at)
            moved = np.where(w > 0, wx / np.where(w > 0, w, 1), at)
            if self.has_zeros:
                moved[at == 0] = 0.0
            moved.sort()
            if np.array_equal(moved, at):
                break
            at = moved
        return at

    def error(self, at: Floats) -> float:
        """The weighted sum of squared distances."""
        w, wx, wxx = self._cells(at)
        return float((wxx - 2 * at * wx + at * at * w).sum())
