"""What zeros are worth: bytes of packed files, the time to read them, and sparse products.

    python bench/storage.py                # prints; 1 when a bound is not kept
    python bench/storage.py --write        # and stores the figures in bench/results/storage.json
    python bench/storage.py --manifests    # only prints what manifests take in small files

Files: a network of 20 M weights, pruned by magnitude, as `save` writes it plain, packed, and packed
and compressed. `index` is the file ÷ (4 bytes a non-zero and the cheaper of a bit mask and 4-bit
relative indices with the fillers that they need), bound 1.02; `formula` the file ÷ that of Zhu &
Gupta (2017), which counts no fillers. `load` is the time to read the file (checksum, unpacking) ÷
that of the plain file, bound 2: medians over rounds in which the files take turns.

Products: a linear layer on torch's sparse rows against the dense product, one thread; the shortest
times of many.

Manifests: the largest 4-bit network of one fraction that fits in each of a few small budgets. Of
its packed file, the bytes of the manifest as it is written, and of the same JSON without the codec
of `store/packed/manifest_codec.py` as DEFLATE and as Zstandard.
"""

from __future__ import annotations

import gc
import json
import statistics
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import zstandard
from torch import Tensor, nn

from common import main, seconds
from widthwise.app.tasks.resolve import resolve
from widthwise.benchmark.kernels import NothingFasterWarning, run_sparse
from widthwise.elastic.network import Elastic
from widthwise.formats import Uniform
from widthwise.quantization import quantize_
from widthwise.store.deflate import deflated
from widthwise.store.file import Stored, prepare, read, save
from widthwise.store.manifest import to_body
from widthwise.store.packed import container
from widthwise.store.packed.forms import published_accounting
from widthwise.store.packed.tensors import Pack

SPARSITIES = (0.5, 0.75, 0.8, 0.9, 0.95, 0.98, 0.99)
BOUND, LOAD_BOUND = 1.02, 2.0
WAYS: tuple[Pack, ...] = ("none", "zeros", "zstd")
TASKS = ("mnist", "fashion-mnist-cnn", "cifar10")  # of three, a few and a hundred layers
BUDGETS = (2_000, 6_000, 16_000, 40_000)  # bytes


def network(sparsity: float) -> nn.Module:
    """20.0 M normal weights; in each layer the smallest are zero."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3000, 3000), nn.ReLU(), nn.Linear(3000, 3660))
    for layer in (model[0], model[2]):
        weight = layer.weight.data.normal_()
        zeros = weight.abs().flatten().argsort()[: round(sparsity * weight.numel())]
        weight.view(-1)[zeros] = 0
    return model


def with_index(tensor: Tensor) -> float:
    """Bytes of the non-zeros and of the cheaper index, counted apart from the code that packs."""
    positions = tensor.detach().flatten().nonzero()[:, 0]
    gaps = torch.diff(positions, prepend=torch.tensor([-1])) - 1
    codes = len(positions) + int((gaps // 15).sum())
    packed = 4 * len(positions) + min(tensor.numel() / 8, codes / 2)
    return min(4 * tensor.numel(), packed)


def reading(path: Path) -> float:
    """Seconds to read a file once."""
    gc.collect()
    return seconds(lambda: read(path))


def files(sparsity: float, rounds: int) -> dict[str, Any]:
    """Bytes, and times of reading, at one sparsity."""
    model = network(sparsity)
    tensors = list(model.parameters())
    with tempfile.TemporaryDirectory() as folder:
        paths, saved = {}, {}
        for how in WAYS:
            paths[how] = Path(folder) / how
            saved[how] = seconds(lambda how=how: save(model, paths[how], pack=how))
        size = {how: path.stat().st_size for how, path in paths.items()}
        turns = [{how: reading(path) for how, path in paths.items()} for _ in range(rounds)]
    loads = {how: statistics.median(turn[how] / turn["none"] for turn in turns) for how in WAYS}
    return {
        "sparsity": sparsity,
        "bytes": size,
        "formula_bytes": published_accounting(tensors),
        "index": round(size["zeros"] / sum(map(with_index, tensors)), 4),
        "formula": round(size["zeros"] / published_accounting(tensors), 4),
        "zstd_formula": round(size["zstd"] / published_accounting(tensors), 4),
        "load": {how: round(ratio, 2) for how, ratio in loads.items()},
        "dense_load_s": round(statistics.median(turn["none"] for turn in turns), 3),
        "save_s": {how: round(s, 2) for how, s in saved.items()},
    }


def product(outputs: int, inputs: int, sparsity: float, batch: int) -> dict[str, Any]:
    """One layer, both ways."""
    torch.manual_seed(0)
    layer = nn.Linear(inputs, outputs)
    layer.weight.data[torch.rand(outputs, inputs) < sparsity] = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NothingFasterWarning)
        _, (timed,) = run_sparse(nn.Sequential(layer), (torch.randn(batch, inputs),), seconds=1.0)
    return {
        "layer": f"{inputs} to {outputs}",
        "sparsity": sparsity,
        "batch": batch,
        "dense_ms": round(timed.dense_ms, 4),
        "csr_ms": round(timed.csr_ms, 4),
        "speed": round(timed.dense_ms / timed.csr_ms, 2),
    }


def manifests(name: str) -> Iterator[dict[str, Any]]:
    """What the manifests of a built-in task's networks take, for each budget."""
    task = resolve(name)
    torch.manual_seed(0)
    net = Elastic(task.model().eval(), task.example())
    for budget in BUDGETS:
        stored = _largest(net, budget)
        if stored is None:
            continue
        body = json.dumps(to_body(stored.manifest), separators=(",", ":")).encode()
        sizes = {
            "codec": len(container.encoded(stored.manifest)),
            "deflate": len(deflated(body)),
            "zstd": len(zstandard.ZstdCompressor(level=19).compress(body)),
        }
        saved = min(sizes["deflate"], sizes["zstd"]) - sizes["codec"]
        share = round(saved / stored.bytes, 4)
        yield {"task": name, "budget": budget, "bytes": stored.bytes, **sizes, "saved": share}


def _largest(net: Elastic, budget: int) -> Stored | None:
    """The network of the largest fraction whose file fits; None where none does."""
    best, low, high = None, 0.0, 1.0
    for _ in range(7):
        fraction = (low + high) / 2
        widths = net.widths(fraction)
        module = net.cut(widths, recalibrate=False)
        stored = prepare(net, widths, module, "zeros", quantize_(module, Uniform(4)))
        if stored.bytes <= budget:
            best, low = stored, fraction
        else:
            high = fraction
    return best


def measure(rounds: int) -> dict[str, Any]:
    """Files and products."""
    layers, batches, shares = ((2600, 650), (1024, 1024)), (1, 32), (0.5, 0.8, 0.9, 0.95, 0.98)
    found: dict[str, Any] = {"bound": BOUND, "load_bound": LOAD_BOUND, "rounds": rounds}
    found["files"] = [files(sparsity, rounds) for sparsity in SPARSITIES]
    found["products"] = [product(*size, s, b) for size in layers for b in batches for s in shares]
    return found


def kept(found: dict[str, Any]) -> bool:
    """Whether both bounds are."""
    return all(f["index"] <= BOUND and f["load"]["zeros"] <= LOAD_BOUND for f in found["files"])


if __name__ == "__main__":
    if sys.argv[1:] == ["--manifests"]:
        for each in (row for name in TASKS for row in manifests(name)):
            print(each, flush=True)
        raise SystemExit
    raise SystemExit(main(__doc__, "storage", measure, kept, rounds=9))
