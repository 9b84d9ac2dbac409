"""What each part of the default training of a family is worth, on validation data.

    python bench/recipe.py mlp                 # what is done already is not done again
    python bench/recipe.py mlp digits --write  # and store bench/results/recipe.json

An arm's name says what it changes in the default training: "three" has three passes a step, "a
half" trains the full width alone for half of the epochs. For each size of `family.SIZES` the widest
network along the levels that fits is measured as it is cut, after least squares, and after
post-processing, each of all sizes in one go. Test data are not looked at.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common import machine, record
from family import SIZES
from widthwise import pruning
from widthwise.app.runs import measuring
from widthwise.app.tasks.resolve import resolve
from widthwise.elastic.network import Elastic
from widthwise.measure.evaluation import Evaluation
from widthwise.sampling.draws import Sandwich
from widthwise.sampling.levels import along
from widthwise.store.file import prepare
from widthwise.task import Splits, Task
from widthwise.train.config import RunConfig
from widthwise.train.distillation import Teacher, distill
from widthwise.train.family import FamilyLoss
from widthwise.train.fit import fit
from widthwise.train.recipe import Recipe
from widthwise.train.teaching import HALF, Distill
from widthwise.variant import Widths

ROWS = Path(os.environ.get("RECIPE_ROWS", "build/recipe.jsonl"))
SHARES = (0.1, 0.2, 0.3)  # of the epochs: post-processing of the plain cuts
SOLVED = 0.2  # the same of those fitted by least squares


@dataclass(frozen=True)
class Arm:
    """A training: the default one but for what is named.

    epochs: share of the recipe's epochs in all. warm_up: share of these. faster: the learning rate
    of all of it beside the recipe's. passes: of one step; None trains one width a step, in turns.
    """

    epochs: float = 1.0
    warm_up: float = 0.25
    faster: float = 1.0
    passes: int | None = None
    levels: int = 24
    hard_weight: float = HALF.hard_weight


EARLIER = "a cycle for each phase"  # the default training when the other arms were measured
_QUARTER = Arm(passes=3)
ARMS = {
    "default": Arm(),
    "a warm-up of an eighth": Arm(warm_up=0.125),
    "a warm-up of a half": Arm(warm_up=0.5),
    "a warm-up of three quarters": Arm(warm_up=0.75),
    "one elastic epoch": Arm(warm_up=0.99),
    "half as long again": Arm(epochs=1.5),
    "two, a quarter": Arm(passes=2),
    "two, a half": Arm(passes=2, warm_up=0.5),
    "two, three quarters": Arm(passes=2, warm_up=0.75),
    "four, a quarter": Arm(passes=4),
    "three, an eighth": replace(_QUARTER, warm_up=0.125),
    "three, a quarter": _QUARTER,
    "three, a quarter, 12 levels": replace(_QUARTER, levels=12),
    "three, a quarter, soft targets alone": replace(_QUARTER, hard_weight=0.0),
    "three, a quarter, hard targets alone": replace(_QUARTER, hard_weight=1.0),
    "three, a quarter, twice the learning rate": replace(_QUARTER, faster=2.0),
    "three, a half": replace(_QUARTER, warm_up=0.5),
    "three, three quarters": replace(_QUARTER, warm_up=0.75),
    "three, one elastic epoch": replace(_QUARTER, warm_up=0.99),
    "three, half as long": replace(_QUARTER, epochs=0.5, warm_up=0.4),
}


def measure(name: str, arm: Arm, seed: int) -> dict[str, Any]:
    """One arm on one task."""
    task = resolve(f"bench.family_tasks:{name}")
    data = task.splits()
    torch.manual_seed(seed)
    net = Elastic(task.model(), task.example(), seed=seed)
    epochs = max(2, round(arm.epochs * task.recipe.epochs))
    recipe = replace(task.recipe, epochs=epochs, lr=arm.faster * task.recipe.lr)
    loss = FamilyLoss(
        net,
        task.loss,
        distill=Distill(hard_weight=arm.hard_weight),
        levels=arm.levels,
        warm_up=arm.warm_up,
        passes=None if arm.passes is None else Sandwich(arm.passes, narrowest=False),
    )
    began = time.process_time()
    fit(net, data.train, loss, recipe=recipe, run=RunConfig(seed=seed, progress=False))
    seconds = time.process_time() - began
    valid = measuring.evaluation(task, data, "valid")
    batches = measuring.sample(task, data, measuring.SAMPLES, seed)
    path = along(net.free, net.levels, 16 * len(net.levels))
    fitting = {size: _widest(net, path, size) for size in SIZES[name]}
    widths = {str(size): w for size, w in fitting.items() if w is not None}
    cuts = [net.cut(w, recalibrate=batches) for w in widths.values()]
    solved = [
        pruning.reconstruct_(copy.deepcopy(module), net, w, batches)
        for module, w in zip(cuts, widths.values(), strict=True)
    ]
    found = {"cut": _each(valid, cuts), "least squares": _each(valid, solved)}
    spent = {}
    post_processing = [(share, "", cuts) for share in SHARES] + [(SOLVED, ", solved first", solved)]
    for share, what, begun in post_processing:
        label = f"{share:g} of the epochs, by size{what}"
        post_processed = copy.deepcopy(begun)
        began = time.process_time()
        _teach(post_processed, net, task, data, share, seed)
        spent[label] = time.process_time() - began
        found[label] = _each(valid, post_processed)
    return {
        "seconds": seconds,
        "touch_up_seconds": spent,
        "full": valid(net),
        "widths": {size: dict(net.complete(w)) for size, w in widths.items()},
        "valid": {what: dict(zip(widths, values, strict=True)) for what, values in found.items()},
    }


def _widest(net: Elastic, path: list[Widths], size: float) -> Widths | None:
    low, high = 0, len(path)
    while low < high:
        middle = (low + high) // 2
        if prepare(net, path[middle]).bytes <= 1000 * size:
            low = middle + 1
        else:
            high = middle
    return path[low - 1] if low else None


def _each(valid: Evaluation, modules: list[nn.Module]) -> list[float]:
    return [valid(module) for module in modules]


def _teach(
    modules: list[nn.Module], net: Elastic, task: Task, data: Splits, share: float, seed: int
) -> None:
    recipe: Recipe = task.recipe
    distill(
        modules,
        Teacher(net, how=HALF, criterion=task.loss),
        data.train,
        recipe=Recipe(
            epochs=max(1, round(share * recipe.epochs)), batch_size=recipe.batch_size, lr=recipe.lr
        ),
        by_size=True,
        seed=seed,
    )


def rows() -> dict[tuple[str, str, int], dict[str, Any]]:
    """What has been measured."""
    lines = ROWS.read_text().splitlines() if ROWS.exists() else []
    found = [json.loads(line) for line in lines]
    return {(row["task"], row["arm"], row["seed"]): row for row in found}


def main() -> None:
    """Measure what is missing, print, and store when asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tasks", nargs="*", metavar="TASK")
    parser.add_argument("--arms", nargs="+", choices=[*ARMS], default=[*ARMS])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    ROWS.parent.mkdir(parents=True, exist_ok=True)
    for seed in range(options.seeds):
        for name in options.tasks:
            for arm in options.arms:
                if (name, arm, seed) in rows():
                    continue
                row = {"task": name, "arm": arm, "seed": seed, "machine": machine()["processor"]}
                row |= measure(name, ARMS[arm], seed)
                with ROWS.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                show(row)
    if options.write:
        arms = ["default", EARLIER, *ARMS]
        found = sorted(rows().values(), key=lambda row: (row["task"], arms.index(row["arm"])))
        print(f"written to {record('recipe', found, added=True)}")


def show(row: dict[str, Any]) -> None:
    """One arm."""
    print(f"{row['task']}, {row['arm']}: {row['seconds']:.0f} s, full {100 * row['full']:.2f}")
    for what, values in row["valid"].items():
        cells = "  ".join(f"{size} kB {100 * v:.2f}" for size, v in values.items())
        print(f"  {what:32} {cells}", flush=True)


if __name__ == "__main__":
    main()
