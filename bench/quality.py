"""How good is every width of one elastic training? MNIST MLP 784-256-256-10, test accuracy.

    python bench/quality.py                  # three seeds; about half an hour on two cores
    python bench/quality.py --write          # and store them in bench/results/quality.json

Compared, at both hidden layers of width 2..256:

    alone       each width trained by itself: 15 epochs, Adam, one cycle to 2e-3, batch 256
    published   structural dropout as published (Knodt 2022): p 0.5, independent uniform cuts, scale
                H/i, Adam 8e-4, batch 500, 100 epochs, on pixels in 0..1 as in the author's code
                (normalised pixels, which all others get, do it harm)
    default     seven sandwich passes a step (`SandwichLoss`), the recipe of the task, cut as it is
    refit       the same cut, its output layer refitted on the kept features
    distilled   the same cut, two epochs of distillation from the full network

The recipe was chosen on the last 10,000 training images; here everything is trained on all 60,000
and judged on the test set, once. Every cell is a process of its own on one thread, and what is done
already is not done again. Costs are processor seconds of training in units of one plain training of
the full network.
"""

from __future__ import annotations

import copy
import json
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

import widthwise as ww
from common import apart, main
from paired import summary
from widthwise.app.tasks import BUILT_IN
from widthwise.app.tasks.arrays import Arrays
from widthwise.app.tasks.mlp import MLP
from widthwise.measure.evaluation import Evaluation
from widthwise.measure.sweep import sweep
from widthwise.train.config import RunConfig
from widthwise.train.distillation import distill
from widthwise.train.fit import fit
from widthwise.train.losses import SandwichLoss, SingleDraw
from widthwise.train.recipe import Recipe
from widthwise.train.refit import refit_output_

WIDTHS = (2, 4, 5, 6, 8, 10, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
FLOORS = {8: 89.5, 16: 93.8, 32: 96.2, 64: 97.5, 128: 98.0, 256: 98.3}
COST = 8.0
PLAIN = Recipe(epochs=15, batch_size=256, lr=2e-3)
PUBLISHED = Recipe(epochs=100, batch_size=500, lr=8e-4, warmup=0, decay="none")
RUNS = Path("runs") / "quality"


MEAN, STD = 0.1307, 0.3081  # with which the task normalises its pixels


def data(pixels: bool = False) -> tuple[Arrays, Arrays]:
    """All 60,000 training images, and the test set; as pixels in 0..1 when asked."""
    splits = BUILT_IN["mnist"]().splits()
    train, valid, test = splits.train, splits.valid, splits.test
    assert isinstance(train, Arrays)
    assert isinstance(valid, Arrays)
    assert isinstance(test, Arrays)
    inputs = torch.cat([train.inputs, valid.inputs])
    if pixels:
        inputs, test = inputs * STD + MEAN, Arrays(test.inputs * STD + MEAN, test.targets)
    return Arrays(inputs, torch.cat([train.targets, valid.targets])), test


def accuracy(module: torch.nn.Module, test: Arrays) -> float:
    """Per cent."""
    module.eval()
    with torch.no_grad():
        return 100 * (module(test.inputs).argmax(1) == test.targets).float().mean().item()


def alone(seed: int, width: int) -> dict[str, Any]:
    """One width trained by itself."""
    train, test = data()
    torch.manual_seed(seed)
    model = MLP(784, width, 10)
    began = time.process_time()
    fit(model, train, F.cross_entropy, recipe=PLAIN, run=RunConfig(seed=seed, progress=False))
    return {"seconds": time.process_time() - began, "accuracy": {width: accuracy(model, test)}}


def elastic(seed: int, draw: ww.Draw, recipe: Recipe, single: bool) -> dict[str, Any]:
    """One elastic training, and the accuracy of every width as it is cut."""
    train, test = data(pixels=single)
    torch.manual_seed(seed)
    net = ww.Elastic(MLP(784, 256, 10), train.inputs[:2], draw=draw, seed=seed)
    objective = SingleDraw if single else SandwichLoss
    began = time.process_time()
    fit(
        net,
        train,
        objective(net, F.cross_entropy),
        recipe=recipe,
        run=RunConfig(seed=seed, progress=False),
    )
    result: dict[str, Any] = {"seconds": time.process_time() - began}
    evaluate = Evaluation([(test.inputs, test.targets)], BUILT_IN["mnist"]().metric)
    chosen = [ww.Widths({"fc1": w, "fc2": w}) for w in WIDTHS]
    points = sweep(net, evaluate, chosen, latency=False).points
    by_width = {p.widths.get("fc1", 256): 100 * p.metric for p in points}
    result["accuracy"] = {w: by_width[w] for w in WIDTHS}
    if not single:
        result |= post_processed(net, train, test)
    return result


def post_processed(net: ww.Elastic, train: Arrays, test: Arrays) -> dict[str, Any]:
    """Accuracy after each post-processing, and the processor seconds of one."""
    found: dict[str, Any] = {"refit": {}, "distilled": {}, "touch_up_seconds": {}}
    for width in WIDTHS[:-1]:
        cut = net.cut({"fc1": width, "fc2": width})
        for name in ("refit", "distilled"):
            post_processed = copy.deepcopy(cut)
            began = time.process_time()
            if name == "refit":
                refit_output_(post_processed, train, F.cross_entropy)
            else:
                distill(post_processed, net.model, train)
            found["touch_up_seconds"][f"{name} {width}"] = time.process_time() - began
            found[name][width] = accuracy(post_processed, test)
    return found


def cell(name: str, seed: int, width: int) -> dict[str, Any]:
    """One unit of work, by name."""
    torch.set_num_threads(1)
    if name == "alone":
        return alone(seed, width)
    if name == "published":
        return elastic(seed, ww.PUBLISHED, PUBLISHED, single=True)
    return elastic(seed, ww.Draw(), BUILT_IN["mnist"]().recipe, single=False)


def run(job: tuple[str, int, int]) -> dict[str, Any]:
    """The result of a cell, from its file when it is there."""
    name, seed, width = job
    path = RUNS / f"{name}-{seed}-{width}.json"
    if not path.exists():
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(apart(cell, name, seed, width)))
        temporary.rename(path)
        print("done", *job, flush=True)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def table(seeds: int, results: dict[tuple[str, int, int], dict[str, Any]]) -> dict[str, Any]:
    """All figures, by method and width."""
    rows: dict[str, dict[str, Any]] = {}
    for width in WIDTHS:
        key = str(width)
        row = {
            "alone": [results["alone", s, width]["accuracy"][key] for s in range(seeds)],
            "published": [results["published", s, 0]["accuracy"][key] for s in range(seeds)],
            "default": [results["default", s, 0]["accuracy"][key] for s in range(seeds)],
        }
        for name in ("refit", "distilled") if width < 256 else ():
            row[name] = [results["default", s, 0][name][key] for s in range(seeds)]
        rows[key] = {name: summary(values, 2) for name, values in row.items()}
        rows[key]["default_minus_alone"] = round(
            rows[key]["default"]["mean"] - rows[key]["alone"]["mean"], 2
        )
    plain = statistics.mean(results["alone", s, 256]["seconds"] for s in range(seeds))
    costs = {
        name: summary([results[name, s, 0]["seconds"] / plain for s in range(seeds)], 2)
        for name in ("published", "default")
    }
    costs["every width of the table alone"] = {
        "mean": round(
            sum(results["alone", s, w]["seconds"] for s in range(seeds) for w in WIDTHS)
            / seeds
            / plain,
            2,
        )
    }
    costs["touch_up_seconds"] = results["default", 0, 0]["touch_up_seconds"]
    return {"seeds": seeds, "accuracy_percent": rows, "cost_in_plain_trainings": costs}


def measure(seeds: int, processes: int) -> dict[str, Any]:
    """What is missing is measured."""
    RUNS.mkdir(parents=True, exist_ok=True)
    jobs = [("default", s, 0) for s in range(seeds)]
    jobs += [("alone", s, w) for s in range(seeds) for w in reversed(WIDTHS)]
    jobs += [("published", s, 0) for s in range(seeds)]
    with ThreadPoolExecutor(processes) as pool:
        return table(seeds, dict(zip(jobs, pool.map(run, jobs), strict=True)))


def kept(found: dict[str, Any]) -> bool:
    """Whether no floor is missed, and the cost is as it should be."""
    means = {w: found["accuracy_percent"][str(w)]["default"]["mean"] for w in FLOORS}
    cost = found["cost_in_plain_trainings"]["default"]["mean"]
    return cost <= COST and all(mean >= FLOORS[w] for w, mean in means.items())


if __name__ == "__main__":
    raise SystemExit(main(__doc__, "quality", measure, kept, seeds=3, processes=2))
