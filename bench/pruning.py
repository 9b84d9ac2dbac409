"""What gradual pruning adds to a training step.

    WIDTHWISE_DATA=... OMP_NUM_THREADS=1 python bench/pruning.py --write

A hundred steps of each network on its task's data, with the pruner's share timed by itself in the
same run: (training + pruning) / training. Masks change every 100 steps, as published at the most,
so that one change is among them; with feedback, which keeps and moves a dense copy besides, every 4
steps. Both are the defaults. Weights are half zeros at the start, which changes nothing in what a
step costs. Seed 0.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

import widthwise as ww
from common import main
from widthwise.app.tasks import BUILT_IN
from widthwise.common.calling import outputs_for
from widthwise.train.batches import BatchPlan, length, stream

NETWORKS = ("mnist", "cifar10", "fashion-mnist-mobilenet", "ptb-lstm-small", "ptb-lstm")
STEPS = 100


def measured(name: str, dpf: bool) -> dict[str, Any]:
    """The ratio for one network."""
    task = BUILT_IN[name]()
    data = task.splits().train
    torch.manual_seed(0)
    module: nn.Module = task.model().train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3, fused=True)
    schedule = ww.Schedule(0.9, begin=0, end=10_000, initial=0.5)
    pruner = ww.GradualPruner(module, schedule, dpf=dpf)
    batches = BatchPlan(length(data), task.recipe.batch_size, 0).epoch(0)
    spent = [0.0, 0.0]
    for number, (inputs, target) in enumerate(stream(data, batches[: STEPS + 5], 0, 0)):
        began = time.perf_counter()
        optimizer.zero_grad()
        task.loss(outputs_for(module, inputs), target).backward()
        optimizer.step()
        trained = time.perf_counter()
        pruner.step()
        if number >= 5:  # the first ones allocate
            spent[0] += trained - began
            spent[1] += time.perf_counter() - trained
    weights = sum(mask.numel() for mask in pruner.masks.values())
    return {
        "network": name,
        "dpf": dpf,
        "weights": weights,
        "batch": task.recipe.batch_size,
        "ratio": round((spent[0] + spent[1]) / spent[0], 4),
    }


def all_networks(only: Sequence[str]) -> list[dict[str, Any]]:
    """Every network, with feedback and without."""
    return [measured(name, dpf) for name in only for dpf in (False, True)]


if __name__ == "__main__":
    raise SystemExit(main(__doc__, "pruning", all_networks, only=NETWORKS))
