"""Trained CIFAR ResNets without a tenth, a quarter, a half of their parameters.

    WIDTHWISE_DATA=... python bench/resnets.py                 # all cells, resuming
    python bench/resnets.py --only cifar10-resnet20 --seeds 1
    python bench/resnets.py --write                            # store in bench/results/resnets.json

Ours: features ordered by `reconstruction`, widths by `allocate`, `reconstruct_` on 1,000 training
images. Torch-Pruning beside it: its magnitude, Taylor and Hessian importances, local and global,
with its default normaliser and with none; of these twelve, for every share by itself, the one that
is best on 2,000 validation images: as cut for the figure as cut, with statistics estimated anew for
the others. It prunes the channels
inside the blocks only, since the padded shortcuts stop it anywhere else. Its Hessian importance
keeps one sample's gradient only; here it is given the mean of the squared gradients, as meant.

Both get the same 2,000 images to score on, the same 1,000 to estimate statistics on, and the same
fine-tuning: one epoch on the first 10,000 training images with flips, SGD from 0.01 to 0, batches
of 128. Accuracies are on the test images.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.nn import functional as F

import widthwise as ww
from common import record
from widthwise import pruning
from widthwise.app.tasks import BUILT_IN
from widthwise.app.tasks.arrays import Arrays
from widthwise.app.tasks.weights import trained_model
from widthwise.measure.cost import params
from widthwise.task import Splits

ROWS = Path(__file__).parents[1] / "build" / "resnets.jsonl"
NETWORKS = ("cifar10-resnet20", "cifar10-resnet56")
REMOVED = (0.10, 0.25, 0.50)
SCORED, CALIBRATED, TUNED, VALIDATED = 2_000, 1_000, 10_000, 2_000
Batches = list[tuple[Tensor, Tensor]]


class Bench:
    """A trained network and its data, for one seed (of the images drawn and of their order)."""

    def __init__(self, name: str, seed: int) -> None:
        self.task = BUILT_IN[name]()
        self.data: Splits = self.task.splits()
        self.seed = seed
        self.model = trained_model(self.task)
        self.full = params(self.model)
        train: Any = self.data.train
        self.plain = Arrays(train.inputs, train.targets)
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
        self.scored = [self.plain.batch(i) for i in order[:SCORED].split(100)]
        self.calibrated = self.scored[: CALIBRATED // 100]

    def accuracy(self, module: nn.Module, split: str = "test", most: int = 10_000) -> float:
        """Per cent of the first images of a split, whose classes are about evenly spread."""
        data: Any = getattr(self.data, split)
        items = min(most, len(data) if split == "test" else VALIDATED)
        module.eval()
        right = 0
        with torch.no_grad():
            for i in torch.arange(items).split(500):
                x, y = data.batch(i)
                right += int((module(x).argmax(1) == y).sum())
        return 100 * right / items

    def fine_tuned(self, module: nn.Module) -> nn.Module:
        """A copy after one short epoch."""
        tuned = copy.deepcopy(module).train()
        generator = torch.Generator().manual_seed(1000 + self.seed)
        batches = torch.randperm(TUNED, generator=generator).split(128)
        optimizer = torch.optim.SGD(tuned.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
        for step, indices in enumerate(batches):
            for group in optimizer.param_groups:
                group["lr"] = 0.01 * (1 - step / len(batches))
            x, y = self.plain.batch(indices)
            flipped = torch.rand(len(x), generator=generator) < 0.5
            x = torch.where(flipped.view(-1, 1, 1, 1), x.flip(3), x)
            optimizer.zero_grad()
            F.cross_entropy(tuned(x), y).backward()
            optimizer.step()
        return tuned


def unpruned(bench: Bench) -> Iterator[dict[str, Any]]:
    """The whole network, as it is and fine-tuned."""
    one_shot = bench.accuracy(bench.model)
    again = bench.accuracy(ww.recalibrate_(copy.deepcopy(bench.model), bench.calibrated))
    tuned = bench.accuracy(bench.fine_tuned(bench.model))
    yield {
        "removed": 0.0,
        "one_shot": one_shot,
        "statistics": again,
        "tuned": tuned,
        "share": 0.0,
        "how": "",
    }


def ours(bench: Bench) -> Iterator[dict[str, Any]]:
    """Ordered, allocated, reconstructed."""
    net = ww.Elastic(bench.model, bench.task.example()).eval()
    began = time.process_time()
    scores = pruning.output_error(net, bench.scored, F.cross_entropy)
    seconds = time.process_time() - began
    widths = {
        r: pruning.allocate(net, scores, max_params=int((1 - r) * bench.full)) for r in REMOVED
    }
    pruning.order_(net, scores)
    for removed, kept in widths.items():
        cuts = {}
        for statistics in (False, True):
            began = time.process_time()
            cuts[statistics] = pruning.reconstruct_(
                net.cut(kept), net, kept, bench.calibrated, statistics=statistics
            )
            spent = time.process_time() - began
        yield {
            "removed": removed,
            "one_shot": bench.accuracy(cuts[False]),
            "statistics": bench.accuracy(cuts[True]),
            "tuned": bench.accuracy(bench.fine_tuned(cuts[True])),
            "share": 1 - params(cuts[True]) / bench.full,
            "how": "reconstruction, reconstructed",
            "seconds": round(seconds + spent, 1),
        }


def peer(bench: Bench) -> Iterator[dict[str, Any]]:
    """The best of Torch-Pruning's importances."""
    slopes = {
        "magnitude": None,
        "Taylor": _gradients(bench, each=False),
        "Hessian": _gradients(bench, each=True),
    }
    for removed in REMOVED:
        tried = []
        for criterion, gradients in slopes.items():
            for scope in ("local", "global"):
                for normaliser in ("mean", None):
                    cut = _peer_cut(bench, removed, criterion, gradients, scope, normaliser)
                    again = ww.recalibrate_(copy.deepcopy(cut), bench.calibrated)
                    how = f"{criterion}, {scope}, normaliser {normaliser}"
                    tried.append(
                        (
                            bench.accuracy(cut, "valid"),
                            bench.accuracy(again, "valid"),
                            how,
                            cut,
                            again,
                        )
                    )
        at_once = max(tried, key=lambda t: t[0])
        _, _, how, cut, again = max(tried, key=lambda t: t[1])
        yield {
            "removed": removed,
            "one_shot": bench.accuracy(at_once[3]),
            "statistics": bench.accuracy(again),
            "tuned": bench.accuracy(bench.fine_tuned(again)),
            "share": 1 - params(cut) / bench.full,
            "how": how,
            "how_one_shot": at_once[2],
        }


def _gradients(bench: Bench, *, each: bool) -> dict[str, Tensor]:
    """The gradient of the mean loss, or the mean of the samples' squared gradients."""
    model = copy.deepcopy(bench.model).eval()
    sums = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    items = [(x[i : i + 1], y[i : i + 1]) for x, y in bench.calibrated for i in range(len(x))]
    for x, y in items if each else bench.scored:
        model.zero_grad()
        F.cross_entropy(model(x), y).backward()
        for name, p in model.named_parameters():
            assert p.grad is not None
            sums[name] += p.grad.square() if each else p.grad
    return sums


def _peer_cut(
    bench: Bench,
    removed: float,
    criterion: str,
    gradients: dict[str, Tensor] | None,
    scope: str,
    normaliser: str | None,
) -> nn.Module:
    """The cut whose share of removed parameters is nearest to the one asked for, by bisection."""
    low, high, best = 0.0, 0.99, None
    for _ in range(12):
        ratio = (low + high) / 2
        cut = _peer_pruned(bench, ratio, criterion, gradients, scope, normaliser)
        share = 1 - params(cut) / bench.full
        if best is None or abs(share - removed) < abs(best[0] - removed):
            best = (share, cut)
        low, high = (ratio, high) if share < removed else (low, ratio)
    assert best is not None
    return best[1]


def _peer_pruned(
    bench: Bench,
    ratio: float,
    criterion: str,
    gradients: dict[str, Tensor] | None,
    scope: str,
    normaliser: str | None,
) -> nn.Module:
    model = copy.deepcopy(bench.model).eval()
    for name, p in model.named_parameters():
        p.grad = None if gradients is None else gradients[name].clone()
    kinds = {
        "magnitude": tp.importance.MagnitudeImportance,
        "Taylor": tp.importance.TaylorImportance,
        "Hessian": tp.importance.HessianImportance,
    }
    inner = {m for n, m in model.named_modules() if n.endswith(".conv1")}
    outer = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear)) and m not in inner]
    pruner = tp.pruner.BasePruner(
        model,
        bench.task.example(),
        kinds[criterion](normalizer=normaliser),
        pruning_ratio=ratio,
        max_pruning_ratio=0.99,
        global_pruning=scope == "global",
        ignored_layers=outer,
    )
    pruner.step()
    model.zero_grad()
    return model


TOOLS = {"unpruned": unpruned, "widthwise": ours, "Torch-Pruning": peer}


def main() -> None:
    """Fill in the cells that are missing."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=list(TOOLS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="store what is there")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    ROWS.parent.mkdir(exist_ok=True)
    done = _rows()
    for seed in range(options.seeds):
        for name in options.only:
            for tool in options.tools:
                if any(
                    r["network"] == name and r["tool"] == tool and r["seed"] == seed for r in done
                ):
                    continue
                cells = []
                for cell in TOOLS[tool](Bench(name, seed)):
                    cells.append({"network": name, "tool": tool, "seed": seed, **cell})
                    print(cells[-1], flush=True)
                with ROWS.open("a") as file:
                    file.writelines(json.dumps(cell) + "\n" for cell in cells)
    if options.write:
        record("resnets", {"cells": _rows(), "summary": _summary(_rows())})


def _rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in ROWS.read_text().splitlines()] if ROWS.exists() else []


def _summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard deviation over seeds."""
    found = []
    keys = dict.fromkeys((r["network"], r["tool"], r["removed"]) for r in rows)
    for network, tool, removed in keys:
        some = [
            r for r in rows if (r["network"], r["tool"], r["removed"]) == (network, tool, removed)
        ]
        line = {"network": network, "tool": tool, "removed": removed, "seeds": len(some)}
        for measure in ("one_shot", "statistics", "tuned"):
            values = [r[measure] for r in some]
            spread = stdev(values) if len(values) > 1 else None
            line[measure] = {"mean": mean(values), "spread": spread}
        found.append(line)
    return found


if __name__ == "__main__":
    main()
