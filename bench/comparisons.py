"""Every method against every other at equal stored bytes: what `widthwise compare` measured.

    WIDTHWISE_DATA=... widthwise compare bench/comparisons/mnist.toml --out build/comparisons/mnist
    python bench/comparisons.py --write mnist        # store the seeds that are done

The settings are those of the .toml files in bench/comparisons. Rates of fine-tuning (three were
tried, a tenth, a third and all of the recipe's) and the ranges of trained weights (two) were chosen
on validation data of MNIST with seed 100, which is reported nowhere.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from common import RESULTS, machine, today
from widthwise.compare.matrix import stored
from widthwise.compare.spec import read

SPECS = Path(__file__).parent / "comparisons"
FOLDER = Path(__file__).parents[1] / "build" / "comparisons"


def write(task: str) -> Path:
    """Store the outcomes of a task, of seeds that are done, each on a line. Returns the path."""
    spec = read(SPECS / f"{task}.toml")
    there = stored(spec, FOLDER / task)
    whole = len(spec.methods) * len(spec.budgets)
    done = [seed for seed in range(spec.seeds) if sum(o.seed == seed for o in there) == whole]
    outcomes = [json.dumps(o.to_dict()) for o in there if o.seed in done]
    head = json.dumps({"date": today(), "machine": machine(), "spec": asdict(spec)}, indent=1)
    path = RESULTS / f"comparison-{task}.json"
    lines = ",\n".join(outcomes)
    path.write_text(f'{head[:-2]},\n "outcomes": [\n{lines}\n]}}\n')
    return path


def main() -> None:
    """Store, or say how far each is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    names = [path.stem for path in sorted(SPECS.glob("*.toml"))]
    parser.add_argument("--write", nargs="+", choices=names, default=[])
    options = parser.parse_args()
    for task in options.write:
        print(write(task))
    for task in names:
        spec = read(SPECS / f"{task}.toml")
        of = len(spec.methods) * len(spec.budgets) * spec.seeds
        done = len(stored(spec, FOLDER / task)) if (FOLDER / task).exists() else 0
        print(f"{task}: {done} of {of} outcomes")


if __name__ == "__main__":
    main()
