"""A comparison as a picture: the metric on test data against stored bytes, or against latency."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from widthwise.app.compare.method import Family
from widthwise.app.compare.report import words
from widthwise.app.compare.report.looks import LOOKS
from widthwise.app.compare.report.places import Across, place, ticks
from widthwise.app.compare.report.scale import Scale, scale
from widthwise.app.compare.report.summary import Comparison, Standing, families
from widthwise.app.report import text
from widthwise.app.report.canvas import INK, drawn

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MUTED, _BUDGET = "#57606a", "#b9c2cc"


def draw(comparison: Comparison, path: Path, *, across: Across = "bytes") -> None:
    """Write a PNG to `path`: a line for the best of each family, marks for all other methods.

    across: what the metric is drawn against. Raises FileError when the file cannot be written.
    """
    how = scale(comparison)
    lines = _best(comparison)
    chosen = {id(s) for line in lines.values() for s in line}
    others = [s for s in comparison.standings if id(s) not in chosen]
    with drawn(path, comparison.title, 5.6, grid="y") as axes:
        _faint(axes, others, how, across)
        for family, line in lines.items():
            _line(axes, family, line, how, across)
        _dress(axes, comparison, how, across)
        axes.set_xlabel(_below(comparison, how, across), color=INK)
        axes.figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)


def _best(comparison: Comparison) -> dict[Family, list[Standing]]:
    """The best of each family at each budget, by family."""
    found: dict[Family, list[Standing]] = {family: [] for family in comparison.families}
    for budget in comparison.budgets:
        for family, standing in families(comparison, budget).items():
            found[family].append(standing)
    return found


def _faint(axes: Axes, others: Sequence[Standing], how: Scale, across: Across) -> None:
    for standing in others:
        at, look = place(standing, across), LOOKS[standing.method.family]
        if at is not None and how.shows(standing):
            axes.scatter(
                at, how.height(standing.mean()), s=14, marker=look.marker, color=look.light,
                alpha=0.3, linewidths=0,
            )  # fmt: skip


def _line(axes: Axes, family: Family, line: Sequence[Standing], how: Scale, across: Across) -> None:
    placed = [(place(s, across), s) for s in line if math.isfinite(s.mean())]
    drawn = [(at, s) for at, s in placed if at is not None]
    if not drawn:
        return
    look = LOOKS[family]
    arms = [how.arm(s) for _, s in drawn]
    axes.errorbar(
        [at for at, _ in drawn],
        [how.height(s.mean()) for _, s in drawn],
        yerr=[[down for down, _ in arms], [up for _, up in arms]],
        color=look.light,
        marker=look.marker,
        markersize=5.5,
        # Times do not follow bytes: lines between them would run to and fro.
        linestyle=look.line if across == "bytes" else "none",
        linewidth=1.6,
        capsize=3,
        elinewidth=1.1,
        label=f"{family}, best",
    )


def _dress(axes: Axes, comparison: Comparison, how: Scale, across: Across) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set_xscale("log")
    labels = dict(ticks(comparison, across, 12))
    axes.xaxis.set_major_locator(FixedLocator(list(labels)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: labels.get(x, "")))
    axes.xaxis.set_minor_locator(NullLocator())
    if how.log:
        axes.set_yscale("log")
        heights = dict(how.ticks())
        axes.yaxis.set_major_locator(FixedLocator(list(heights)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: heights.get(y, "")))
        axes.yaxis.set_minor_locator(NullLocator())
    elif text.is_share(comparison.metric.name):
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g} %"))
    axes.set_ylim(*((how.high, how.low) if how.errors else (how.low, how.high)))
    if across == "bytes":
        for budget in comparison.budgets:
            axes.axvline(budget, color=_BUDGET, linewidth=0.9, linestyle=(0, (1, 2)), zorder=0)
    axes.set_ylabel(f"{comparison.metric.name} on test data", color=INK)
    axes.tick_params(colors=_MUTED, labelcolor=INK)


def _below(comparison: Comparison, how: Scale, across: Across) -> str:
    """What is drawn, and how many marks lie outside."""
    what = "bytes of the stored file; dotted: the budgets"
    if across == "latency_ms":
        what = "milliseconds for one call with one example, one thread"
    elif across == "seconds":
        what = "processor seconds to make the network, with the training it begins with"
    said = f"{what}; faint: all other methods\n{words.direction(comparison.metric)}"
    if len(comparison.seeds) > 1:
        said += f"; bars: standard deviation over {len(comparison.seeds)} seeds"
    hidden = sum(bool(s.reached) and not how.shows(s) for s in comparison.standings)
    if hidden:
        said += f"; {hidden} of {sum(bool(s.reached) for s in comparison.standings)} off the scale"
    return said
