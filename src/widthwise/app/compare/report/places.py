"""Where networks of a comparison lie from left to right: by bytes, latency, or what they cost."""

from __future__ import annotations

from typing import Literal

from widthwise.app.compare.report import words
from widthwise.app.compare.report.scale import round_places
from widthwise.app.compare.report.summary import Comparison, Standing

Across = Literal["bytes", "latency_ms", "seconds"]


def place(standing: Standing, across: Across) -> float | None:
    """The mean over seeds; None where there is no network, no latency, or no time was taken."""
    if not standing.reached:
        return None
    if across == "seconds":
        return standing.seconds or None
    return standing.bytes if across == "bytes" else standing.latency_ms


def reach(comparison: Comparison, across: Across) -> tuple[float, float] | None:
    """The least and the most; None where nothing was measured. Budgets count as bytes."""
    found = [p for p in (place(s, across) for s in comparison.standings) if p is not None]
    if across == "bytes":
        found += comparison.budgets
    return (min(found), max(found)) if found else None


def ticks(comparison: Comparison, across: Across, most: int) -> list[tuple[float, str]]:
    """Places with their labels, at most about `most`: budgets, or round numbers."""
    ends = reach(comparison, across)
    if ends is None:
        return []
    if across == "latency_ms":
        return [(t, f"{t:.3g} ms") for t in round_places(*ends)]
    if across == "seconds":
        return [(t, f"{t:.3g} s") for t in round_places(*ends)]
    apart = (ends[1] / ends[0]) ** (1 / most)
    kept: list[int] = []
    for budget in comparison.budgets:
        if not kept or budget >= apart * kept[-1]:
            kept.append(budget)
    return [(float(b), words.size(b)) for b in kept]
