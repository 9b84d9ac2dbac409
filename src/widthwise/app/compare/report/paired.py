"""Differences of what was measured with the same seeds, and how sure they are.

found = paired([97.1, 97.4], [96.8, 97.2])
found.mean, found.low, found.high, found.verdict
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """A mean difference and its 95 % confidence interval, low..high; infinite for one pair."""

    mean: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """ "ahead" or "behind" where the whole interval is, else "not decided"."""
        if self.low > 0:
            return "ahead"
        return "behind" if self.high < 0 else "not decided"


def paired(ours: Sequence[float], theirs: Sequence[float]) -> Interval:
    """The mean of ours minus theirs with its 95 % confidence interval, by Student's t.

    Each pair shares a seed, and so the network that was trained and the data's order: what varies
    from seed to seed alike is not counted. Equal pairs give the interval 0..0. Raises ValueError
    for lists of different length or without a number.
    """
    away = [a - b for a, b in zip(ours, theirs, strict=True)]
    if not away:
        raise ValueError("There is no pair to compare; give at least one number of each.")
    if len(away) == 1 or not all(map(math.isfinite, away)):
        return Interval(sum(away) / len(away), -math.inf, math.inf)
    mean, count = statistics.fmean(away), len(away)
    half = student(count - 1) * statistics.stdev(away) / math.sqrt(count)
    return Interval(mean, mean - half, mean + half)


def student(freedom: int, inside: float = 0.95) -> float:
    """How far from 0 Student's t with so many degrees of freedom reaches in a share `inside`."""
    low, high = 0.0, math.pi / 2
    for _ in range(60):  # halves the angle to what a double can hold
        middle = (low + high) / 2
        low, high = (middle, high) if _share(middle, freedom) < inside else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def _share(angle: float, freedom: int) -> float:
    """P(|T| < sqrt(freedom) tan(angle)): the finite sums of Abramowitz & Stegun, 26.7.3-4."""
    odd = freedom % 2
    term = math.cos(angle) if odd else 1.0
    total = term if freedom > 1 else 0.0
    for k in range(2 + odd, freedom - 1, 2):
        term *= (k - 1) / k * math.cos(angle) ** 2
        total += term
    total *= math.sin(angle)
    return (angle + total) * 2 / math.pi if odd else total
