"""Weights in few bits: accuracy, and bytes of the real file, on the MNIST MLP.

    WIDTHWISE_DATA=... OMP_NUM_THREADS=1 python bench/bits.py --write

The task `mnist` (784-256-256-10), trained plainly; then, of that one network, every format
one-shot, shared values chosen by sensitivity (Bin & Quant) and weighted by gradients (GWK), and a
few of them trained on for an epoch. Every network is stored, loaded and measured as it was loaded,
on the test images; mean and standard deviation over seeds. `entropy` is what an ideal coder of
single codes would need for the codes, zeros among them, ÷ the bytes that they have in the file.
"""

from __future__ import annotations

import copy
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import widthwise as ww
from common import main
from widthwise import pruning, quantization
from widthwise.app.runs.measuring import evaluation
from widthwise.app.tasks import BUILT_IN
from widthwise.quantization.quantize import Calibration
from widthwise.quantization.quantized import grouped, ungrouped
from widthwise.store.file import prepare
from widthwise.task import Task

EPOCHS = 5
SYMMETRIC = {f"{n} bits, symmetric": quantization.Uniform(n, symmetric=True) for n in (8, 4)}
UNIFORM = {f"{n} bits": quantization.Uniform(n) for n in (4, 3, 2)}
GROUPED = {f"{n} bits, groups of 64": quantization.Uniform(n, per="group") for n in (3, 2)}
SHARED = {f"{n} values": quantization.Codebook(n) for n in (16, 8, 4)}
TOLERANCES = (0.001, 0.01)
EXTREMES = ", least and largest weight"


class Measured:
    """The figures of one network's forms."""

    def __init__(self, task: Task, folder: Path) -> None:
        self.task, self.path = task, folder / "network.safetensors"
        self.test = evaluation(task, task.splits(), "test")
        self.found: dict[str, dict[str, float]] = {}

    def add(
        self, name: str, module: nn.Module, quantized: Mapping[str, quantization.Quantized] | None
    ) -> None:
        """Store, load, measure."""
        size = ww.save(module, self.path, bits=quantized).stat().st_size
        stored = prepare(module, bits=quantized)
        accuracy = 100 * self.test(ww.load(self.path, self.task.model))
        places = {"codes", "mask", "gaps", "rows", "columns"}
        parts = [stored.parts[name] for name in stored.manifest.coded]
        coded = sum(t.nbytes for some in parts for part, t in some.items() if part in places)
        ideal = sum(entropy(q) for q in (quantized or {}).values())
        self.found[name] = {
            "accuracy": accuracy,
            "bytes": size,
            "over_tensors": size - stored.data_bytes,
            "entropy": ideal / coded if coded else 0.0,
        }
        print(name, {k: round(v, 4) for k, v in self.found[name].items()}, flush=True)


def entropy(found: quantization.Quantized) -> float:
    """Bytes of the codes of a tensor for an ideal coder that knows how often each occurs."""
    codes = found.codes.int()
    if isinstance(found, quantization.Rounded):  # steps from zero, as they are stored
        shift = found.zero[..., None] - 256
        codes = ungrouped(grouped(found.codes, found.format).int() - shift, codes.shape)
    share = torch.bincount(codes.flatten().int()).double() / codes.numel()
    share = share[share > 0]
    return float(-(share * share.log2()).sum() * codes.numel() / 8)


def one_shot(trained: nn.Module, measured: Measured, batches: list[Any]) -> None:
    """All that takes no training."""
    measured.add("float32", trained, None)
    forms: dict[str, quantization.Format] = {**SYMMETRIC, **UNIFORM, **GROUPED, **SHARED}
    for name, form in forms.items():
        module = copy.deepcopy(trained)
        measured.add(name, module, quantization.quantize_(module, form))
    for name, uniform in UNIFORM.items():
        module = copy.deepcopy(trained)
        found = quantization.quantize_(module, uniform, calibration="minmax")
        measured.add(name + EXTREMES, module, found)
    slopes = pruning.gradient_magnitude(trained, batches, F.cross_entropy)
    for name, shared in SHARED.items():
        module = copy.deepcopy(trained)
        found = quantization.quantize_(module, shared, weights=slopes)
        measured.add(f"{name}, weighted by gradients", module, found)
    for tolerance in TOLERANCES:
        module = copy.deepcopy(trained)
        chosen = pruning.few_values(module, batches, F.cross_entropy, tolerance=tolerance)
        found = quantization.quantize_(module, chosen)
        measured.add(f"values by sensitivity, loss + {tolerance:g}", module, found)


def trained_on(trained: nn.Module, measured: Measured, train: Any, seed: int) -> None:
    """One epoch more, straight-through, or of the shared values alone."""
    recipe = ww.Recipe(epochs=1, batch_size=128, lr=1e-3, weight_decay=0.0)
    module = copy.deepcopy(trained)
    ww.fit(
        module, train, F.cross_entropy, recipe=recipe, run=ww.RunConfig(seed=seed, progress=False)
    )
    measured.add("float32, an epoch more", module, None)
    forms: dict[str, quantization.Format] = {n: f for n, f in UNIFORM.items() if f.bits <= 3}
    forms |= {n + EXTREMES: f for n, f in forms.items()} | {"4 values": quantization.Codebook(4)}
    for name, form in forms.items():
        module = copy.deepcopy(trained)
        how: Calibration = "minmax" if name.endswith(EXTREMES) else "mse"
        quantizer = quantization.StraightThrough(module, form, calibration=how, frequency=50)
        run = ww.RunConfig(seed=seed, progress=False)
        ww.fit(module, train, F.cross_entropy, recipe=recipe, compress=quantizer, run=run)
        measured.add(f"{name}, trained straight-through", module, quantizer.record)
    module = copy.deepcopy(trained).train()
    tuner = quantization.SharedValues(
        module, quantization.quantize_(module, quantization.Codebook(4))
    )
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    for indices in order.split(128):
        inputs, target = train.batch(indices)
        optimizer.zero_grad()
        F.cross_entropy(module(inputs), target).backward()
        tuner.sum_gradients()
        optimizer.step()
        tuner.step()
    measured.add("4 values, the values trained", module.eval(), tuner.record)


def seeded(seed: int, folder: Path) -> dict[str, dict[str, float]]:
    """All figures of one network."""
    task = BUILT_IN["mnist"]()
    data = task.splits()
    torch.manual_seed(seed)
    trained = task.model()
    recipe = ww.Recipe(epochs=EPOCHS, batch_size=128, lr=2e-3)
    ww.fit(
        trained,
        data.train,
        F.cross_entropy,
        recipe=recipe,
        run=ww.RunConfig(seed=seed, progress=False),
    )
    measured = Measured(task, folder)
    batches = [data.valid.batch(i) for i in torch.arange(2_000).split(500)]
    one_shot(trained, measured, batches)
    trained_on(trained, measured, data.train, seed)
    return measured.found


def measure(seeds: int) -> dict[str, Any]:
    """Means over seeds."""
    with tempfile.TemporaryDirectory() as folder:
        runs = [seeded(seed, Path(folder)) for seed in range(seeds)]
    rows = []
    for name in runs[0]:
        accuracy = [run[name]["accuracy"] for run in runs]
        spread = statistics.stdev(accuracy) if len(runs) > 1 else 0.0
        row = {"name": name, "mean": round(statistics.fmean(accuracy), 2), "std": round(spread, 2)}
        for key, places in (("bytes", 0), ("over_tensors", 0), ("entropy", 4)):
            row[key] = round(statistics.fmean(run[name][key] for run in runs), places)
        rows.append(row)
    return {"seeds": seeds, "epochs": EPOCHS, "rows": rows}


if __name__ == "__main__":
    raise SystemExit(main(__doc__, "bits", measure, seeds=3))
