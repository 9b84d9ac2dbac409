"""What scores cost: processor seconds over those of one training epoch on the same 2,000 images.

    WIDTHWISE_DATA=... python bench/scoring.py --write

A trained ResNet-56, batches of 100, one thread. The epoch is one of plain SGD in
training mode: forward, backward, step.
"""

from __future__ import annotations

import argparse
import copy
import time
import warnings
from collections.abc import Callable

import torch
from torch.nn import functional as F

import widthwise as ww
from common import record
from resnets import Bench
from widthwise import pruning

BOUND = 1.5  # OBD with the Fisher information


def seconds(work: Callable[[], object]) -> float:
    """Processor seconds."""
    began = time.process_time()
    work()
    return time.process_time() - began


def main() -> None:
    """Measure and print; store when asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
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
    yardstick = seconds(epoch)
    names = ("obd", "obd_sd", "taylor", "reconstruction")
    found = {name: round(seconds(score(name)) / yardstick, 3) for name in names}
    print(found, f"bound for obd {BOUND}:", "kept" if found["obd"] <= BOUND else "not kept")
    if options.write:
        record("scoring", {"over_epoch": found, "images": 2_000, "bound_obd": BOUND})


if __name__ == "__main__":
    main()
