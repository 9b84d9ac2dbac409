"""Means over seeds, and differences of what was measured with the same seeds, as stored."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from widthwise.app.compare.report import paired as intervals


def summary(values: Sequence[float], places: int = 3) -> dict[str, float]:
    """Mean and sample standard deviation."""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": round(statistics.mean(values), places), "std": round(spread, places)}


def paired(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """`widthwise.app.compare.report.paired.paired`, rounded."""
    found = intervals.paired(ours, theirs)
    return {
        "mean": round(found.mean, 3), "low": round(found.low, 3), "high": round(found.high, 3)
    }  # fmt: skip
