"""One elastic fine-tuning of a trained ResNet-56 against fine-tuning each width by itself.

    WIDTHWISE_DATA=... python bench/elastic_tuning.py --widths 8 --seeds 2 --write

The network is ordered by `reconstruction`; so many widths from an eighth of its parameters to all
are chosen by `allocated_levels`. *Each by itself*: cut, reconstructed, fine-tuned. *Elastic*: one
training of all widths (full width, narrowest, two levels a step, narrow ones distilled), then cut
and reconstructed. Both have the same total budget, counted in multiply-accumulates of training
passes: that of each width seeing `IMAGES` images once, the full width among them. SGD from 0.01 to
0, batches of 128, flips. Statistics are estimated, and reconstruction is fitted, on the same 1,000
images.

The more widths, the larger the total: separate trainings share nothing, so that each width gets the
same of it; in the elastic one all of it trains every width.

Accuracies are on the first 4,000 test images. The budget is stated as a share of the network's own
training, 200 epochs of 50,000 images. Results are
stored seed by seed, in the place of those of the same number of widths and seed.
"""

from __future__ import annotations

import argparse
import copy
import json
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import widthwise as ww
from common import RESULTS, record
from resnets import Bench
from widthwise import pruning
from widthwise.measure.cost import macs, params
from widthwise.train.losses import SandwichLoss

IMAGES, BATCH, LOWEST, TESTED = 4_000, 128, 1 / 8, 4_000
TRAINING = 200 * 50_000  # full-width passes of the network's own training, as published


def batches(bench: Bench, steps: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of training images, flipped at random, epoch after epoch."""
    generator = torch.Generator().manual_seed(seed)
    order: list[Tensor] = []
    for _ in range(steps):
        if not order:
            order = list(torch.randperm(10_000, generator=generator).split(BATCH)[:-1])
        x, y = bench.plain.batch(order.pop())
        flipped = torch.rand(len(x), generator=generator) < 0.5
        yield torch.where(flipped.view(-1, 1, 1, 1), x.flip(3), x), y


def tune(
    module: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], bench: Bench, steps: int, lr: float
) -> None:
    """Train in place with SGD, whose rate falls to zero."""
    module.train()
    optimizer = torch.optim.SGD(module.parameters(), lr=lr, momentum=0.9, weight_decay=1e-4)
    for step, (x, y) in enumerate(batches(bench, steps, 1000 + bench.seed)):
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 - step / steps)
        optimizer.zero_grad()
        loss(x, y).backward()
        optimizer.step()
    module.eval()


def run(number: int, seed: int, split: str, lr: float) -> dict[str, Any]:
    """Both ways, at this number of widths, from the same ordered network."""
    bench = Bench("cifar10-resnet56", seed)
    net = ww.Elastic(bench.model, bench.task.example(), seed=seed).eval()
    scores = pruning.output_error(net, bench.scored, F.cross_entropy)
    levels = pruning.allocated_levels(net, scores, number, lowest=LOWEST)
    pruning.order_(net, scores)
    cost = [
        macs(net.cut(w), bench.task.example()) / macs(net.model, bench.task.example())
        for w in levels
    ]
    budget = IMAGES * sum(cost)  # in full-width passes of one image
    rows = [
        {"share": params(net.cut(w)) / bench.full, "macs": c}
        for w, c in zip(levels, cost, strict=True)
    ]
    for row, widths in zip(rows, levels, strict=True):
        small = pruning.reconstruct_(net.cut(widths), net, widths, bench.calibrated)
        row["reconstructed"] = bench.accuracy(small, split, TESTED)
        tune(small, _plain(small), bench, IMAGES // BATCH, lr)
        row["alone"] = bench.accuracy(small, split, TESTED)
        print(row, flush=True)
    # A step: full width, the narrowest, and two levels, which are drawn evenly.
    step = 1 + cost[0] + 2 * sum(cost) / len(cost)
    steps = int(budget / BATCH / step)
    tune(net, SandwichLoss(net, F.cross_entropy, levels=levels), bench, steps, lr)
    for row, widths in zip(rows, levels, strict=True):
        small = net.cut(widths)
        row["elastic, as cut"] = bench.accuracy(
            ww.recalibrate_(copy.deepcopy(small), bench.calibrated), split, TESTED
        )
        fitted = pruning.reconstruct_(small, net, widths, bench.calibrated)
        row["elastic"] = bench.accuracy(fitted, split, TESTED)
        print(row, flush=True)
    return {
        "number": len(levels),
        "seed": seed,
        "lr": lr,
        "elastic_steps": steps,
        "budget_over_training": budget / TRAINING,
        "widths": rows,
    }


def _plain(module: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, y: F.cross_entropy(module(x), y)


def store(found: dict[str, Any]) -> None:
    """Put one seed's result in the place of an older one of the same number of widths."""
    path = RESULTS / "elastic_tuning.json"
    kept = json.loads(path.read_text())["results"] if path.exists() else []
    kept = [x for x in kept if (x["number"], x["seed"]) != (found["number"], found["seed"])]
    record("elastic_tuning", sorted([*kept, found], key=lambda x: (x["number"], x["seed"])))


def main() -> None:
    """Run and print; store when asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--widths", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--split", choices=("valid", "test"), default="test")
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    for seed in range(options.seeds):
        found = run(options.widths, seed, options.split, options.lr)
        if options.write:
            store(found)


if __name__ == "__main__":
    main()
