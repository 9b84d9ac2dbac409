"""Means over seeds, and differences of what was measured with the same seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from scipy.stats import t as student


def summary(values: Sequence[float]) -> dict[str, float]:
    """Mean and sample standard deviation."""
    return {
        "mean": round(statistics.mean(values), 3),
        "std": round(statistics.stdev(values), 3) if len(values) > 1 else 0.0,
    }


def paired(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """The mean of ours minus theirs with its 95 % confidence interval, by Student's t.

    Each pair shares a seed, and so the network that was trained and the data's order: what varies
    from seed to seed alike is not counted. Equal pairs give the interval 0..0.
    """
    away = [a - b for a, b in zip(ours, theirs, strict=True)]
    mean, count = statistics.mean(away), len(away)
    half = math.inf
    if count > 1:
        half = student.ppf(0.975, count - 1) * statistics.stdev(away) / math.sqrt(count)
    return {"mean": round(mean, 3), "low": round(mean - half, 3), "high": round(mean + half, 3)}
