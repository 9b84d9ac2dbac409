"""The report as one HTML file that needs no network and no server.

Chart, style and script are inside the file; every number in it comes from the frontier and the
picks. `page.html` says what is where, `page.css` how it looks, `page.js` draws the chart.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

from widthwise.app.report import text
from widthwise.app.report.curve import best_that_fits, place_labels, size_ticks, what_fits
from widthwise.app.report.elements import cell, element, head, row, table
from widthwise.app.report.picks import Pick, position, size_range
from widthwise.app.report.shell import described, filled
from widthwise.common.atomic import write_whole
from widthwise.common.units import format_size
from widthwise.measure.frontier import Frontier, Point

_SHARE: Final = "of the largest"  # a column that a phone has no room for


def write(
    frontier: Frontier,
    path: Path,
    *,
    title: str,
    picks: Sequence[Pick] = (),
    facts: Mapping[str, str] | None = None,
) -> None:
    """Write the page to `path`; raises FileError when that cannot be done."""
    write_whole(path, [page(frontier, title=title, picks=picks, facts=facts).encode()])


def page(
    frontier: Frontier,
    *,
    title: str,
    picks: Sequence[Pick] = (),
    facts: Mapping[str, str] | None = None,
) -> str:
    """The page as text.

    frontier: at least one point. picks: marked in the chart and listed first.
    facts: what is said about the run, label -> text.
    """
    lead = _lead(frontier)
    return filled(
        "widthwise.app.report",
        "page",
        title=title,
        lead=lead,
        data=_chart(frontier, picks),
        picks=_picks(frontier, picks),
        fits=_fits_table(frontier),
        curve=escape(f"{frontier.metric} against size".capitalize()),
        summary=escape(f"Chart of {frontier.metric} against stored size. {lead}"),
        caption=escape(_caption(frontier)),
        points=_point_table(frontier, picks),
        facts=described(facts or {}),
    )


def _lead(frontier: Frontier) -> str:
    """The frontier in two sentences: the largest network, and what a quarter of it keeps."""
    trainings = "one training"
    if len(frontier.seeds) > 1:
        trainings = f"each of {len(frontier.seeds)} trainings"
    largest = max(frontier.points, key=lambda p: p.bytes)
    said = (
        f"{len(frontier.points)} networks of different size from {trainings}, measured on the "
        f"{frontier.split} split. The largest, {format_size(largest.bytes)}, has "
        f"{frontier.metric} {_value(frontier, largest)}"
    )
    quarter = [p for p in frontier.best() if p.bytes <= largest.bytes / 4]
    if not quarter:
        return said + "."
    small = quarter[-1]
    return f"{said}; one of {format_size(small.bytes)} has {_value(frontier, small)}."


def _value(frontier: Frontier, point: Point) -> str:
    # A line break inside a number would make it hard to read.
    return text.value(frontier.metric, point.metric, point.spread).replace(
        " ", "\N{NO-BREAK SPACE}"
    )


def _caption(frontier: Frontier) -> str:
    said = (
        "Each dot is one network, a part of the same trained weights; the line is the best "
        "that fits into a size. Sizes are the bytes of the stored files, 1 kB = 1000 bytes."
    )
    if any(p.spread for p in frontier.points):
        said += " The band is the sample standard deviation over seeds."
    graphs = sum(p.own_class is False for p in frontier.points)
    if graphs:
        said += (
            f" In PyTorch, {graphs} of the {len(frontier.points)} are graph modules rather than of "
            "the model's class, and marked with *."
        )
    return said


def _picks(frontier: Frontier, picks: Sequence[Pick]) -> str:
    """The section of what was chosen; nothing while nothing is."""
    if not picks:
        return ""
    full = max(p.bytes for p in frontier.points)
    heads = ["name", "size", _SHARE, "valid", "test", "widths", "post-processing", "file"]
    rows = [
        [
            head(pick.name, "text"),
            cell(format_size(pick.bytes)),
            cell(f"{100 * pick.bytes / full:.0f} %", "extra"),
            cell(text.value(frontier.metric, pick.valid)),
            cell(text.value(frontier.metric, pick.test)),
            _widths(pick.widths),
            cell(pick.post_process or "none", "text"),
            cell(pick.file or "-", "text"),
        ]
        for pick in picks
    ]
    return (
        '<section aria-labelledby="chosen">\n<h2 id="chosen">Chosen networks</h2>\n'
        + _table(heads, rows, f"{frontier.metric} of the chosen networks")
        + f'\n<p class="note">{escape(f"The {frontier.metric}")} of a chosen network was measured '
        "on its stored file, read back.</p>\n</section>"
    )


def _fits_table(frontier: Frontier) -> str:
    heads = ["budget", "size", frontier.metric, "parameters", "latency (ms)", "widths"]
    rows = [
        [
            head(f"{100 * share:g} %"),
            cell(format_size(point.bytes) + _mark(point)),
            cell(text.value(frontier.metric, point.metric, point.spread)),
            cell(text.count(point.params)),
            cell(text.milliseconds(point.latency_ms)),
            _widths(point.widths),
        ]
        for share, point in what_fits(frontier)
    ]
    return _table(heads, rows, "the best network within a share of the largest one's size")


def _point_table(frontier: Frontier, picks: Sequence[Pick]) -> str:
    chosen = [dict(pick.widths) for pick in picks]
    heads = ["size (kB)", frontier.metric, "parameters", "MACs", "latency (ms)", "widths"]
    points = sorted(frontier.points, key=lambda p: p.bytes)
    rows = [
        [
            head(text.kilobytes(p.bytes) + _mark(p)),
            cell(text.value(frontier.metric, p.metric, p.spread)),
            cell(text.count(p.params)),
            cell(text.count(p.macs)),
            cell(text.milliseconds(p.latency_ms)),
            _widths(p.widths),
        ]
        for p in points
    ]
    marked = [dict(p.widths) in chosen for p in points]
    return _table(heads, rows, "all measured networks", marked, "scroll tall")


def _table(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    label: str,
    marked: Sequence[bool] = (),
    style: str = "scroll",
) -> str:
    columns = {"name": "text", "widths": "text", "file": "text", _SHARE: "extra"}
    styles = ["chosen" if m else "" for m in marked or [False] * len(rows)]
    lines = [row(cells, chosen) for cells, chosen in zip(rows, styles, strict=True)]
    return table(heads, [lines], label, columns=columns, style=style)


def _mark(point: Point) -> str:
    """A star for what opens as a graph module; the caption says so."""
    return "*" if point.own_class is False else ""


def _widths(kept: Mapping[str, int]) -> str:
    return element("td", text.widths(kept, 4), "text", title=text.widths(kept))


def _chart(frontier: Frontier, picks: Sequence[Pick]) -> dict[str, Any]:
    """What `page.js` draws."""
    low, high = size_range(frontier, picks)
    return {
        "metric": f"{frontier.metric} ({frontier.split})",
        "higher": frontier.higher_is_better,
        "share": text.is_share(frontier.metric),
        "range": [math.log10(low / 1.12), math.log10(high * 1.12)],
        "ticks": [[t, text.tick(t)] for t in size_ticks(low, high, 9)],
        "fewTicks": [[t, text.tick(t)] for t in size_ticks(low, high, 5)],
        "points": [
            {"bytes": p.bytes, "metric": p.metric, "hover": _hover(frontier, p)}
            for p in frontier.points
        ],
        "line": [
            {"bytes": p.bytes, "metric": p.metric, "spread": p.spread or 0}
            for p in best_that_fits(frontier)
        ],
        "picks": list(_marked(frontier, picks)),
    }


def _marked(frontier: Frontier, picks: Sequence[Pick]) -> Iterator[dict[str, Any]]:
    marks = [position(frontier, pick) for pick in picks]
    places = place_labels(frontier, marks)
    for pick, (size, value), (ends, level) in zip(picks, marks, places, strict=True):
        name, metric = escape(pick.name), frontier.metric
        lines = [f"<b>{name}</b>", f"{format_size(size)}: {text.value(metric, value)}"]
        if pick.test is not None:
            lines.append(f"test {escape(metric)} {text.value(metric, pick.test)}")
        lines.append(escape(text.widths(pick.widths, 4)))
        yield {
            "bytes": size,
            "metric": value,
            "hover": "<br>".join(lines),
            "name": name,
            "label": f"{name}<br>{format_size(size)}",
            "ends": ends,
            "row": level,
        }


def _hover(frontier: Frontier, point: Point) -> str:
    """A point in a few short lines, for a phone, as plotly's few HTML tags."""
    value = text.value(frontier.metric, point.metric, point.spread)
    lines = [
        f"<b>{format_size(point.bytes)}: {value}</b>",
        escape(text.widths(point.widths, 4)),
        f"{text.count(point.params)} parameters",
        f"{text.count(point.macs)} MACs",
    ]
    if point.latency_ms is not None:
        lines.append(f"{text.milliseconds(point.latency_ms)} ms")
    if point.own_class is False:
        lines.append("a graph module")
    return "<br>".join(lines)
