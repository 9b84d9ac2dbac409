"""Thousands of random programs: the Elastic is the program, or says in one sentence why not.

    python bench/random_programs.py                               # 200 programs
    python bench/random_programs.py --examples 2000 --write       # and store the figures
    python bench/random_programs.py --seed 17                     # all findings on one

Programs are networks that also branch on sizes, stop gradients, call norms twice, have Functions
with a backward of their own, hooks, writes in place, state and optional arguments
(tests/random_nets/programs.py). At full width outputs, gradients and state are those of the model,
in both modes, twice in a row, at other sizes and with other arguments; cuts are the Elastic; order
and storing change nothing. Results are kept in a log as soon as they are there, so that a run can
be interrupted and goes on where it stopped; give another --log to begin again.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from bench.conformance.verdicts import REFUSED, VERDICTS

import fuzz
from common import record
from random_nets import PROGRAM_STEPS, Recipe, generate, shorter
from random_nets.agreement import agree

LOG = Path(tempfile.gettempdir()) / "widthwise-random-programs.jsonl"
MOST = 5  # steps of a program


def program(seed: int) -> Recipe:
    """The program of this seed."""
    return generate(random.Random(seed).choice, MOST, programs=True)


def one(seed: int) -> dict[str, Any]:
    """What was found on the program of this seed."""
    recipe = program(seed)
    began = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = agree(recipe)
        row: dict[str, Any] = {"seed": seed, "steps": [name for name, _ in recipe.steps]}
        row["verdicts"] = Counter(f.verdict for f in found.findings)
        row["refused"] = [_kind(f.text) for f in found.findings if f.verdict == REFUSED]
        row["captured"] = bool(found.findings) and not found.refused
        if found.wrong:
            smallest = shrunk(recipe, found.wrong[0].verdict)
            first = agree(smallest).wrong[0]
            row |= {"check": first.verdict, "smallest": repr(smallest)}
            row["text"] = f"{first.check}: {first.verdict}: {first.text}"
    return row | {"seconds": round(time.process_time() - began, 2)}


def shrunk(recipe: Recipe, verdict: str) -> Recipe:
    """The smallest program on which something has the same verdict."""
    for smaller in shorter(recipe):
        if any(f.verdict == verdict for f in agree(smaller).wrong):
            return shrunk(smaller, verdict)
    return recipe


def _kind(text: str) -> str:
    """A refusal without the names, places and numbers in it."""
    text = re.sub(r"\S+\.py:\d+ \(`.*?`\)", "...", text)
    return re.sub(r"'[^']*'|\d+", "_", text)[:160]


def summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of a run."""
    wrong = [r for r in found if "check" in r]
    verdicts: Counter[str] = Counter()
    for row in found:
        verdicts.update(row["verdicts"])
    steps = Counter(name for r in found for name in r["steps"] if name in PROGRAM_STEPS["image"])
    return {
        "programs": len(found),
        "disagreements": len(wrong),
        "captured": sum(r["captured"] for r in found),
        "refused": sum(bool(r["refused"]) and not r["captured"] for r in found),
        "verdicts": {v: verdicts[v] for v in VERDICTS},
        "wrong": [{k: r[k] for k in ("seed", "smallest", "text")} for r in wrong],
        "refusals": dict(_refusals(found).most_common(40)),
        "processor_seconds": round(sum(r["seconds"] for r in found)),
        "steps": dict(sorted(steps.items())),
    }


def _refusals(found: Iterable[dict[str, Any]]) -> Counter[str]:
    return Counter(text for row in found for text in set(row["refused"]))


def _show(seed: int) -> None:
    recipe = program(seed)
    print(recipe)
    for finding in agree(recipe).findings:
        print(f"{finding.check}: {finding.verdict} {finding.text}")


def main() -> int:
    """Run, print, and store when asked; 1 when something disagrees."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--examples", type=int, default=200, help="number of programs")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--log", type=Path, default=LOG, help="where results are kept")
    parser.add_argument("--seed", type=int, help="print the findings on one program")
    parser.add_argument("--write", action="store_true", help="store the figures")
    options = parser.parse_args()
    if options.seed is not None:
        _show(options.seed)
        return 0
    known = {row["seed"] for row in fuzz.rows(options.log, options.examples)}
    seeds = [s for s in range(options.examples) if s not in known]
    fuzz.run(seeds, options.log, options.processes, one)
    found = summary(list(fuzz.rows(options.log, options.examples)))
    print(json.dumps(found, indent=1))
    if options.write:
        print(f"written to {record('random_programs', found)}")
    return 1 if found["disagreements"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
