"""The tables of a comparison as texts: the page and the Markdown show the same ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from widthwise.app.compare.report import words
from widthwise.app.compare.report.summary import (
    Comparison,
    Winner,
    costs,
    families,
    together,
    winners,
)
from widthwise.app.report import text

_COUNTS: Final = (1, 4, 12)  # networks that a family is asked for


@dataclass(frozen=True)
class Table:
    """Heads and rows of texts; the first cell of a row says what it is of.

    words: the heads of columns that hold words rather than numbers.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: Sequence[str] = ()


def won(comparison: Comparison) -> Table:
    """The winner at each budget, and how sure that is."""
    heads = ["budget", "winner", "family", "file", "valid", "test", "lead", "made in"]
    by_budget = {w.budget: w for w in winners(comparison)}
    rows = []
    for budget in comparison.budgets:
        winner = by_budget.get(budget)
        if winner is None:
            rows.append([words.size(budget), "no method has a network so small", *["-"] * 6])
            continue
        best = winner.standing
        rows.append(
            [
                words.size(budget),
                best.method.label,
                best.method.family,
                words.size(best.bytes),
                words.score(comparison, best, "valid"),
                words.score(comparison, best),
                sure(winner),
                words.duration(best.seconds),
            ]
        )
    return Table(heads, rows, ("winner", "family", "lead"))


def sure(winner: Winner) -> str:
    """How the winner stands against the best of every other family."""
    if winner.verdict == "alone":
        return "no other family so small"
    names = [r.standing.method.family for r in winner.rivals if r.verdict == winner.verdict]
    if winner.verdict == "ahead":
        return f"ahead of {len(names)} of {len(winner.rivals)} other families"
    said = "behind" if winner.verdict == "behind" else "not decided against"
    return f"{said} {words.listed(names)}"


def held(comparison: Comparison) -> Table:
    """By how much each winner is ahead of the best of every other family."""
    found = winners(comparison)
    rows = []
    for family in comparison.families:
        cells = []
        for winner in found:
            rival = next((r for r in winner.rivals if r.standing.method.family == family), None)
            if winner.standing.method.family == family:
                cells.append("winner")
            elif rival is None:
                cells.append("-")
            else:
                cells.append(f"{rival.verdict} {words.ahead(rival.difference, comparison.metric)}")
        rows.append([family, *cells])
    return Table(["against", *(words.size(w.budget) for w in found)], rows)


def by_family(comparison: Comparison) -> Table:
    """The best method of each family at each budget, with its metric on test data."""
    found = {budget: families(comparison, budget) for budget in comparison.budgets}
    rows = []
    for family in comparison.families:
        cells = []
        for budget in comparison.budgets:
            best = found[budget].get(family)
            cells.append(f"{words.score(comparison, best)} ({best.method.name})" if best else "-")
        rows.append([family, *cells])
    return Table(["family", *(words.size(b) for b in comparison.budgets)], rows)


def cost(comparison: Comparison) -> Table:
    """What each family took."""
    heads = ["family", "methods", "networks", "shared trainings", "own work", "together"]
    heads += [words.several(n, "network") for n in _COUNTS]
    rows = [
        [
            c.family,
            text.count(c.methods),
            text.count(c.networks),
            words.duration(c.shared),
            words.duration(c.own),
            words.duration(c.total),
            *(words.duration(together(comparison, c.family, n)) for n in _COUNTS),
        ]
        for c in costs(comparison)
    ]
    return Table(heads, rows)


def inside(comparison: Comparison) -> Table:
    """What the files of the winners hold: bytes and their share, means over seeds."""
    found = winners(comparison)
    names = list(dict.fromkeys(name for w in reversed(found) for name in w.standing.parts))
    rows = []
    for winner in found:
        best = winner.standing
        cells = []
        for name in names:
            part = best.parts.get(name)
            share = f" ({100 * part / best.bytes:.0f} %)" if part and best.bytes else ""
            cells.append("-" if part is None else f"{text.count(round(part))}{share}")
        nonzero = sum(o.nonzero for o in best.reached) / len(best.reached)
        params = sum(o.params for o in best.reached) / len(best.reached)
        whole = [text.count(round(n)) for n in (best.bytes, params, nonzero)]
        rows.append([words.size(winner.budget), best.method.name, *whole, *cells])
    heads = ["budget", "winner", "bytes", "parameters", "not zero", *names]
    return Table(heads, rows, ("winner",))


def missed(comparison: Comparison) -> Table:
    """Methods without a network within a budget, with the reason; one line for each reason."""
    budgets: dict[tuple[str, str, str], list[str]] = {}
    for s in comparison.standings:
        if s.missed:
            seeds = words.several(len(s.missed) + len(s.reached), "seed")
            key = s.method.name, f"{len(s.missed)} of {seeds}", s.reasons
            budgets.setdefault(key, []).append(words.size(s.budget))
    methods: dict[tuple[str, str, str], list[str]] = {}
    for (method, seeds, reason), sizes in budgets.items():
        methods.setdefault((words.listed(sizes), seeds, reason), []).append(method)
    rows = [["; ".join(names), *rest] for rest, names in methods.items()]
    heads = ["method", "budget", "not reached with", "reason"]
    return Table(heads, rows, ("method", "budget", "reason"))
