"""Are networks faster in int8? PyTorch, ONNX Runtime, and ONNX Runtime in int8, one thread.

    python bench/int8.py                # prints the ratios to PyTorch of the same run
    python bench/int8.py --write        # and stores them in bench/results/int8.json

`float32` and `int8` are PyTorch's time ÷ that of the runtime, from the shortest times of many calls
in turns, medians of several rounds; `gain`, of each round, is the time of the faster float32
runtime ÷ that of int8. `difference` is the largest one of int8 to float32 outputs, as a share of
their range, on random inputs and untrained weights: shapes decide the time, not values. What int8
costs in accuracy, `widthwise export --int8` measures.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from torch import Tensor, nn

from common import main
from widthwise.app.tasks.cifar10 import ResNet
from widthwise.app.tasks.language import WordLSTM
from widthwise.app.tasks.mlp import MLP
from widthwise.benchmark.kernels import NothingFasterWarning
from widthwise.benchmark.runtimes import RUNTIMES, compare, gains
from widthwise.export.int8_onnx import export_int8

BATCHES = (1, 32)
WORDS, STEPS = 2000, 20


def wide() -> nn.Module:
    """1024-4096-4096-10."""
    layers = (nn.Linear(1024, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU())
    return nn.Sequential(*layers, nn.Linear(4096, 10))


def transformer() -> nn.Module:
    """A block of 4 heads x 64."""
    return nn.TransformerEncoderLayer(256, 4, 1024, batch_first=True)


CASES: tuple[tuple[str, Callable[[], nn.Module], Callable[[], Tensor], bool], ...] = (
    ("MLP 784-256-256-10", partial(MLP, 784, 256, 10), partial(torch.randn, 2, 784), True),
    ("its cut to 128", partial(MLP, 784, 128, 10), partial(torch.randn, 2, 784), True),
    ("its cut to 64", partial(MLP, 784, 64, 10), partial(torch.randn, 2, 784), True),
    ("MLP 1024-4096-4096-10", wide, partial(torch.randn, 2, 1024), True),
    ("transformer block, 256 wide, 32 tokens", transformer, partial(torch.randn, 2, 32, 256), True),
    (
        "LSTM, 2 layers of 200, 20 words",
        partial(WordLSTM, WORDS, 200, 0.0),
        partial(torch.randint, 0, WORDS, (2, STEPS)),
        True,
    ),
    ("ResNet-20", ResNet, partial(torch.randn, 2, 3, 32, 32), True),
    ("ResNet-20, convolutions float32", ResNet, partial(torch.randn, 2, 3, 32, 32), False),
)


def measure(
    name: str, module: nn.Module, x: Tensor, conv: bool, rounds: int, seconds: float
) -> dict[str, Any]:
    """One network, in several rounds: what else runs takes memory bandwidth, now more, now less."""
    module.eval()
    with tempfile.TemporaryDirectory() as folder:
        written = export_int8(module, (x,), Path(folder) / "a.onnx", convolutions=conv)
    timed = partial(
        compare, module, (x,), batches=BATCHES, threads=1, convolutions=conv, seconds=seconds
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NothingFasterWarning)
        found = [timed() for _ in range(rounds)]

    def speed(runtime: str) -> dict[int, float]:
        return {
            batch: round(
                statistics.median(
                    row.speed
                    for rows in found
                    for row in rows
                    if (row.runtime, row.batch) == (runtime, batch)
                ),
                2,
            )
            for batch in BATCHES
        }

    return {
        "network": name,
        "bytes": written.bytes,
        "float32_bytes": written.float32_bytes,
        "difference": round(written.difference, 4),
        "float32": speed(RUNTIMES[1]),
        "int8": speed(RUNTIMES[2]),
        "gain": {b: [round(gains(rows)[b], 2) for rows in found] for b in BATCHES},
    }


def all_networks(rounds: int, seconds: float) -> dict[str, Any]:
    """Every network. seconds: for each runtime and batch."""
    found = []
    for name, build, inputs, conv in CASES:
        torch.manual_seed(0)
        found.append(measure(name, build(), inputs(), conv, rounds, seconds))
    # What else runs shares the memory; so how busy the machine was belongs to the figures.
    load = max(round(os.getloadavg()[0] - 1, 1), 0.0)
    runtime = onnxruntime.__version__
    return {"onnxruntime": runtime, "load": load, "rounds": rounds, "networks": found}


if __name__ == "__main__":
    raise SystemExit(main(__doc__, "int8", all_networks, rounds=5, seconds=0.4))
