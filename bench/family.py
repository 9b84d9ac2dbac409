"""One training of a family against networks trained alone, at equal bytes of the files.

    python bench/family.py digits mlp              # what is done already is not done again
    python bench/family.py fashion_cnn --seeds 3 --jobs 2
    python bench/family.py digits mlp --write      # and store bench/results/family.json

The family is what `widthwise train`, `sweep` and `cut` make by default: one training along levels,
a sweep, and for every size the best network that fits, post-processed. Compared, all with its
plain recipe and tested on its test data:

    plain     the full network trained alone: the unit of all costs
    ours      the shapes of the family, each trained alone from new weights
    equal     the largest network of equal shares of all layers that fits, trained alone
    longer    `ours`, trained twice as long

Costs are processor seconds of one thread over those of `plain`, both of processes of their own; so
that other work on the machine matters less, every process measures a yardstick before and after.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common import RESULTS, record
from widthwise.app.runs import cuts, measuring, opening, sweeps, training
from widthwise.app.runs.folder import hold
from widthwise.app.runs.postprocessing import initialise
from widthwise.app.runs.record import Settings
from widthwise.app.tasks.resolve import resolve
from widthwise.elastic.network import Elastic
from widthwise.errors import BudgetError
from widthwise.measure.frontier import Frontier, Point
from widthwise.sampling.draws import Draw
from widthwise.store.file import prepare
from widthwise.task import Splits, Task
from widthwise.train.config import RunConfig
from widthwise.train.fit import fit
from widthwise.variant import Widths

SIZES = {  # of files, in kB
    "digits": (1.5, 2, 3, 5, 8, 12, 20),
    "mlp": (14, 20, 27, 33, 40, 47, 55, 70, 85, 101, 118, 150, 190, 250, 340, 440),
    "fashion_cnn": (6, 10, 16, 25, 40, 60, 100, 150, 200, 250, 350, 500),
    "nsl_kdd": (4, 8, 16, 32, 64, 128),
    "resnet": (40, 60, 100, 200, 400, 700),
    "gpt": (60, 125, 250, 500, 900, 1500),
}
KINDS = ("plain", "family", "ours", "equal", "longer")
CELLS = Path(os.environ.get("FAMILY_CELLS", "build/family"))


def yardstick() -> float:
    """Processor seconds of a fixed piece of work."""
    x = torch.ones(256, 256)
    began = time.process_time()
    for _ in range(300):
        x = (x @ x).mul_(1 / 256)
    return time.process_time() - began


def plain(name: str, seed: int) -> dict[str, Any]:
    """The full network, trained alone."""
    task = _task(name)
    data = task.splits()
    torch.manual_seed(seed)
    module = task.model()
    seconds = _timed(lambda: _trained(module, task, data, seed))
    return {"seconds": seconds, "test": _tested(task, data, module)}


def family(name: str, seed: int) -> dict[str, Any]:
    """One training, one sweep, all sizes cut."""
    task = _task(name)
    data = task.splits()
    with tempfile.TemporaryDirectory() as made:
        folder, limits = Path(made) / "run", [round(s * 1000) for s in SIZES[name]]
        settings = Settings(f"bench.family_tasks:{name}", "default", seed, asdict(task.recipe))
        spent: dict[str, float] = {}
        with hold(folder):
            began = time.process_time()
            run, _ = training.train(settings, folder, command="", progress=False)
            spent["train"] = time.process_time() - began
            began = time.process_time()
            opened = opening.open_run(run)
            frontier = sweeps.sweep_run(opened, latency=False)
            spent["sweep"] = time.process_time() - began
            found = {s: _best(frontier, s) for s in limits}
            points = {s: point for s, point in found.items() if point is not None}
            fitting = [*points]
            outs = [Path(made) / f"{s}.safetensors" for s in fitting]
            began = time.process_time()
            widths = [cuts.filled(opened, frontier, points[s], s) for s in fitting]
            picks = cuts.cut(opened, widths, outs)
            spent["cut"] = time.process_time() - began
        full = opened.net.full()
        return {
            "seconds": spent,
            "test": measuring.evaluation(task, data, "test")(opened.net),
            "reconstructed": frontier.post_process,
            "sizes": {
                str(s): {
                    "bytes": pick.bytes,
                    "widths": pick.widths,
                    "swept": points[s].metric,
                    "valid": pick.valid,
                    "test": pick.test,
                    "post_process": pick.post_process,
                }
                for s, pick in zip(fitting, picks, strict=True)
            },
            "full": dict(full),
        }


def _best(frontier: Frontier, size: int) -> Point | None:
    try:
        return frontier.pick(max_bytes=size)
    except BudgetError:
        return None  # not even the narrowest level is so small


def ours(name: str, seed: int, times: int = 1) -> dict[str, Any]:
    """The family's shapes, each trained alone."""
    found = json.loads(_cell("family", name, seed).read_text())["sizes"]
    return _alone(name, seed, {s: row["widths"] for s, row in found.items()}, times)


def longer(name: str, seed: int) -> dict[str, Any]:
    """The family's shapes, each trained alone for twice as long."""
    return ours(name, seed, 2)


def equal(name: str, seed: int) -> dict[str, Any]:
    """Equal shares of all layers, each trained alone."""
    net = _elastic(_task(name))
    shapes = {}
    for size in (round(s * 1000) for s in SIZES[name]):
        fitting = _widest(net, size)
        if fitting is not None:
            shapes[str(size)] = dict(net.complete(fitting))
    return _alone(name, seed, shapes)


def _widest(net: Elastic, size: int) -> Widths | None:
    shares = [i / 512 for i in range(1, 513)]
    low, high = 0, len(shares)
    while low < high:
        middle = (low + high) // 2
        if prepare(net, net.widths(shares[middle])).bytes <= size:
            low = middle + 1
        else:
            high = middle
    return net.widths(shares[low - 1]) if low else None


def _alone(name: str, seed: int, shapes: dict[str, Any], times: int = 1) -> dict[str, Any]:
    task = _task(name)
    data, net = task.splits(), _elastic(task)
    task = replace(task, recipe=replace(task.recipe, epochs=times * task.recipe.epochs))
    found = {}
    for size, widths in shapes.items():
        module = initialise(net.cut(widths, recalibrate=False), seed)
        seconds = _timed(lambda m=module: _trained(m, task, data, seed))
        test = _tested(task, data, module)
        found[size] = {"seconds": seconds, "test": test, "bytes": prepare(net, widths).bytes}
    return {"seconds": sum(row["seconds"] for row in found.values()), "sizes": found}


def _task(name: str) -> Task:
    return resolve(f"bench.family_tasks:{name}")


def _elastic(task: Task) -> Elastic:
    torch.manual_seed(0)
    return Elastic(task.model(), task.example(), draw=Draw(p=0))


def _trained(module: nn.Module, task: Task, data: Splits, seed: int) -> None:
    fit(module, data.train, task.loss, recipe=task.recipe, run=RunConfig(seed=seed, progress=False))


def _tested(task: Task, data: Splits, module: nn.Module) -> float:
    return measuring.evaluation(task, data, "test")(module)


def _timed(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def _cell(kind: str, name: str, seed: int) -> Path:
    return CELLS / f"{name}-{kind}-{seed}.json"


def run_cell(kind: str, name: str, seed: int) -> None:
    """One measurement, written whole."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    before = yardstick()
    found = globals()[kind](name, seed)
    found["yardstick"] = [before, yardstick()]
    path = _cell(kind, name, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(found))
    part.rename(path)


def _wanted(names: list[str], kinds: list[str], seeds: int) -> Iterator[tuple[str, str, int]]:
    for seed in range(seeds):
        for kind in kinds:
            for name in names:
                if not _cell(kind, name, seed).exists():
                    yield kind, name, seed


def _in_process(cell: tuple[str, str, int]) -> None:
    words = [sys.executable, __file__, "--cell", *map(str, cell)]
    began = time.time()
    done = subprocess.run(words, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"})
    print(
        *cell, "failed" if done.returncode else "done", f"{time.time() - began:.0f} s", flush=True
    )


def summary() -> dict[str, Any]:
    """Everything measured: task -> seeds, costs, and by size the accuracy of each way."""
    found: dict[str, Any] = {}
    for name in SIZES:
        cells = {k: _read(k, name) for k in KINDS}
        if not cells["plain"] or not cells["family"]:
            continue
        unit = statistics.mean(c["seconds"] for c in cells["plain"].values())
        costs = [
            {step: seconds / unit for step, seconds in c["seconds"].items()}
            for c in cells["family"].values()
        ]
        metric = _task(name).metric
        found[name] = {
            "metric": {"name": metric.name, "higher_is_better": metric.higher_is_better},
            "plain_seconds": unit,
            "costs": {step: _spread([c[step] for c in costs]) for step in costs[0]},
            "cost": _spread([sum(c.values()) for c in costs]),
            "alone_costs": {
                k: _spread([c["seconds"] / unit for c in cells[k].values()])
                for k in ("ours", "equal", "longer")
                if cells[k]
            },
            "full": {
                k: _spread([c["test"] for c in cells[k].values()]) for k in ("plain", "family")
            },
            "sizes": _sizes(cells),
        }
    return found


def _read(kind: str, name: str) -> dict[int, Any]:
    paths = sorted(CELLS.glob(f"{name}-{kind}-*.json"))
    return {int(p.stem.rpartition("-")[2]): json.loads(p.read_text()) for p in paths}


def _sizes(cells: dict[str, dict[int, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for kind in ("family", "ours", "equal", "longer"):
        for cell in cells[kind].values():
            for size, row in cell["sizes"].items():
                found.setdefault(size, {}).setdefault(kind, []).append(row["test"])
    ordered = sorted(found, key=int)
    return {s: {kind: _spread(values) for kind, values in found[s].items()} for s in ordered}


def _spread(values: list[float]) -> dict[str, float]:
    spread = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.mean(values), "spread": spread, "seeds": len(values)}


def show(found: dict[str, Any]) -> None:
    """The tables."""
    for name, task in found.items():
        costs = ", ".join(f"{step} {c['mean']:.2f}" for step, c in task["costs"].items())
        print(f"\n{name}: cost {task['cost']['mean']:.2f} plain trainings ({costs})")
        full = {k: f"{v['mean']:.4f}" for k, v in task["full"].items()}
        print(f"  full width: plain {full['plain']}, family {full['family']}")
        for size, row in task["sizes"].items():
            values = "  ".join(f"{k} {v['mean']:.4f}" for k, v in row.items())
            print(f"  {int(size) / 1000:7.1f} kB  {values}")


def main() -> None:
    """Measure what is missing, print, and store when asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tasks", nargs="*", choices=[*SIZES, []], metavar="TASK")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=[*KINDS])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--cell", nargs=3, metavar=("KIND", "TASK", "SEED"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        kind, name, seed = options.cell
        run_cell(kind, name, int(seed))
        return
    for kinds in ([k for k in options.kinds if k in ("plain", "family")], options.kinds):
        with ThreadPoolExecutor(options.jobs) as pool:
            list(pool.map(_in_process, _wanted(options.tasks, kinds, options.seeds)))
    found = summary()
    show(found)
    if options.write:
        path = RESULTS / "family.json"
        print(f"written to {record('family', found, added=path.exists())}")


if __name__ == "__main__":
    main()
