"""A comparison as one HTML file that needs no network and no server.

Chart, style and script are inside the file; every number in it comes from the outcomes.
`comparison.html` says what is where, `comparison.css` adds to the look of a run's report,
`comparison.js` draws the chart.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path

from widthwise.app.compare.report import choices, tables, words
from widthwise.app.compare.report.chart import chart, ways
from widthwise.app.compare.report.heat import heat
from widthwise.app.compare.report.summary import Comparison
from widthwise.app.compare.report.tables import Table
from widthwise.app.report.elements import cell, element, head, row, table
from widthwise.app.report.shell import described, filled
from widthwise.common.atomic import write_whole


def write(comparison: Comparison, path: Path, *, facts: Mapping[str, str]) -> None:
    """Write the page to `path`; raises FileError when that cannot be done."""
    write_whole(path, [page(comparison, facts=facts).encode()])


def page(comparison: Comparison, *, facts: Mapping[str, str]) -> str:
    """The page as text. facts: what is said about the comparison, label -> text."""
    metric = comparison.metric
    lead = words.lead(comparison)
    return filled(
        "widthwise.app.compare.report",
        "comparison",
        title=comparison.title,
        lead=lead,
        data=chart(comparison),
        curve=escape(f"{_upper(metric.name)} against bytes"),
        choices=_choices(comparison),
        across=_across(comparison),
        summary=escape(f"Chart of {metric.name} against stored bytes. {lead}"),
        caption=escape(_caption(comparison)),
        won=_table(tables.won(comparison), "the winner at each budget"),
        held=_table(tables.held(comparison), "the winner's lead over other families"),
        unit=escape(_upper(words.unit(metric))),
        families=_table(tables.by_family(comparison), "the best of each family"),
        heat=heat(comparison),
        metric=escape(_upper(words.direction(metric))),
        searches=_searches(comparison),
        missed=_missed(comparison),
        cost=_table(tables.cost(comparison), "what each family took"),
        costs=escape(words.COSTS),
        inside=_table(tables.inside(comparison), "what the files of the winners hold"),
        facts=described({**_measured(comparison), **facts}),
    )


def _choices(comparison: Comparison) -> str:
    choices = {"all": "all methods", "best": "the best of each family"}
    choices |= {family: f"only {family}" for family in comparison.families}
    return "\n".join(element("option", said, value=value) for value, said in choices.items())


def _across(comparison: Comparison) -> str:
    """The choice between bytes, latency and costs; nothing where bytes alone are known."""
    labels = {"bytes": "bytes", "latency_ms": "latency", "seconds": "cost"}
    found = ways(comparison)
    if len(found) < 2:
        return ""
    buttons = [
        f'<label><input type="radio" name="across" value="{way}"{" checked" * (not i)}> '
        f"{labels[way]}</label>"
        for i, way in enumerate(found)
    ]
    return f"<fieldset><legend>against</legend>{''.join(buttons)}</fieldset>"


def _caption(comparison: Comparison) -> str:
    said = (
        "Each mark is one method at one budget; the line of a family joins its best at each "
        "budget, chosen on validation data. A click in the legend shows one method alone, "
        "another one all again; a double click in the chart shows what lies outside of it."
    )
    if len(comparison.seeds) > 1:
        said += (
            " Marks are means and bars standard deviations over "
            f"{words.several(len(comparison.seeds), 'seed')}."
        )
    return said


def _measured(comparison: Comparison) -> dict[str, str]:
    """What the outcomes themselves say."""
    networks = sum(o.reached for o in comparison.outcomes)
    methods = words.several(len(comparison.methods), "method")
    return {
        "measured": f"{words.several(networks, 'network')} of {methods}; not reached: "
        f"{len(comparison.outcomes) - networks:,} of {len(comparison.outcomes):,}",
        "budgets": words.listed([words.size(b) for b in comparison.budgets]),
        "seeds": words.listed([str(s) for s in comparison.seeds]),
        "metric": words.direction(comparison.metric),
    }


def _searches(comparison: Comparison) -> str:
    """What searches chose, folded, below how they did; nothing where nothing was searched."""
    lead = choices.lead(comparison)
    if not lead:
        return ""
    shown = _table(choices.chosen(comparison), "what searches chose")
    return (
        f'<section aria-labelledby="searches">\n'
        f"{element('h2', 'What the searches chose', id='searches')}\n{element('p', lead)}\n"
        f"<details>\n<summary>Every search</summary>\n{shown}\n</details>\n</section>"
    )


def _missed(comparison: Comparison) -> str:
    """What was not reached, folded; nothing where all was."""
    found = tables.missed(comparison)
    if not found.rows:
        return ""
    return (
        f"<details>\n<summary>Not reached, and why ({len(found.rows)})</summary>\n"
        f"{_table(found, 'what was not reached')}\n</details>"
    )


def _table(given: Table, label: str) -> str:
    """As HTML; what is in brackets behind a number goes below it, smaller."""
    rows = []
    for first, *others in given.rows:
        cells = [head(first)]
        for name, said in zip(given.heads[1:], others, strict=True):
            long = "text wrap" if len(said) > 24 else "text"
            cells.append(cell(said, long) if name in given.words else _number(said))
        rows.append(row(cells))
    columns = dict.fromkeys(given.words, "text")
    return table(given.heads, [rows], label, columns=columns)


def _number(said: str) -> str:
    first, more, below = said.partition(" (")
    if not more:
        return cell(said)
    return f"<td>{escape(first)}<small>{escape(below[:-1].replace(') (', '; '))}</small></td>"


def _upper(said: str) -> str:
    return said[:1].upper() + said[1:]
