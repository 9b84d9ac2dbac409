"""What it costs to validate every width of a network, in full-width validations.

    python bench/sweep.py                    # 784-256-256-10, 256 widths, 10,000 images
    python bench/sweep.py --write            # and store the figures in bench/results/sweep.json

Images are random: what they show does not change the time. Full and swept validations take turns;
figures are medians over the rounds. The second part times the whole of `ww.sweep`, which also
cuts every width, counts its bytes and multiply-accumulates, and measures its latency.
"""

from __future__ import annotations

import os
import statistics

import torch

from common import main, seconds
from widthwise.app.tasks.mlp import MLP
from widthwise.elastic.network import Elastic
from widthwise.measure.evaluation import Evaluation
from widthwise.measure.even_levels import even_levels
from widthwise.measure.metric import ACCURACY
from widthwise.measure.sweep import sweep

BOUND = 40.0  # full-width validations for all 256 widths
IMAGES = 10_000


def measure(batch: int, threads: int, rounds: int) -> dict[str, float]:
    """Full and swept validation of the MNIST network at one batch size."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    net = Elastic(MLP(784, 256, 10), (torch.randn(4, 784),)).eval()
    images, labels = torch.randn(IMAGES, 784), torch.randint(0, 10, (IMAGES,))
    batches = list(zip(images.split(batch), labels.split(batch), strict=True))
    evaluation = Evaluation(batches, ACCURACY)
    widths = even_levels(net)
    assert len(widths) == 256
    one: list[float] = []
    all_of_them: list[float] = []
    for _ in range(rounds + 1):
        one.append(statistics.median(seconds(lambda: evaluation(net.model)) for _ in range(9)))
        all_of_them.append(seconds(lambda: evaluation.at(net, widths)))
    full, swept = (statistics.median(times[1:]) for times in (one, all_of_them))  # 1st: warm-up
    return {
        "batch": batch,
        "threads": threads,
        "full_s": full,
        "sweep_s": swept,
        "ratio": swept / full,
        "whole_sweep_s": seconds(lambda: sweep(net, evaluation, widths, latency=False)),
        "whole_sweep_with_latency_s": seconds(lambda: sweep(net, evaluation, widths)),
    }


def all_batches(rounds: int) -> list[dict[str, float]]:
    """Every size of batches, on one thread and on all."""
    threads = sorted({1, os.cpu_count() or 1})
    return [measure(b, t, rounds) for t in threads for b in (250, 500, 1000, 2000)]


def kept(found: list[dict[str, float]]) -> bool:
    """Whether the bound is, everywhere."""
    return max(row["ratio"] for row in found) <= BOUND


if __name__ == "__main__":
    raise SystemExit(main(__doc__, "sweep", all_batches, kept, rounds=5))
