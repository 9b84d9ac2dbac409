"""What the searches of a comparison chose, each beside the best other network of its budget.

    said = lead(comparison)       # how often it is at or above it, and what went wrong where not
    shown = chosen(comparison)    # every search: what it chose, what the other is

Both of one seed, the other one chosen on validation data among all other methods.
"""

from __future__ import annotations

from dataclasses import dataclass

from widthwise.app.compare.methods import METHODS
from widthwise.app.compare.outcome import Outcome
from widthwise.app.compare.report import words
from widthwise.app.compare.report.summary import Comparison
from widthwise.app.compare.report.tables import Table
from widthwise.app.report import text
from widthwise.measure.metric import Metric


@dataclass(frozen=True)
class Pair:
    """A searched network and the best other one, of one budget and one seed."""

    searched: Outcome
    other: Outcome

    def holds(self, split: str, metric: Metric) -> bool:
        """Whether the searched one is at or above the other."""
        return not metric.better(self.other.metric[split], self.searched.metric[split])

    @property
    def place(self) -> str:
        """Its budget and its seed."""
        return f"{words.size(self.searched.budget)}, seed {self.searched.seed}"


def lead(comparison: Comparison) -> str:
    """In two sentences; nothing where nothing was searched."""
    pairs, metric = _pairs(comparison), comparison.metric
    if not pairs:
        return ""
    behind = [pair for pair in pairs if not pair.holds("test", metric)]
    said = (
        f"Each search beside the best other network of its budget and seed: at or above it on test "
        f"data in {len(pairs) - len(behind)} of {len(pairs)} cases."
    )
    if not behind:
        return said
    missed = [pair.place for pair in behind if not pair.holds("valid", metric)]
    chance = len(behind) - len(missed)
    why = []
    if chance:
        why.append(
            f"in {chance} it was at or above it on validation data, where choices are made, so "
            "that nothing could tell"
        )
    if missed:
        why.append(f"in {len(missed)} it had found nothing as good ({'; '.join(missed)})")
    return f"{said} Of the others, {', '.join(why)}."


def chosen(comparison: Comparison) -> Table:
    """A row for every search."""
    name = comparison.metric.name
    rows = [
        [
            words.size(pair.searched.budget),
            str(pair.searched.seed),
            pair.searched.note,
            *(text.value(name, pair.searched.metric[split]) for split in ("valid", "test")),
            pair.other.method,
            *(text.value(name, pair.other.metric[split]) for split in ("valid", "test")),
        ]
        for pair in _pairs(comparison)
    ]
    heads = ["budget", "seed", "searched", "valid", "test", "best other", "its valid", "its test"]
    return Table(heads, rows, ("searched", "best other"))


def _pairs(comparison: Comparison) -> list[Pair]:
    """In order of budgets, then seeds."""
    sign = 1 if comparison.metric.higher_is_better else -1
    reached = [o for o in comparison.outcomes if o.reached]
    searches = [o for o in reached if METHODS[o.method].family == "search"]
    found = []
    for search in sorted(searches, key=lambda o: (o.budget, o.seed)):
        others = [
            o
            for o in reached
            if METHODS[o.method].family != "search"
            and (o.budget, o.seed) == (search.budget, search.seed)
        ]
        if others:
            found.append(Pair(search, max(others, key=lambda o: sign * o.metric["valid"])))
    return found
