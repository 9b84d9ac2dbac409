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
import json
from pathlib import Path

from bench.zoo.names import FAMILIES
from bench.zoo.runner import TOOLS, Row, look_at_all, rows
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

ROWS = Path(__file__).parents[2] / "build" / "zoo.jsonl"


def main() -> int:
    """Look at what was asked for, and store when asked."""
    options = _options()
    options.rows.parent.mkdir(parents=True, exist_ok=True)
    _run(_wanted(options), options)
    if options.write:
        from bench.zoo.page import store

        store(rows(options.rows).values())
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.zoo", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these networks: family/name")
    parser.add_argument("--family", nargs="+", choices=FAMILIES, default=FAMILIES)
    parser.add_argument("--sample", action="store_true", help="the networks that the tests check")
    parser.add_argument("--again", action="store_true", help="also those that have been looked at")
    parser.add_argument("--peer", action="store_true", help="Torch-Pruning too")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--limit", type=float, default=600, metavar="SECONDS", help="of processor")
    parser.add_argument("--rows", type=Path, default=ROWS, help="the file of findings")
    parser.add_argument("--write", action="store_true", help="store and write docs/coverage.md")
    return parser.parse_args()


def _wanted(options: argparse.Namespace) -> list[tuple[str, str]]:
    from bench.zoo.families import SAMPLE, networks

    some = SAMPLE if options.sample else options.only
    names = some or [n.name for f in options.family for n in networks(f)]
    tools = TOOLS if options.peer else TOOLS[:1]
    done = {} if options.again else rows(options.rows)
    return [(tool, name) for tool in tools for name in names if (tool, name) not in done]


def _run(wanted: list[tuple[str, str]], options: argparse.Namespace) -> None:
    text = TextColumn("{task.description}")
    with Progress(BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), text) as progress:
        bar = progress.add_task("", total=len(wanted))
        for row in look_at_all(wanted, options.jobs, options.limit):
            with options.rows.open("a") as file:
                file.write(json.dumps(row) + "\n")
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
