"""Every method against every other at equal stored bytes: what `widthwise compare` measured.

    WIDTHWISE_DATA=... widthwise compare bench/comparisons/mnist.toml --out build/comparisons/mnist
    python bench/comparisons.py --write mnist        # store the seeds that are done
    python bench/comparisons.py --begin mnist --without search   # lay out what is stored, but for
                                                     # a group of methods that is to be run again

The settings are those of the .toml files in bench/comparisons. Rates of fine-tuning (three were
tried, a tenth, a third and all of the recipe's) and the ranges of trained weights (two) were chosen
on validation data of MNIST with seed 100, which is reported nowhere.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from common import RESULTS, commit, machines, today
from widthwise.app.compare.cells import Unit, units
from widthwise.app.compare.matrix import claim, keep, stored
from widthwise.app.compare.methods import METHODS, chosen, grouped
from widthwise.app.compare.outcome import Outcome
from widthwise.app.compare.spec import Spec, read

SPECS = Path(__file__).parent / "comparisons"
FOLDER = Path(__file__).parents[1] / "build" / "comparisons"


def spec_of(task: str) -> Spec:
    """The settings of a comparison, with its methods by name."""
    path = SPECS / f"{task}.toml"
    spec = read(path)
    return replace(spec, methods=chosen(spec.methods, path))


def write(task: str) -> Path:
    """Store the outcomes of a task, of seeds that are done, each on a line. Returns the path."""
    spec = spec_of(task)
    there = stored(spec, FOLDER / task)
    whole = len(spec.methods) * len(spec.budgets)
    done = [seed for seed in range(spec.seeds) if sum(o.seed == seed for o in there) == whole]
    outcomes = [json.dumps(o.to_dict()) for o in there if o.seed in done]
    path = RESULTS / f"comparison-{task}.json"
    head = json.dumps(
        {"date": today(), "commit": commit(), "machine": machines(path), "spec": asdict(spec)},
        indent=1,
    )
    lines = ",\n".join(outcomes)
    path.write_text(f'{head[:-2]},\n "outcomes": [\n{lines}\n]}}\n')
    return path


def begin(task: str, without: Sequence[str]) -> None:
    """Lay out what was stored of a task, but for some groups of methods.

    Raises ValueError where its folder is there.
    """
    folder, path = FOLDER / task, RESULTS / f"comparison-{task}.json"
    if folder.exists():
        raise ValueError(f"{folder} is there; move it away first.")
    found = json.loads(path.read_text())
    spec = Spec(**found["spec"])
    outcomes = [Outcome.from_dict(each, path) for each in found["outcomes"]]
    claim(spec, folder)
    for unit in units(spec, [group for group in grouped(spec.methods) if group not in without]):
        of_it = [o for o in outcomes if covers(unit, o)]
        if of_it:
            keep(folder, unit, of_it)


def covers(unit: Unit, outcome: Outcome) -> bool:
    """Whether an outcome is of a unit."""
    group = METHODS[outcome.method].group
    return (group, outcome.seed) == (unit.group, unit.seed) and outcome.budget in unit.budgets


def main() -> None:
    """Store, lay out, or say how far each is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    names = [path.stem for path in sorted(SPECS.glob("*.toml"))]
    parser.add_argument("--write", nargs="+", choices=names, default=[])
    parser.add_argument("--begin", nargs="+", choices=names, default=[])
    parser.add_argument("--without", nargs="+", default=[], metavar="GROUP")
    options = parser.parse_args()
    for task in options.begin:
        begin(task, options.without)
    for task in options.write:
        print(write(task))
    for task in names:
        spec = spec_of(task)
        of = len(spec.methods) * len(spec.budgets) * spec.seeds
        done = len(stored(spec, FOLDER / task)) if (FOLDER / task).exists() else 0
        print(f"{task}: {done} of {of} outcomes")


if __name__ == "__main__":
    main()
