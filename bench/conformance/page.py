"""Write docs/conformance.md from bench/results/conformance.json.

    python -m bench.conformance.page            # write
    python -m bench.conformance.page --check    # exit 1 when the page is not what the results say

No figure and no sentence about a network on that page is typed by hand.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

from bench.conformance import verdicts
from bench.conformance.verdicts import VERDICTS
from bench.zoo.names import FAMILIES, engine
from scripts.pages import ROOT, main, table

RESULTS = ROOT / "bench" / "results" / "conformance.json"
PROGRAMS = ROOT / "bench" / "results" / "random_programs.json"
PAGE = ROOT / "docs" / "conformance.md"
GROUPS = (*FAMILIES, "operators")
ABOUT = {
    verdicts.EQUAL: "the same outputs, gradients and state, to rounding",
    verdicts.REFUSED: "one sentence of widthwise, listed below",
    verdicts.BOTH_FAIL: "the model raises, and so does the Elastic",
    verdicts.ACCEPTED: "the Elastic answers where the model raises",
    verdicts.ERROR: "an exception that is no refusal",
    verdicts.DIFFERENT: "something else than the model, without a word",
}
LONGEST = 30  # lines of a list on the page; the JSON file has them all
Row = dict[str, Any]

HEAD = """<!-- Written by bench/conformance/page.py from bench/results; change those. -->

# Conformance

At full width, an `Elastic` and its model are the same function. `python -m bench.conformance` holds
one against the other, in double precision with random weights, for {networks} networks and
{operators} of torch's own operators and modules (each between two linear layers): {checks} checks.
Compared are outputs, gradients of parameters and inputs, and parameters, buffers and inputs
afterwards, to {tolerance} of the largest entry.

- **both modes**: evaluation, and training with the same random numbers; once and twice in a row.
- **other sizes**: three other batch sizes, and three other lengths where there is a length.
- **other arguments**: with each optional argument of `forward` that a value can be made up for,
  in the call only and in the example; without each that the example has; with one that does not
  exist.
- **operators**: also cut to random widths; the cut network and the Elastic at these widths agree.

An Elastic that warns of a table which its model keeps from one call to the next is held against the
first call of a model.

What a check finds:

{meanings}

"""


_PACKAGES = re.compile(r"\S*/site-packages/")  # where packages lie is no finding


def store(rows: Iterable[Row]) -> None:
    """Add findings to bench/results, in the place of earlier ones, and write the page."""
    from bench.common import commit, machine, today

    by_name = stored() | {row["name"]: _short(row) for row in rows}
    kept = sorted(by_name.values(), key=lambda r: r["name"])
    found = {"date": today(), "commit": commit(), "machine": machine(), "networks": kept}
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    PAGE.write_text(page(found))


def stored() -> dict[str, Row]:
    """What bench/results has, by name."""
    return {row["name"]: row for row in json.loads(RESULTS.read_text())["networks"]}


def _short(row: Row) -> Row:
    """Counts, and only the findings that say something."""
    findings = row.get("findings", [])
    told = [f for f in findings if f["verdict"] not in (verdicts.EQUAL, verdicts.BOTH_FAIL)]
    kept = {k: row[k] for k in ("name", "engine", "failures", "seconds") if row.get(k)}
    told = [{**f, "text": _PACKAGES.sub("", f["text"])[:400]} for f in told]
    return {**kept, "counts": Counter(f["verdict"] for f in findings), "findings": told}


def page(found: dict[str, Any]) -> str:
    """The whole page as text."""
    rows = found["networks"]
    names = [r["name"] for r in rows]
    operators = sum(n.startswith("operators/") for n in names)
    head = HEAD.format(
        networks=len(rows) - operators,
        operators=operators,
        checks=f"{sum(sum(r['counts'].values()) for r in rows):,}",
        tolerance="one millionth",
        meanings="\n".join(f"- **{v}**: {text}." for v, text in ABOUT.items()),
    )
    stale = sum(r.get("engine") != engine() for r in rows)
    note = f"{stale} of {len(rows)} rows are of earlier states of the engine.\n\n" if stale else ""
    parts = [head, note, _table(rows), _wrong(rows), _refusals(rows), _programs()]
    return "".join(parts).rstrip() + "\n"


def _table(rows: list[Row]) -> str:
    groups = {group: [r for r in rows if r["name"].startswith(f"{group}/")] for group in GROUPS}
    lines = [_line(group, some) for group, some in groups.items() if some]
    header = ["family", "looked at", *VERDICTS, "not finished"]
    return table(header, [*lines, _line("**all**", rows)]) + "\n\n"


def _line(title: str, rows: list[Row]) -> list[str]:
    total: Counter[str] = Counter()
    for row in rows:
        total.update(row["counts"])
    failed = sum(bool(r.get("failures")) for r in rows)
    return [title, str(len(rows)), *(f"{total[v]:,}" for v in VERDICTS), str(failed)]


def _wrong(rows: list[Row]) -> str:
    lines = [
        f"{r['name']}: {f['check']}: {f['verdict']}: {_plain(f['text'])}"
        for r in rows
        for f in r["findings"]
        if f["verdict"] in verdicts.WRONG
    ]
    lines += [f"{r['name']}: {_plain(str(r['failures']))}" for r in rows if r.get("failures")]
    return _listed("What is wrong", lines)


def _refusals(rows: list[Row]) -> str:
    """Refusals by what they say, with the networks and checks that met them."""
    met: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        for f in row["findings"]:
            if f["verdict"] == verdicts.REFUSED:
                met[kind(f["text"])].append(f"{row['name']} ({f['check']})")
    order = sorted(met.items(), key=lambda item: (-len(item[1]), item[0]))
    lines = [f"{len(where)} times, {where[0]} for one: {text}" for text, where in order]
    return _listed("Refusals", lines) + _vague(rows)


def _vague(rows: list[Row]) -> str:
    """Refusals of what the model takes, that tell neither the line nor the argument."""
    lines = [
        f"{row['name']} ({f['check']}): {_plain(f['text'])}"
        for row in rows
        for f in row["findings"]
        if f["verdict"] == verdicts.REFUSED and not names_the_cause(f["check"], f["text"])
    ]
    return _listed("Refusals that name neither a line nor an argument", lines)


def names_the_cause(check: str, text: str) -> bool:
    """Whether a refusal names a line of code, or the argument that the check is about."""
    words = check.split()
    argument = words[words.index("argument") + 1] if "argument" in words else None
    return bool(re.search(r"\.py:\d+", text)) or (argument is not None and argument in text)


def kind(text: str) -> str:
    """A refusal without the names, places and numbers in it."""
    text = re.sub(r"at \S+\.py:\d+ \(`.*?`\)", "at ...", text)
    return _plain(re.sub(r"'[^']*'|\d+", "…", text))


def _listed(title: str, lines: list[str]) -> str:
    if not lines:
        return f"## {title} (0)\n\nNothing.\n\n"
    shown = lines[:LONGEST]
    rest = len(lines) - len(shown)
    more = [f"- and {rest} more, in `bench/results/conformance.json`"] if rest else []
    text = "\n".join([*(f"- {line}" for line in shown), *more])
    return f"## {title} ({len(lines)})\n\n{text}\n\n"


def _programs() -> str:
    if not PROGRAMS.exists():
        return ""
    found = json.loads(PROGRAMS.read_text())["results"]
    counts = ", ".join(f"{found['verdicts'][v]:,} {v}" for v in VERDICTS if found["verdicts"][v])
    return f"""## Random programs

`python bench/random_programs.py --examples {found["programs"]} --write` draws networks that also
branch on sizes, stop gradients, call norms twice, have Functions with a backward of their own,
hooks, writes in place, state and optional arguments, and holds each against its model in the same
ways, besides cuts, ordering and storing. Of {found["programs"]:,} programs,
{found["disagreements"]} disagree; {found["captured"]:,} were captured and {found["refused"]:,}
refused. Checks: {counts}. The run takes {found["processor_seconds"] / 60:.0f} processor minutes.
"""


def _plain(text: str) -> str:
    """One line that cannot be taken for Markdown."""
    text = re.sub(r"[^\s(`]*/site-packages/", "", re.sub(r"\s+", " ", text))
    return text.strip()[:300].replace("|", "\\|").replace("<", "\\<")


if __name__ == "__main__":
    sys.exit(main(__doc__, lambda: {PAGE: page(json.loads(RESULTS.read_text()))}))
