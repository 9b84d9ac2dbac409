"""Thousands of random networks: traced, proven, run and cut, each check on each.

    python bench/fuzz.py                                # 200 networks
    python bench/fuzz.py --examples 2000 --write        # and store bench/results/fuzz.json

What must hold is written in tests/random_nets/checks.py; the same seed gives the same network.
Every result is kept in a log as soon as it is there, so that a run can be interrupted and goes on
where it stopped; give another --log to begin anew. A network on which something does not hold is
made as small as it can be and printed as its recipe.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from common import record

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from random_nets import Recipe, generate, shorter
from random_nets.checks import DisagreementError, check

LOG = Path(tempfile.gettempdir()) / "widthwise-fuzz.jsonl"


def one(seed: int) -> dict[str, Any]:
    """What was found on the network of this seed."""
    recipe = generate(random.Random(seed).choice)
    began = time.process_time()
    problem = _problem(recipe)
    row: dict[str, Any] = {"seed": seed, "recipe": repr(recipe)}
    row["steps"] = [name for name, _ in recipe.steps]
    if isinstance(problem, DisagreementError):
        smallest = shrunk(recipe, problem.check)
        row |= {"check": problem.check, "smallest": repr(smallest), "text": str(_problem(smallest))}
    else:
        row |= asdict(problem)
    return row | {"seconds": time.process_time() - began}


def _problem(recipe: Recipe) -> Any:
    try:
        return check(recipe)
    except DisagreementError as error:
        return error


def shrunk(recipe: Recipe, failing: str) -> Recipe:
    """The smallest recipe on which the same check fails, step by step."""
    for smaller in shorter(recipe):
        problem = _problem(smaller)
        if isinstance(problem, DisagreementError) and problem.check == failing:
            return shrunk(smaller, failing)
    return recipe


def run(
    seeds: list[int], log: Path, processes: int, look: Callable[[int], dict[str, Any]] = one
) -> None:
    """Look at the networks of these seeds; each result is added to the log at once.

    look: returns what was found on a seed; "check", "smallest" and "text" where something is wrong.
    """
    began, failed = time.monotonic(), 0
    # What tracing leaves behind would grow with every network: workers are replaced now and then.
    # (ProcessPoolExecutor, which could do that too, stops for good when two are replaced at once.)
    with (
        get_context("spawn").Pool(
            processes, initializer=torch.set_num_threads, initargs=(1,), maxtasksperchild=200
        ) as pool,
        log.open("a") as out,
    ):
        try:
            for done, row in enumerate(pool.imap_unordered(look, seeds), start=1):
                out.write(json.dumps(row) + "\n")
                out.flush()
                if "check" in row:
                    failed += 1
                    print(f"\nseed {row['seed']}: {row['smallest']}\n{row['text']}")
                left = (time.monotonic() - began) / done * (len(seeds) - done)
                status = f"{done}/{len(seeds)} networks, {failed} wrong, {left / 60:.0f} min left"
                print(status, end="\r", flush=True)
        except KeyboardInterrupt:
            print(f"\nStopped; the same command goes on from {log}.")
            raise SystemExit(1) from None
    print()


def rows(log: Path, examples: int) -> Iterator[dict[str, Any]]:
    """What the log holds of the first `examples` seeds."""
    if log.exists():
        for line in log.read_text().splitlines():
            row = json.loads(line)
            if row["seed"] < examples:
                yield row


def summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of a run."""
    right = [r for r in found if "check" not in r]
    wrong = [r for r in found if "check" in r]
    steps = Counter(name for r in found for name in r["steps"])
    return {
        "networks": len(found),
        "disagreements": len(wrong),
        "wrong": [{k: r[k] for k in ("seed", "check", "smallest")} for r in wrong],
        "axes": sum(r["axes"] for r in right),
        "cuts": sum(r["cuts"] for r in right),
        "cuts_of_the_users_class": sum(r["own_class"] for r in right),
        "held_against_masked_networks": sum(r["masked"] for r in right),
        "processor_seconds": round(sum(r["seconds"] for r in found)),
        "steps": dict(sorted(steps.items())),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--examples", type=int, default=200, help="number of networks")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--log", type=Path, default=LOG, help="where results are kept")
    parser.add_argument("--write", action="store_true", help="store the figures")
    options = parser.parse_args()
    known = {row["seed"] for row in rows(options.log, options.examples)}
    seeds = [s for s in range(options.examples) if s not in known]
    if known:
        print(f"{len(known)} of {options.examples} networks are in {options.log} already.")
    run(seeds, options.log, options.processes)
    found = summary(list(rows(options.log, options.examples)))
    print(json.dumps(found, indent=1))
    if options.write:
        print(f"written to {record('fuzz', found)}")
    if found["disagreements"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
