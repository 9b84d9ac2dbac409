"""All outcomes of a comparison as CSV: one row each, columns always in the same order."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Final

from widthwise.app.compare.methods import METHODS
from widthwise.app.compare.outcome import Outcome
from widthwise.app.compare.report.summary import Comparison

COLUMNS: Final = ("method", "family", "budget", "seed", "reached", "note")
NUMBERS: Final = (
    "bytes", "params", "nonzero", "macs", "latency_ms", "shared_seconds", "own_seconds"
)  # fmt: skip


def rows(comparison: Comparison) -> str:
    """The text of the file, outcomes in the order of methods, budgets and seeds.

    What follows the fixed columns are the metric by split and the bytes by part, by name. Numbers
    of what was not reached, and of parts that a file lacks, are left empty.
    """
    outcomes = [o for s in comparison.standings for o in (*s.reached, *s.missed)]
    splits = sorted({split for o in outcomes for split in o.metric})
    parts = sorted({part for o in outcomes for part in o.parts})
    name = comparison.metric.name
    written = io.StringIO(newline="")
    writer = csv.writer(written, lineterminator="\n")
    heads = [f"{name} ({split})" for split in splits] + [f"bytes of {part}" for part in parts]
    writer.writerow([*COLUMNS, *NUMBERS, *heads])
    for o in outcomes:
        writer.writerow(_row(o, splits, parts))
    return written.getvalue()


def _row(o: Outcome, splits: Sequence[str], parts: Sequence[str]) -> list[object]:
    first = [o.method, METHODS[o.method].family, o.budget, o.seed, o.reached, o.note]
    if not o.reached:
        return [*first, *[""] * (len(NUMBERS) + len(splits) + len(parts))]
    return [
        *first,
        *(getattr(o, number) for number in NUMBERS),
        *(o.metric.get(split, "") for split in splits),
        *(o.parts.get(part, "") for part in parts),
    ]
