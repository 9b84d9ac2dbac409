"""What a step of structural dropout costs against a step of plain training, in the same loop.

    python bench/step_cost.py                # prints the ratios, each with its bound
    python bench/step_cost.py --write        # and stores them in bench/results/step_cost.json

The bounds hold for the default draws. The published ones cut each axis in every second step only,
so that even a cut that cost nothing but its arithmetic would leave about 0.8 of the MLP's.

Both sides are one epoch of `fit` on the same random data, one thread, run in turns. Times are CPU
times, which other programs on the machine disturb less; the ratio is that of the medians. The exit
code is 1 when a bound is not kept.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from common import main, seconds
from widthwise.app.tasks.arrays import Arrays
from widthwise.app.tasks.cifar10 import ResNet
from widthwise.app.tasks.mlp import MLP
from widthwise.elastic.network import Elastic
from widthwise.sampling.draws import PUBLISHED, Draw
from widthwise.train.config import RunConfig
from widthwise.train.fit import fit
from widthwise.train.losses import SingleDraw
from widthwise.train.recipe import Recipe


@dataclass(frozen=True)
class Case:
    """One comparison. steps: in an epoch. bound: the largest ratio allowed, None for any."""

    name: str
    model: Callable[[], nn.Module]
    item: tuple[int, ...]
    draw: Draw
    batch: int
    steps: int
    bound: float | None


def mlp() -> nn.Module:
    return MLP(784, 256, 10)


GRID = Draw(lowest=8, step=8)
CASES = (
    Case("mlp, default draws", mlp, (1, 28, 28), Draw(), 256, 200, 0.8),
    Case("mlp, uniform draws, p 1", mlp, (1, 28, 28),
         Draw(p=1, lowest=1, law="uniform", shared=False), 256, 200, None),
    Case("mlp, published draws", mlp, (1, 28, 28), PUBLISHED, 256, 200, None),
    Case("resnet-20, default draws by 8", ResNet, (3, 32, 32), GRID, 64, 12, 0.9),
    Case("resnet-20, published draws by 8", ResNet, (3, 32, 32),
         Draw(p=0.5, lowest=8, step=8, law="uniform", shared=False), 64, 12, None),
)  # fmt: skip


def data(case: Case) -> Arrays:
    generator = torch.Generator().manual_seed(0)
    items = case.steps * case.batch
    inputs = torch.randn(items, *case.item, generator=generator)
    return Arrays(inputs, torch.randint(0, 10, (items,), generator=generator))


def measure(case: Case, rounds: int) -> dict[str, Any]:
    """Seconds for an epoch of each side, in turns, and their ratio."""
    train, example = data(case), torch.randn(2, *case.item)
    spent: dict[str, list[float]] = {"plain": [], "drawn": []}
    torch.manual_seed(0)
    plain, drawn = case.model(), Elastic(case.model(), example, draw=case.draw)
    sides = {
        "plain": (plain, F.cross_entropy),
        "drawn": (drawn, SingleDraw(drawn, F.cross_entropy)),
    }
    for round_ in range(rounds + 1):
        for side, (net, loss) in sides.items():
            recipe = Recipe(epochs=1, batch_size=case.batch, lr=1e-4)
            run = RunConfig(seed=round_, progress=False, cpu=True)
            epoch = partial(fit, net, train, loss, recipe=recipe, run=run)
            spent[side].append(seconds(epoch, time.process_time))
    middle = {side: statistics.median(s[1:]) for side, s in spent.items()}  # the first warms up
    return {
        "name": case.name,
        "draw": asdict(case.draw),
        "batch": case.batch,
        "ms_per_step": {s: 1000 * m / case.steps for s, m in middle.items()},
        "ratio": middle["drawn"] / middle["plain"],
        "bound": case.bound,
        "rounds": rounds,
    }


def all_cases(rounds: int, only: str) -> list[dict[str, Any]]:
    """Every case whose name has `only` in it."""
    return [measure(case, rounds) for case in CASES if only in case.name]


def kept(found: list[dict[str, Any]]) -> bool:
    """Whether every bound is."""
    return all(c["bound"] is None or c["ratio"] <= c["bound"] for c in found)


if __name__ == "__main__":
    raise SystemExit(main(__doc__, "step_cost", all_cases, kept, rounds=7, only=""))
