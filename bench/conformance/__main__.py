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
from collections import Counter
from pathlib import Path

from bench.conformance.verdicts import WRONG
from bench.zoo.names import FAMILIES, engine
from bench.zoo.runner import Row, look_and_keep, options, rows

ALL = (*FAMILIES, "operators")


def main() -> int:
    """Look at what was asked for, and store when asked; 1 when something is wrong."""
    parser = options("bench.conformance", __doc__, ALL, 900)
    parser.add_argument("--sample", type=int, metavar="N", help="N of them, evenly spread")
    parser.add_argument("--stale", action="store_true", help="again what another engine found")
    given = parser.parse_args()
    wanted = _wanted(given)
    bad = 0
    for done, row in enumerate(look_and_keep(wanted, given), start=1):
        print(f"{done}/{len(wanted)} {line(row)}", flush=True)
        bad += wrong(row)
    if given.write:
        from bench.conformance.page import store

        store(rows(given.rows).values())
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


def _wanted(given: argparse.Namespace) -> list[tuple[str, str]]:
    names = given.only or [name for family in given.family for name in _names(family)]
    if given.sample:
        names = names[:: max(len(names) // given.sample, 1)]
    done = {} if given.again or given.sample else _looked_at(given.rows)
    if given.stale:
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
