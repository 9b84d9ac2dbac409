"""What the script of a comparison's page draws, as JSON: a line for each method and family."""

from __future__ import annotations

import math
from dataclasses import asdict
from html import escape
from typing import Any, Final

from widthwise.app.compare.report import words
from widthwise.app.compare.report.looks import LOOKS
from widthwise.app.compare.report.places import Across, place, reach, ticks
from widthwise.app.compare.report.scale import Scale, scale
from widthwise.app.compare.report.summary import Comparison, Standing, families
from widthwise.app.report import text

WAYS: Final[dict[Across, str]] = {
    "bytes": "bytes of the file, dotted: the budgets",
    "latency_ms": "milliseconds for one example",
    "seconds": "processor seconds to make the network, with the training it begins with",
}


def chart(comparison: Comparison) -> dict[str, Any]:
    """All that is drawn; what is not a finite number is left to the tables."""
    how = scale(comparison)
    ends = [math.log10(end) for end in (how.low, how.high)] if how.log else [how.low, how.high]
    return {
        "metric": f"{comparison.metric.name} on test data",
        "log": how.log,
        "down": how.errors,
        "range": ends[::-1] if how.errors else ends,
        "ticks": how.ticks() if how.log else [],
        "suffix": " %" if text.is_share(comparison.metric.name) else "",
        "budgets": list(comparison.budgets),
        "across": {way: _way(comparison, way) for way in ways(comparison)},
        "looks": {family: asdict(LOOKS[family]) for family in comparison.families},
        "palette": [asdict(look) for look in LOOKS.values()],
        "lines": _lines(comparison, how),
    }


def ways(comparison: Comparison) -> list[Across]:
    """What the metric can be drawn against."""
    return [way for way in WAYS if reach(comparison, way) is not None]


def _way(comparison: Comparison, way: Across) -> dict[str, Any]:
    low, high = reach(comparison, way) or (1.0, 1.0)
    margin = max((high / low) ** 0.04, 1.1)
    return {
        "title": WAYS[way],
        "range": [math.log10(low / margin), math.log10(high * margin)],
        "ticks": ticks(comparison, way, 12),
    }


def _lines(comparison: Comparison, how: Scale) -> list[dict[str, Any]]:
    """By family: first the best at each budget, then every method."""
    found = []
    chosen = {budget: families(comparison, budget) for budget in comparison.budgets}
    for family in comparison.families:
        best = [at[family] for at in chosen.values() if family in at]
        groups = {f"{family}, best": best}
        for method in comparison.methods:
            if method.family == family:
                groups[method.name] = [s for s in comparison.standings if s.method == method]
        for name, standings in groups.items():
            points = [_point(comparison, how, s) for s in standings if _drawn(s)]
            if points:
                found.append(
                    {
                        "name": name,
                        "family": family,
                        "best": standings is best,
                        "points": points,
                    }
                )
    return found


def _drawn(standing: Standing) -> bool:
    return bool(standing.reached) and math.isfinite(standing.mean())


def _point(comparison: Comparison, how: Scale, standing: Standing) -> dict[str, Any]:
    down, up = how.arm(standing)
    return {
        **{way: place(standing, way) for way in WAYS},
        "y": how.height(standing.mean()),
        "down": down,
        "up": up,
        "hover": _hover(comparison, standing),
    }


def _hover(comparison: Comparison, standing: Standing) -> str:
    """A network in a few short lines, as plotly's few HTML tags."""
    first = standing.reached[0]
    lines = [
        f"<b>{escape(standing.method.label)}</b>",
        f"{escape(comparison.metric.name)} {words.score(comparison, standing)}",
        f"{words.size(standing.bytes)} of a budget of {words.size(standing.budget)}",
        escape(first.note),
    ]
    if standing.latency_ms is not None:
        lines.append(f"{text.milliseconds(standing.latency_ms)} ms")
    return "<br>".join(line for line in lines if line)
