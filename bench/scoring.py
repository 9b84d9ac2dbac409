"""What scores cost: processor seconds over those of one training epoch on the same 2,000 images.

    WIDTHWISE_DATA=... python bench/scoring.py --write

A trained ResNet-56, batches of 100, one thread. The epoch is one of plain SGD in
training mode: forward, backward, step.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

import widthwise as ww
from common import main, seconds
from resnets import Bench
from widthwise import pruning

BOUND = 1.5  # OBD with the Fisher information


def measure() -> dict[str, Any]:
    """Each score, over an epoch."""
    warnings.simplefilter("ignore")
    bench = Bench("cifar10-resnet56", 0)
    net = ww.Elastic(bench.model, bench.task.example()).eval()
    model = copy.deepcopy(bench.model).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def epoch() -> None:
        for x, y in bench.scored:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()

    def score(name: str) -> Callable[[], object]:
        return lambda: getattr(pruning, name)(net, bench.scored, F.cross_entropy)

    score("obd")()  # warm
    yardstick = seconds(epoch, time.process_time)
    names = ("obd", "obd_sd", "taylor", "reconstruction")
    spent = {name: seconds(score(name), time.process_time) / yardstick for name in names}
    over_epoch = {name: round(ratio, 3) for name, ratio in spent.items()}
    return {"over_epoch": over_epoch, "images": 2_000, "bound_obd": BOUND}


def kept(found: dict[str, Any]) -> bool:
    """Whether OBD keeps its bound."""
    return bool(found["over_epoch"]["obd"] <= BOUND)


if __name__ == "__main__":
    raise SystemExit(main(__doc__, "scoring", measure, kept))
