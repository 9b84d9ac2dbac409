"""The table of all methods at all budgets, shaded by rank."""

from __future__ import annotations

import math
from html import escape

from widthwise.app.compare.report import words
from widthwise.app.compare.report.summary import Comparison, Standing, families, winners
from widthwise.app.report.elements import cell, head, row, table


def heat(comparison: Comparison) -> str:
    """As HTML: methods by family against budgets."""
    at = {(s.method.name, s.budget): s for s in comparison.standings}
    marks = _marks(comparison)
    ranks = {
        id(s): rank for budget in comparison.budgets for s, rank in _ranked(comparison, budget)
    }
    bodies = []
    for family in comparison.families:
        span = len(comparison.budgets) + 1
        rows = [
            f'<tr><th scope="rowgroup" colspan="{span}"><span>{escape(family)}</span></th></tr>'
        ]
        for method in comparison.methods:
            if method.family == family:
                found = [at.get((method.name, budget)) for budget in comparison.budgets]
                cells = [_cell(comparison, s, marks, ranks) for s in found]
                rows.append(row([head(method.name), *cells]))
        bodies.append(rows)
    heads = ["method", *(words.size(b) for b in comparison.budgets)]
    return table(heads, bodies, "all methods at all budgets", style="scroll tall")


def _marks(comparison: Comparison) -> dict[int, str]:
    """What is said before the numbers of those that were chosen."""
    marks = {
        id(s): "● " for budget in comparison.budgets for s in families(comparison, budget).values()
    }
    return marks | {id(w.standing): "★ " for w in winners(comparison)}


def _ranked(comparison: Comparison, budget: int) -> list[tuple[Standing, float]]:
    """(standing, 0 for the worst .. 1 for the best on test data) of those with a network."""
    sign = 1 if comparison.metric.higher_is_better else -1
    some = [
        s
        for s in comparison.standings
        if s.budget == budget and s.reached and not math.isnan(s.mean())
    ]
    some.sort(key=lambda s: sign * s.mean())
    return [(s, (i + 1) / len(some)) for i, s in enumerate(some)]


def _cell(
    comparison: Comparison,
    standing: Standing | None,
    marks: dict[int, str],
    ranks: dict[int, float],
) -> str:
    if standing is None:
        return cell("", title="not measured")
    if not standing.reached:
        return cell("-", title=f"not reached: {standing.reasons}")
    notes = dict.fromkeys(o.note for o in standing.reached if o.note)
    title = f"{words.size(standing.bytes)}; {'; '.join(notes)}"
    if standing.missed:
        title += f"; not reached: {standing.reasons}"
    mark = marks.get(id(standing), "")
    shade = {"style": f"--rank: {ranks[id(standing)]:.2f}"} if id(standing) in ranks else {}
    said = mark + words.score(comparison, standing)
    return cell(said, "best" if mark else "", title=title, **shade)
