"""Ladders of networks as a picture and as lines: the metric against stored bytes."""

from __future__ import annotations

import io
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from widthwise.app.compare.equal import Difference, against
from widthwise.app.compare.plan import Cell, Kind
from widthwise.app.report import text
from widthwise.app.report.curve import size_ticks
from widthwise.common.atomic import write_whole
from widthwise.common.units import format_size
from widthwise.measure.metric import Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STYLES: Final = {  # colour and marker: told apart in black and white too
    Kind.DENSE: ("#1b1f24", "o"),
    Kind.SPARSE: ("#c2410c", "s"),
    Kind.ELASTIC: ("#0b62d6", "^"),
    Kind.ELASTIC_SPARSE: ("#0f8a5f", "D"),
}
PAIRS: Final = (  # one is held against the other
    (Kind.SPARSE, Kind.DENSE),
    (Kind.ELASTIC, Kind.DENSE),
    (Kind.ELASTIC, Kind.SPARSE),
    (Kind.ELASTIC_SPARSE, Kind.DENSE),
    (Kind.ELASTIC_SPARSE, Kind.SPARSE),
)
LABELS: Final = {
    Kind.DENSE: "small-dense: each width trained by itself",
    Kind.SPARSE: "large-sparse: full width, gradually pruned",
    Kind.ELASTIC: "elastic: one training, cut",
    Kind.ELASTIC_SPARSE: "elastic and sparse: one training, cut",
}


def draw(cells: Sequence[Cell], metric: Metric, path: Path, *, title: str) -> None:
    """Write a PNG of the ladders to `path`. Raises FileError when that cannot be done."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.8), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for kind in Kind:
        some = [c for c in cells if c.kind == kind]
        if some:
            _line(axes, kind, some, 100 if text.is_share(metric.name) else 1)
    _dress(axes, cells, metric, title)
    image = io.BytesIO()
    figure.savefig(image, format="png", metadata={"Title": title})
    write_whole(path, [image.getvalue()])


def _line(axes: Axes, kind: Kind, cells: Sequence[Cell], scale: float) -> None:
    groups = _by_amount(cells)
    sizes = [statistics.fmean(c.bytes for c in group) for group in groups]
    values = [[scale * c.metric["test"] for c in group] for group in groups]
    colour, marker = _STYLES[kind]
    axes.errorbar(
        sizes,
        [statistics.fmean(v) for v in values],
        yerr=[statistics.stdev(v) if len(v) > 1 else 0.0 for v in values],
        color=colour,
        marker=marker,
        markersize=5,
        linewidth=1.6,
        capsize=3,
        label=LABELS[kind],
    )


def _dress(axes: Axes, cells: Sequence[Cell], metric: Metric, title: str) -> None:
    low, high = min(c.bytes for c in cells), max(c.bytes for c in cells)
    axes.set_xscale("log")
    ticks = size_ticks(low, high, 8)
    axes.set_xticks(ticks, [text.tick(t) for t in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("bytes of the stored file")
    unit = ", %" if text.is_share(metric.name) else ""
    better = "higher" if metric.higher_is_better else "lower"
    axes.set_ylabel(f"{metric.name}{unit} on test data ({better} is better)")
    axes.set_title(title, loc="left")
    axes.grid(color="#e3e7ec", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)


def rows(cells: Sequence[Cell], metric: Metric) -> list[tuple[str, ...]]:
    """(kind, amount, size, share of it by the formula, metric, other figures) of each level."""
    found: list[tuple[str, ...]] = []
    for kind in Kind:
        for group in _by_amount([c for c in cells if c.kind == kind]):
            first = group[0]
            size = statistics.fmean(c.bytes for c in group)
            values = [c.metric["test"] for c in group]
            spread = statistics.stdev(values) if len(values) > 1 else None
            found.append(
                (
                    kind.value,
                    f"{first.amount:g}",
                    format_size(round(size)),
                    format_size(round(statistics.fmean(c.published_bytes for c in group))),
                    text.value(metric.name, statistics.fmean(values), spread),
                    ", ".join(
                        f"{name} {statistics.fmean(c.extra_metrics[name] for c in group):.2f}"
                        for name in first.extra_metrics
                    ),
                )
            )
    return found


def verdicts(cells: Sequence[Cell], metric: Metric) -> list[str]:
    """A sentence for every pair of ladders that can be held against each other."""
    found = []
    for kind, other in PAIRS:
        differences = against(cells, kind, other, higher_is_better=metric.higher_is_better)
        if differences:
            found.append(_verdict(kind, other, differences, metric))
    return found


def _verdict(kind: Kind, other: Kind, found: Sequence[Difference], metric: Metric) -> str:
    scale, unit = (100, " points") if text.is_share(metric.name) else (1, "")
    counts = [sum(d.verdict == v for d in found) for v in ("ahead", "behind", "not decided")]
    seeds = max(len(d.ahead) for d in found)
    each = ", ".join(f"{_ahead(d, scale)} at {format_size(round(d.bytes))}" for d in found)
    undecided = f", not decided at {counts[2]}" if counts[2] else ""
    return (
        f"{kind.value} against {other.value} at equal bytes, {metric.name}{unit} better, "
        f"{seeds} seed{'s' * (seeds > 1)}: ahead at {counts[0]} of {len(found)}, behind at "
        f"{counts[1]}{undecided} ({each})"
    )


def _ahead(found: Difference, scale: int) -> str:
    """The mean over seeds, and the spread where there is one."""
    spread = "" if found.spread is None else f" ± {scale * found.spread:.2f}"
    return f"{scale * found.mean:+.2f}{spread}"


def _by_amount(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Cells of one ladder by level, small files first."""
    amounts = {c.amount for c in cells}
    groups = [[c for c in cells if c.amount == a] for a in amounts]
    return sorted(groups, key=lambda g: statistics.fmean(c.bytes for c in g))
