"""Hold Elastics at full width against their models: one process and one time limit for each.

    python -m bench.conformance                              # what bench/results does not have
    python -m bench.conformance --family transformers nets --jobs 2
    python -m bench.conformance --only transformers/gpt2 operators/cumsum --again
    python -m bench.conformance --sample 40                  # every n-th, so that 40 are looked at
    python -m bench.conformance --stale                      # again what another engine found
    python -m bench.conformance --write                      # store and write docs/conformance.md

Compared are outputs, gradients of parameters and inputs, and what is left in buffers, in both
modes, twice in a row, at other batch sizes and lengths, and with other arguments. Operators are
torch's own samples behind a linear layer, cut to random widths as well. Findings are appended to a
file, line by line, as they come, so that a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

from bench.conformance.verdicts import WRONG
from bench.zoo.names import FAMILIES, engine
from bench.zoo.runner import Row, look_at_all, rows

ROWS = Path(__file__).parents[2] / "build" / "conformance.jsonl"
ALL = (*FAMILIES, "operators")


def main() -> int:
    """Look at what was asked for, and store when asked; 1 when something is wrong."""
    options = _options()
    options.rows.parent.mkdir(parents=True, exist_ok=True)
    wanted = _wanted(options)
    bad = 0
    for done, row in enumerate(look_at_all(wanted, options.jobs, options.limit), start=1):
        with options.rows.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{done}/{len(wanted)} {line(row)}", flush=True)
        bad += wrong(row)
    if options.write:
        from bench.conformance.page import store

        store(rows(options.rows).values())
    return 1 if bad else 0


def wrong(row: Row) -> bool:
    """Whether something differs, raises on its own or could not be looked at."""
    return bool(row.get("failures")) or any(f["verdict"] in WRONG for f in row["findings"])


def line(row: Row) -> str:
    """One line on one network or operator."""
    findings = row.get("findings", ())
    counts = Counter(f["verdict"] for f in findings)
    told = ", ".join(f"{n} {verdict}" for verdict, n in counts.most_common())
    first = [f for f in findings if f["verdict"] in WRONG][:2]
    why = "".join(f"\n    {f['check']}: {f['verdict']}: {f['text'][:200]}" for f in first)
    return f"{row['name']}: {told or row.get('failures') or 'no sample'}{why}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench.conformance", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these: family/name")
    parser.add_argument("--family", nargs="+", choices=ALL, default=ALL)
    parser.add_argument("--sample", type=int, metavar="N", help="N of them, evenly spread")
    parser.add_argument("--again", action="store_true", help="also what has been looked at")
    parser.add_argument("--stale", action="store_true", help="again what another engine found")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--limit", type=float, default=900, metavar="SECONDS", help="of processor")
    parser.add_argument("--rows", type=Path, default=ROWS, help="the file of findings")
    parser.add_argument("--write", action="store_true", help="store and write the page")
    return parser.parse_args()


def _wanted(options: argparse.Namespace) -> list[tuple[str, str]]:
    names = options.only or [name for family in options.family for name in _names(family)]
    if options.sample:
        names = names[:: max(len(names) // options.sample, 1)]
    done = {} if options.again or options.sample else _looked_at(options.rows)
    if options.stale:
        done = {name: row for name, row in done.items() if row.get("engine") == engine()}
    left = [name for name in names if name not in done]
    return [("operators" if n.startswith("operators/") else "networks", n) for n in left]


def _looked_at(path: Path) -> dict[str, Row]:
    from bench.conformance.page import stored

    return stored() | {name: row for (_, name), row in rows(path).items()}


def _names(family: str) -> list[str]:
    if family == "operators":
        from bench.conformance.operators import names

        return names()
    from bench.zoo.families import networks

    return [network.name for network in networks(family)]


if __name__ == "__main__":
    raise SystemExit(main())
