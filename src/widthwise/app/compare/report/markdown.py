"""A comparison as a section of a Markdown page."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from widthwise.app.compare.report import choices, tables, words
from widthwise.app.compare.report.places import Across
from widthwise.app.compare.report.summary import Comparison
from widthwise.app.compare.report.tables import Table

_AGAINST: Final[Mapping[Across, str]] = {
    "bytes": "bytes",
    "latency_ms": "latency",
    "seconds": "processor seconds",
}


def section(comparison: Comparison, *, pictures: Mapping[Across, str]) -> str:
    """From its "## " heading on: the lead, the pictures, and the tables.

    pictures: where they are, seen from the page: against bytes, and others.
    """
    metric = comparison.metric
    shown = {
        across: f"![{_plain(metric.name)} against {_AGAINST[across]}: "
        f"{_plain(comparison.title)}]({path})"
        for across, path in pictures.items()
    }
    parts = [
        f"## {_plain(comparison.title)}",
        words.lead(comparison),
        shown["bytes"],
        f"The winner at each budget, chosen on validation data; {_plain(words.direction(metric))}:",
        table(tables.won(comparison)),
        f"By how much it is ahead of the best of every other family on test data, "
        f"{_plain(words.unit(metric))}, with the 95 % interval over paired seeds:",
        table(tables.held(comparison)),
        "The best of each family at each budget, chosen on validation data, on test data:",
        table(tables.by_family(comparison)),
        words.COSTS,
        table(tables.cost(comparison)),
        *(shown[across] for across in pictures if across != "bytes"),
        *_searches(comparison),
        "What the files of the winners hold, in bytes:",
        table(tables.inside(comparison)),
    ]
    missed = tables.missed(comparison)
    if missed.rows:
        parts += ["Not reached:", table(missed)]
    return "\n\n".join(parts) + "\n"


def _searches(comparison: Comparison) -> list[str]:
    """What was chosen; nothing where nothing was searched."""
    lead = choices.lead(comparison)
    return [lead, table(choices.chosen(comparison))] if lead else []


def table(shown: Table) -> str:
    """Its lines; columns of numbers are to the right."""
    sides = ["---" if h in shown.words or not i else "---:" for i, h in enumerate(shown.heads)]
    lines = [[_plain(c) for c in row] for row in (shown.heads, *shown.rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], sides, *lines[1:]))


def _plain(said: str) -> str:
    """A text on one line, whose signs are signs."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(said.split()))
