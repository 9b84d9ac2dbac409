"""Write docs/comparison.md and its pictures from bench/results/comparison-*.json.

    python scripts/comparison_page.py           # write
    python scripts/comparison_page.py --check   # exit 1 when the page is not what the results say

No figure and no verdict on the page is typed by hand.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from functools import cache
from typing import Any

import pages
from pages import IMAGES, RESULTS, ROOT, measured
from widthwise.app.compare.methods import METHODS
from widthwise.app.compare.outcome import Outcome
from widthwise.app.compare.report import markdown, picture, words
from widthwise.app.compare.report.places import Across
from widthwise.app.compare.report.summary import Comparison, against, compare, families, winners
from widthwise.app.compare.report.tables import Table
from widthwise.app.compare.spec import Spec
from widthwise.app.tasks import BUILT_IN

PAGE = ROOT / "docs" / "comparison.md"
STORED = [path.read_text() for path in RESULTS.glob("comparison-*.json")]
NEWER = [name for name in METHODS if not any(f'"{name}"' in text for text in STORED)]
NOT_THERE = (
    f"\nNewer than these results, and not in the tables: {', '.join(NEWER)}.\n" if NEWER else ""
)
LEAD = f"""# Every method, at equal stored bytes

Written by `scripts/comparison_page.py` from `bench/results/`. Each of {len(METHODS)} ways of compressing a network
makes the best network that it can for every budget of *bytes of the file*, header included; the file is read
back, and what was read is measured. `widthwise compare` does this for any task
([how](design.md#comparing-appcompare)); settings are in `bench/comparisons/`.
{NOT_THERE}
How to read it: whatever is chosen (the best method of a family, the winner at a budget, variants in a search,
how far a method's knob is turned) is chosen on validation data; figures are of test data, means over seeds with
their standard deviation. "Ahead" means that the 95 % interval of the difference, paired over seeds, is above zero
against the best of every other family; three seeds make wide intervals, and they are not corrected for their
number. Small-dense networks are trained at their size, quantized ones trained on straight-through: the rival
that a method which begins with a large network has to beat.

What a search ends with has been through three trainings of this length, one after another (elastic, at full width,
its own), and a network that is small from the start through one. Where they are short, that alone makes it better.
The comparisons called longer and longest put searches beside rivals that have seen the data as often, and say whether
a search is still ahead. What a search costs is in the table of times.

What was done after a first look: how a search ends (the finalists are made narrower or wider and trained again
until they fill the budget) was changed after seed 0 of mnist had been seen, where at 2 kB no finalist fitted any
more once it was trained. One small-dense network of nsl-kdd (2 bits, 16 kB, seed 0) was run again too, with more
tries to fit. Who teaches in a search, and what finalists are cut from, was changed after all seeds of the first
three tasks had been seen, where on fashion-mnist-cnn the search was behind above 16 kB: both had been the elastic
network, whose full width is, after so short a training, behind a network of one width
([what is done now](design.md#variants-and-search-variants)). The change was chosen on validation data of seed 100, which
is reported nowhere. Which variants a search trains to the end was changed last, when the searches of mnist had been
run again, and two of three were behind at 2 kB: a moment's training had chosen three variants, and now chooses six, and
a third of a training two of these. That was tried on validation data of mnist, seeds from 100 on. The searches of mnist
and nsl-kdd were then run again with both changes; those of fashion-mnist-cnn (the longer ones too) and ptb-lstm-small
have the first, those of cifar10-resnet20 neither. That a search ends with what a moment's training made, where none
that was trained longer is better, came after all of them.

The comparisons with one seed are small ones, for a size of network and a kind of task: they are trained far less
than their recipes ask for, and nothing of them is decided. The one of ptb-lstm-small was begun with half as many
windows of text, where eight networks were no better than the frequencies of words, and then with these.
"""


@cache
def results() -> dict[str, dict[str, Any]]:
    """All stored comparisons, by name."""
    paths = sorted(RESULTS.glob("comparison-*.json"))
    return {p.stem.removeprefix("comparison-"): json.loads(p.read_text()) for p in paths}


def comparison(name: str, found: dict[str, Any]) -> Comparison:
    """As data for the report."""
    return compare(outcomes_of(name, found), BUILT_IN[found["spec"]["task"]]().metric, title=name)


def outcomes_of(name: str, found: dict[str, Any]) -> list[Outcome]:
    """All that was stored."""
    return [Outcome.from_dict(data, name) for data in found["outcomes"]]


def epochs(found: dict[str, Any]) -> int:
    """Of every training."""
    spec = Spec(**found["spec"])
    return spec.recipe(BUILT_IN[spec.task]()).epochs


def shorter(found: dict[str, Any]) -> str | None:
    """The name of the comparison of which three trainings are as long as one of these."""
    for name, other in results().items():
        if other["spec"]["task"] == found["spec"]["task"] and 3 * epochs(other) == epochs(found):
            return name
    return None


def equally_trained(name: str, found: dict[str, Any], other: str) -> str:
    """The rivals of a longer comparison beside the searches of a shorter one."""
    searches = [o for o in outcomes_of(other, results()[other]) if o.method == "search"]
    rivals = [o for o in outcomes_of(name, found) if o.method != "search"]
    budgets = {o.budget for o in rivals}
    metric = BUILT_IN[found["spec"]["task"]]().metric
    both = compare([*rivals, *(o for o in searches if o.budget in budgets)], metric, title=name)
    rows, verdicts, above = [], Counter[str](), 0
    for budget in both.budgets:
        best = families(both, budget)
        search, rival = best.pop("search"), next(iter(best.values()))
        lead = against(search, rival, metric)
        assert lead is not None
        verdicts[lead.verdict] += 1
        above += lead.mean > 0
        cells = [
            words.size(budget),
            words.score(both, search),
            words.score(both, rival),
            rival.method.name,
        ]
        rows.append([*cells, f"{lead.verdict} {words.ahead(lead, metric)}"])
    said = ", ".join(f"{verdict} at {count}" for verdict, count in sorted(verdicts.items()))
    heads = ["budget", f"search of {other}", "rival trained longer", "which", "the search is"]
    return (
        f"At equal training: what a search of {other} ends with has been through three trainings of "
        f"{epochs(results()[other])} epochs, a rival here through one of {epochs(found)}. On test data, the mean of "
        f"these searches is above at {above} of {len(rows)} budgets; with 95 % confidence they are {said}.\n\n"
        f"{markdown.table(Table(heads, rows, ('which',)))}"
    )


def searched(found: Comparison) -> str:
    """Where the searched combination wins, and where it does not."""
    wins: list[str] = []
    others: list[str] = []
    for winner in winners(found):
        said = f"{winner.budget / 1e3:g} kB"
        family = winner.standing.method.family
        (wins if family == "search" else others).append(
            said if family == "search" else f"{said} ({family})"
        )
    text = f"The searched combination is the winner at {len(wins)} of {len(wins) + len(others)} budgets"
    return f"{text}{'; not at ' + ', '.join(others) if others else ''}."


def about(found: dict[str, Any]) -> str:
    """Settings, and what is there."""
    spec = Spec(**found["spec"])
    there, of = len(found["outcomes"]), len(spec.methods) * len(spec.budgets) * spec.seeds
    seeds = len({o["seed"] for o in found["outcomes"]})
    missing = "" if there == of else f" {there} of {of} outcomes are measured so far."
    data = "" if spec.examples is None else f" on {spec.examples:,} examples"
    parts = [f"Trainings of {epochs(found)} epochs{data}"]
    if any(method.endswith(("fine-tuned", "post-processed")) for method in spec.methods):
        parts.append(f"fine-tunings of {spec.fine_tune}")
    if "search" in spec.methods:
        parts.append(f"searches of {spec.trials} variants")
    how = "by LAMP" if spec.scope == "lamp" else "as they are"
    return (
        f"{', '.join(parts)}; magnitudes of weights compete {how}; {seeds} seed{'s' * (seeds > 1)}.{missing} "
        f"{measured(found)}"
    )


def page() -> str:
    """The whole page."""
    parts = [LEAD]
    for name, found in results().items():
        made = comparison(name, found)
        pictures = {across: f"images/{path}" for across, path in images(name).items()}
        section = markdown.section(made, pictures=pictures)
        heading, _, rest = section.partition("\n\n")
        lead = [heading, about(found)]
        if "search" in found["spec"]["methods"]:
            lead.append(searched(made))
        if other := shorter(found):
            lead.append(equally_trained(name, found, other))
        parts.append("\n\n".join([*lead, rest]))
    return "\n".join(parts)


def images(name: str) -> dict[Across, str]:
    """The files of the pictures of a comparison."""
    return {"bytes": f"comparison-{name}.png", "seconds": f"cost-{name}.png"}


def pictures() -> None:
    """Two for each comparison."""
    for name, found in results().items():
        for across, path in images(name).items():
            picture.draw(comparison(name, found), IMAGES / path, across=across)


if __name__ == "__main__":
    sys.exit(pages.main(__doc__, lambda: {PAGE: page()}, pictures))
