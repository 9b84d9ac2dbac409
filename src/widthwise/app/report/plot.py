"""The frontier as a picture: the metric against stored bytes, with the picks marked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from widthwise.app.report import text
from widthwise.app.report.canvas import INK, drawn
from widthwise.app.report.curve import best_that_fits, place_labels, size_ticks
from widthwise.app.report.picks import Pick, position, size_range
from widthwise.common.units import format_size
from widthwise.measure.frontier import Frontier

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MUTED, _CURVE, _PICK = "#8a94a0", "#0b62d6", "#c2410c"


def draw(frontier: Frontier, path: Path, *, title: str, picks: Sequence[Pick] = ()) -> None:
    """Write a PNG of the frontier to `path`; raises FileError when that cannot be done."""
    with drawn(path, title, 4.8) as axes:
        _curve(axes, frontier)
        _picks(axes, frontier, picks)
        _dress(axes, frontier, *size_range(frontier, picks))


def _curve(axes: Axes, frontier: Frontier) -> None:
    points, line = frontier.points, best_that_fits(frontier)
    axes.scatter(
        [p.bytes for p in points],
        [p.metric for p in points],
        s=14,
        color=_MUTED,
        linewidths=0,
        label=f"measured ({len(points)})",
    )
    sizes = [p.bytes for p in line]
    axes.plot(sizes, [p.metric for p in line], color=_CURVE, linewidth=2, label="best that fits")
    if any(p.spread for p in line):
        low = [p.metric - (p.spread or 0) for p in line]
        high = [p.metric + (p.spread or 0) for p in line]
        axes.fill_between(
            sizes, low, high, color=_CURVE, alpha=0.18, linewidth=0, label="spread over seeds"
        )


def _picks(axes: Axes, frontier: Frontier, picks: Sequence[Pick]) -> None:
    if not picks:
        return
    marks = [position(frontier, pick) for pick in picks]
    axes.scatter(
        [size for size, _ in marks],
        [value for _, value in marks],
        s=70,
        color=_PICK,
        edgecolors="white",
        linewidths=1.2,
        zorder=3,
        label="chosen",
    )
    # The curve bends towards large and good, so away from it there is room for words.
    down = -1 if frontier.higher_is_better else 1
    places = place_labels(frontier, marks)
    for pick, mark, (ends, row) in zip(picks, marks, places, strict=True):
        axes.annotate(
            f"{pick.name}\n{format_size(mark[0])}",
            mark,
            xytext=(-8 if ends else 8, down * (28 + 28 * row)),
            arrowprops={"arrowstyle": "-", "color": _PICK, "linewidth": 0.8, "shrinkB": 5},
            textcoords="offset points",
            ha="right" if ends else "left",
            va="top" if down < 0 else "bottom",
            color=_PICK,
            fontsize=9,
            bbox={"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 0.5},
        )


def _dress(axes: Axes, frontier: Frontier, low: int, high: int) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set_xscale("log")
    axes.set_xlim(low / 1.15, high * 1.15)
    axes.xaxis.set_major_locator(FixedLocator(size_ticks(low, high, 9)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: text.tick(round(x))))
    if text.is_share(frontier.metric):
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:g} %"))
    axes.set_xlabel("stored size (logarithmic)", color=INK)
    axes.set_ylabel(f"{frontier.metric} ({frontier.split})", color=INK)
    place = "lower right" if frontier.higher_is_better else "upper right"
    axes.legend(loc=place, frameon=False, fontsize=9)
