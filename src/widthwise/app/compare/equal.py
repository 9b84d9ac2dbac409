"""Ladders at equal stored bytes: by how much one is ahead of another.

    for row in against(cells, "sparse", "dense", higher_is_better=True): ...

A network of one ladder is held against the other ladder at its own number of bytes, on the line
between the two networks next to it (the metric over the logarithm of bytes), seed by seed.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from widthwise.app.compare.plan import Cell


@dataclass(frozen=True)
class Difference:
    """One network against another ladder at equal bytes.

    amount: of the network. bytes: of its file, the mean over seeds. value: its metric, the mean.
    ahead: by how much the metric is better there, for every seed; never a worse sign for a metric
    of which less is better.
    """

    kind: str
    amount: float
    bytes: float
    value: float
    ahead: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over seeds."""
        return statistics.fmean(self.ahead)

    @property
    def spread(self) -> float | None:
        """The standard deviation over seeds; None for one seed."""
        return statistics.stdev(self.ahead) if len(self.ahead) > 1 else None

    @property
    def verdict(self) -> str:
        """ "ahead" or "behind" where every seed says so, else "not decided"."""
        if all(a > 0 for a in self.ahead):
            return "ahead"
        return "behind" if all(a < 0 for a in self.ahead) else "not decided"


def against(
    cells: Sequence[Cell], kind: str, other: str, *, higher_is_better: bool, split: str = "test"
) -> list[Difference]:
    """Every network of the levels `kind` against the levels `other`, small files first.

    Networks outside the range of bytes of the other ladder are left out: nothing is extrapolated.
    """
    sign = 1 if higher_is_better else -1
    found = []
    for amount in sorted({c.amount for c in cells if c.kind == kind}):
        mine = [c for c in cells if c.kind == kind and c.amount == amount]
        ahead = []
        for cell in mine:
            points = [
                (c.bytes, c.metric[split]) for c in cells if c.kind == other and c.seed == cell.seed
            ]
            there = at_bytes(points, cell.bytes)
            if there is not None:
                ahead.append(sign * (cell.metric[split] - there))
        if ahead:
            size = statistics.fmean(c.bytes for c in mine)
            value = statistics.fmean(c.metric[split] for c in mine)
            found.append(Difference(kind, amount, size, value, tuple(ahead)))
    return sorted(found, key=lambda d: d.bytes)


def at_bytes(points: Sequence[tuple[int, float]], size: float) -> float | None:
    """The value of levels at so many bytes, None where it does not reach.

    levels: (bytes, value), in any order.
    """
    line = sorted(points)
    for (low, a), (high, b) in pairwise(line):
        if low <= size <= high:
            share = math.log(size / low) / math.log(high / low) if high > low else 0.0
            return a + share * (b - a)
    return line[0][1] if len(line) == 1 and line[0][0] == size else None
