"""Check the zoo: one process and one time limit for each network.

    python -m bench.zoo                                  # all, resuming where it was stopped
    python -m bench.zoo --family timm --jobs 2
    python -m bench.zoo --only timm/levit_128s --again   # look at one network again
    python -m bench.zoo --peer                           # Torch-Pruning on the same networks too
    python -m bench.zoo --write                          # store what is there and write the page

Findings are appended to a file, line by line, as they come. Times are processor seconds of one
thread, so that other work on the machine matters little.
"""

from __future__ import annotations

import argparse

from bench.zoo.names import FAMILIES
from bench.zoo.runner import TOOLS, Row, look_and_keep, options, rows
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


def main() -> int:
    """Look at what was asked for, and store when asked."""
    parser = options("bench.zoo", __doc__, FAMILIES, 600)
    parser.add_argument("--sample", action="store_true", help="the networks that the tests check")
    parser.add_argument("--peer", action="store_true", help="Torch-Pruning too")
    given = parser.parse_args()
    _run(_wanted(given), given)
    if given.write:
        from bench.zoo.page import store

        store(rows(given.rows).values())
    return 0


def _wanted(given: argparse.Namespace) -> list[tuple[str, str]]:
    from bench.zoo.families import SAMPLE, networks

    some = SAMPLE if given.sample else given.only
    names = some or [n.name for f in given.family for n in networks(f)]
    tools = TOOLS if given.peer else TOOLS[:1]
    done = {} if given.again else rows(given.rows)
    return [(tool, name) for tool in tools for name in names if (tool, name) not in done]


def _run(wanted: list[tuple[str, str]], given: argparse.Namespace) -> None:
    text = TextColumn("{task.description}")
    with Progress(BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), text) as progress:
        bar = progress.add_task("", total=len(wanted))
        for row in look_and_keep(wanted, given):
            progress.update(bar, advance=1, description=row["name"])
            progress.console.print(_line(row), highlight=False, markup=False, soft_wrap=True)


def _line(row: Row) -> str:
    """One line on one network."""
    if row["tool"] != TOOLS[0]:
        return f"{row['name']}: {row['tool']}: {row['verdict']}"
    keys = (
        "free",
        "trace_over_export",
        "removed",
        "differences",
        "trained",
        "unknown",
        "disproved",
    )
    told = {k: row[k] for k in keys if row.get(k)}
    own = (row.get("own_class") or {}).get("own")
    return f"{row['name']}: {told} own class: {own} {row['failures'] or ''}"


if __name__ == "__main__":
    raise SystemExit(main())
