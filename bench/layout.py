"""What channels-last weights save a network of convolutions on this processor.

    python bench/layout.py [--write]

Ratios of processor seconds, rows-first over channels-last, one thread, batches of 128: a step of
training at full width, a sandwich step, and evaluation of 256 images. The median of five runs that
take turns.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from common import main, seconds
from widthwise.app.compare.layout import channels_last
from widthwise.app.tasks import BUILT_IN
from widthwise.elastic.network import Elastic
from widthwise.measure.cost import one_example
from widthwise.task import Task
from widthwise.train.losses import SandwichLoss

TASKS = ("fashion-mnist-cnn", "cifar10-resnet20", "fashion-mnist-mobilenet")
RUNS, STEPS, BATCH, EVALUATED = 5, 4, 128, 256


def steps(task: Task, lay_out: Callable[[nn.Module], nn.Module]) -> dict[str, Callable[[], Any]]:
    """What is timed, of one network."""
    torch.manual_seed(0)
    (example,), _ = one_example(task.example())
    shape = example.shape[1:]
    inputs, target = torch.randn(BATCH, *shape), torch.randint(0, 10, (BATCH,))
    many = torch.randn(EVALUATED, *shape)
    model = lay_out(task.model())
    net = Elastic(model, task.example(), seed=0)
    loss = SandwichLoss(net, task.loss)

    def plain() -> None:
        model.train()
        task.loss(model(inputs), target).backward()

    def sandwich() -> None:
        net.train()
        loss(inputs, target).backward()

    def evaluate() -> None:
        model.eval()
        with torch.inference_mode():
            model(many)

    return {"training": plain, "sandwich": sandwich, "evaluation": evaluate}


def _several(step: Callable[[], Any]) -> None:
    for _ in range(STEPS):
        step()


def measure(name: str) -> dict[str, Any]:
    """The ratios of one task."""
    task = BUILT_IN[name]()
    rows, last = steps(task, lambda module: module), steps(task, channels_last)
    found = {}
    for what in rows:
        a, b = partial(_several, rows[what]), partial(_several, last[what])
        a(), b()  # warm
        clock = time.process_time
        ratios = [seconds(a, clock) / seconds(b, clock) for _ in range(RUNS)]
        found[what] = {
            "ratio": round(statistics.median(ratios), 2),
            "least": round(min(ratios), 2),
            "most": round(max(ratios), 2),
        }
    return found


if __name__ == "__main__":
    raise SystemExit(main(__doc__, "layout", lambda: {name: measure(name) for name in TASKS}))
