"""The scale on which a comparison's metric is drawn: the same for the pictures and for the page.

Near the best, shares of 98.1 and 98.6 % are far apart in what matters, the errors that are left; so
shares that spread widely are drawn by their errors on a logarithmic axis, and labelled as shares.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from widthwise.app.compare.report.summary import Comparison, Standing, families
from widthwise.app.report import text

_WIDE = 3.0  # times the least: from there on an axis is logarithmic


@dataclass(frozen=True)
class Scale:
    """How values become heights on an axis.

    unit: 100 for shares, whose heights are in per cent. errors: heights are what is missing to 1,
    and the axis is upside down. log: the axis is logarithmic. low, high: the heights that it shows,
    the best of each family.
    """

    unit: int
    errors: bool
    log: bool
    low: float
    high: float

    def height(self, value: float) -> float:
        """Where a value is drawn."""
        return self.unit * (1 - value if self.errors else value)

    def arm(self, standing: Standing) -> tuple[float, float]:
        """How far the error bar of a standing reaches down and up in heights."""
        arm = self.unit * (standing.spread() or 0.0)
        # A logarithmic axis has no 0.
        return (min(arm, 0.9 * self.height(standing.mean())) if self.log else arm), arm

    def shows(self, standing: Standing) -> bool:
        """Whether its mean is a number within the axis."""
        value = self.height(standing.mean())
        return math.isfinite(value) and self.low <= value <= self.high

    def ticks(self) -> list[tuple[float, str]]:
        """(height, label) for a logarithmic axis, and for where a reader moves it to."""
        places = round_places(self.low, self.high)
        most = min(100 * self.high, 100.0) if self.errors else 100 * self.high
        beyond = [s * 10.0**k for k in range(-6, 9) for s in (1, 2, 5)]
        places += [p for p in beyond if self.high < p <= most or self.low / 100 <= p < self.low]
        return [(p, f"{100 - p:.6g} %" if self.errors else f"{p:g}") for p in places]


def round_places(low: float, high: float) -> list[float]:
    """A few round numbers between two positive ones, for a logarithmic axis."""
    for steps in ((1,), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)):
        places = [s * 10.0**k for k in range(-6, 9) for s in steps]
        inside = [p for p in places if low <= p <= high]
        if len(inside) >= 4:
            break
    return inside


def scale(comparison: Comparison) -> Scale:
    """The one that shows the best of each family at each budget."""
    shown = [
        s
        for budget in comparison.budgets
        for s in families(comparison, budget).values()
        if math.isfinite(s.mean())
    ]
    metric = comparison.metric
    share = text.is_share(metric.name)
    errors = share and metric.higher_is_better
    heights = [1 - s.mean() if errors else s.mean() for s in shown]
    wide = bool(heights) and min(heights) > 0 and max(heights) > _WIDE * min(heights)
    log = wide and (errors or not metric.higher_is_better)
    found = Scale(100 if share else 1, errors and log, log, 0.0, 0.0)
    ends = [found.height(s.mean()) + a for s in shown for a in _ends(found.arm(s))] or [0.0, 1.0]
    low, high = min(ends), max(ends)
    if log:
        margin = (high / low) ** 0.05
        most = 100.0 if found.errors else math.inf  # no more than everything is wrong
        return Scale(found.unit, found.errors, log, low / margin, min(high * margin, most))
    margin = 0.05 * (high - low) or 0.5
    return Scale(found.unit, found.errors, log, low - margin, high + margin)


def _ends(arm: tuple[float, float]) -> tuple[float, float]:
    return -arm[0], arm[1]
