"""One frontier from several seeds."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from widthwise.errors import WidthError
from widthwise.measure.frontier import Frontier, Point


def combine(frontiers: Iterable[Frontier]) -> Frontier:
    """One frontier from several seeds' frontiers: mean metric, its sample standard deviation.

    All must have the same widths, in any order, and the same metric, split and post-processing.
    Latency is the mean. The spread of a single frontier is None. Raises WidthError when they do
    not match.
    """
    all_of = list(frontiers)
    if not all_of:
        raise WidthError("There is no frontier to combine; give at least one.")
    first = all_of[0]
    for other in all_of[1:]:
        same = ("metric", "higher_is_better", "split", "post_process")
        if any(getattr(other, n) != getattr(first, n) for n in same):
            raise WidthError(
                "The frontiers were measured with different metrics, splits or post-processing; "
                "sweep all runs alike."
            )
    tables = [{p.widths: p for p in f.points} for f in all_of]
    if any(t.keys() != tables[0].keys() for t in tables):
        raise WidthError("The frontiers hold different widths; sweep all seeds at the same widths.")
    if any(p.spread is not None for f in all_of for p in f.points):
        raise WidthError("A frontier is combined already; combine frontiers of one seed each.")
    runtimes = list(dict.fromkeys(f.runtime for f in all_of))
    return Frontier(
        points=tuple(_mean([t[p.widths] for t in tables]) for p in first.points),
        metric=first.metric,
        higher_is_better=first.higher_is_better,
        split=first.split,
        runtime="; ".join(runtimes),
        batch=first.batch,
        seeds=tuple(s for f in all_of for s in f.seeds),
        post_process=first.post_process,
    )


def _mean(points: Sequence[Point]) -> Point:
    """Points of the same widths as one."""
    if len({(p.params, p.macs) for p in points}) > 1:
        raise WidthError("The frontiers come from different networks; their costs differ.")
    values = [p.metric for p in points]
    times = [p.latency_ms for p in points if p.latency_ms is not None]
    return Point(
        widths=points[0].widths,
        metric=statistics.fmean(values),
        spread=statistics.stdev(values) if len(values) > 1 else None,
        bytes=max(p.bytes for p in points),
        params=points[0].params,
        macs=points[0].macs,
        latency_ms=statistics.fmean(times) if len(times) == len(points) else None,
        own_class=points[0].own_class,
    )
