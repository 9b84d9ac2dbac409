"""Thousands of random programs: the Elastic is the program, or says in one sentence why not.

    python bench/random_programs.py                               # 200 programs
    python bench/random_programs.py --examples 2000 --write       # and store the figures
    python bench/random_programs.py --seed 17                     # all findings on one
    python bench/random_programs.py --networks --examples 2000    # plain networks, proof and rules

Programs are networks that also branch on sizes, stop gradients, call norms twice, have Functions
with a backward of their own, hooks, writes in place, state and optional arguments
(tests/random_nets/programs.py). At full width outputs, gradients and state are those of the model,
in both modes, twice in a row, at other sizes and with other arguments; cuts are the Elastic; order
and storing change nothing. Of plain networks, what must hold is in tests/random_nets/checks.py.
Results are kept in a log as soon as they are there, so that a run can be interrupted and goes on
where it stopped; give another --log to begin again.
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
from collections.abc import Callable, Iterable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import torch
from bench.conformance.verdicts import REFUSED, VERDICTS

from common import record
from random_nets import PROGRAM_STEPS, Recipe, generate, shorter
from random_nets.agreement import agree
from random_nets.checks import DisagreementError, check

LOG = Path(tempfile.gettempdir()) / "widthwise-random-{}.jsonl"
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
            verdict = found.wrong[0].verdict
            smallest = shrunk(recipe, lambda r: any(f.verdict == verdict for f in agree(r).wrong))
            first = agree(smallest).wrong[0]
            row |= {"check": first.verdict, "smallest": repr(smallest)}
            row["text"] = f"{first.check}: {first.verdict}: {first.text}"
    return row | {"seconds": round(time.process_time() - began, 2)}


def network(seed: int) -> dict[str, Any]:
    """What was found on the plain network of this seed."""
    recipe = generate(random.Random(seed).choice)
    began = time.process_time()
    problem = _problem(recipe)
    row: dict[str, Any] = {"seed": seed}
    if problem is not None:
        smallest = shrunk(recipe, lambda r: getattr(_problem(r), "check", None) == problem.check)
        row |= {"check": problem.check, "smallest": repr(smallest), "text": str(problem)}
    return row | {"seconds": round(time.process_time() - began, 2)}


def _problem(recipe: Recipe) -> DisagreementError | None:
    try:
        check(recipe)
    except DisagreementError as error:
        return error
    return None


def shrunk(recipe: Recipe, fails: Callable[[Recipe], bool]) -> Recipe:
    """The smallest recipe that fails alike, step by step."""
    smaller = next(filter(fails, shorter(recipe)), None)
    return recipe if smaller is None else shrunk(smaller, fails)


def run(
    seeds: list[int], log: Path, processes: int, look: Callable[[int], dict[str, Any]] = one
) -> None:
    """Look at these seeds; each result is added to the log at once.

    look: returns what was found on a seed; "check", "smallest" and "text" where something is wrong.
    """
    # What tracing leaves behind would grow with every network: workers are replaced now and then.
    # (ProcessPoolExecutor, which could do that too, stops for good when two are replaced at once.)
    with (
        get_context("spawn").Pool(
            processes, initializer=torch.set_num_threads, initargs=(1,), maxtasksperchild=200
        ) as pool,
        log.open("a") as out,
    ):
        for done, row in enumerate(pool.imap_unordered(look, seeds), start=1):
            out.write(json.dumps(row) + "\n")
            out.flush()
            if "check" in row:
                print(f"\nseed {row['seed']}: {row['smallest']}\n{row['text']}")
            print(f"{done}/{len(seeds)}", end="\r", flush=True)
    print()


def rows(log: Path, examples: int) -> list[dict[str, Any]]:
    """What the log holds of the first `examples` seeds."""
    found = map(json.loads, log.read_text().splitlines() if log.exists() else ())
    return [row for row in found if row["seed"] < examples]


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
    parser.add_argument("--log", type=Path, help="where results are kept")
    parser.add_argument("--seed", type=int, help="print the findings on one program")
    parser.add_argument("--networks", action="store_true", help="plain networks instead")
    parser.add_argument("--write", action="store_true", help="store the figures, of programs")
    options = parser.parse_args()
    if options.seed is not None:
        _show(options.seed)
        return 0
    kind, look = ("networks", network) if options.networks else ("programs", one)
    log = options.log or Path(str(LOG).format(kind))
    known = {row["seed"] for row in rows(log, options.examples)}
    run([s for s in range(options.examples) if s not in known], log, options.processes, look)
    found = rows(log, options.examples)
    wrong = [row["seed"] for row in found if "check" in row]
    figures = {"networks": len(found), "wrong": wrong} if options.networks else summary(found)
    print(json.dumps(figures, indent=1))
    if options.write and not options.networks:
        print(f"written to {record('random_programs', figures)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
