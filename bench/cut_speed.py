"""Is a cut network as fast as one that was built small? PyTorch and ONNX Runtime, three widths.

    python bench/cut_speed.py                # prints the ratios, each at most 1.05
    python bench/cut_speed.py --write        # and stores them in bench/results/cut_speed.json

The bound is for what `cut` returns. The same cut as a graph module, which is what is returned where
the user's class cannot be had, is timed beside it. Cut and built have the same shapes and other
weights. They run in turns, block by block, in one process; each ratio is the median over the blocks
of cut time / built time of the same block, which a machine that changes its speed disturbs little.
"""

from __future__ import annotations

import statistics
import tempfile
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from torch import Tensor, nn

import widthwise as ww
from common import main
from widthwise.app.tasks.cifar10 import ResNet
from widthwise.app.tasks.mlp import MLP
from widthwise.export.onnx import export_onnx

BOUND = 1.05


def mlp(width: int) -> nn.Module:
    """The MLP of the MNIST task."""
    return MLP(784, width, 10)


def resnet(width: int) -> nn.Module:
    """The ResNet of the CIFAR-10 task; width is that of its first stage."""
    return ResNet(width=width)


CASES: tuple[tuple[str, Callable[[int], nn.Module], int, tuple[int, ...], Tensor], ...] = (
    ("mnist_mlp", mlp, 256, (32, 64, 128), torch.randn(1, 784)),
    ("cifar_resnet", resnet, 16, (4, 8, 12), torch.randn(1, 3, 32, 32)),
)


def block(run: Callable[[], object], count: int) -> float:
    """Seconds for `count` calls."""
    return timeit.timeit(run, number=count)


def ratio(cut: Callable[[], object], built: Callable[[], object], blocks: int) -> float:
    """Median over blocks of cut time / built time; the order alternates."""
    once = max(min(block(cut, 1) for _ in range(20)), 1e-6)
    count = max(1, int(0.02 / once))
    ratios = []
    for i in range(blocks):
        if i % 2:
            a, b = block(cut, count), block(built, count)
        else:
            b, a = block(built, count), block(cut, count)
        ratios.append(a / b)
    return statistics.median(ratios)


def torch_call(module: nn.Module, x: Tensor) -> Callable[[], object]:
    """One inference of a module."""
    module.eval()

    def call() -> object:
        with torch.inference_mode():
            return module(x)

    return call


def onnx_call(module: nn.Module, x: Tensor, path: Path) -> Callable[[], object]:
    """One inference of the exported module in ONNX Runtime, one thread."""
    export_onnx(module, (torch.cat([x, x]),), path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: x.numpy()}
    return lambda: session.run(None, feed)


def measure(blocks: int) -> list[dict[str, Any]]:
    """All ratios."""
    results = []
    for name, build, full, widths, x in CASES:
        net = ww.Elastic(build(full), torch.cat([x, x]))
        for width in widths:
            kept = net.widths(width / full)
            cut, built = net.cut(kept), build(width)
            graph = net.cut(kept, same_class=False)
            shapes = [tuple(p.shape) for p in cut.parameters()]
            assert shapes == [tuple(p.shape) for p in built.parameters()]
            with tempfile.TemporaryDirectory() as folder:
                onnx = (
                    onnx_call(cut, x, Path(folder) / "cut.onnx"),
                    onnx_call(built, x, Path(folder) / "built.onnx"),
                )
                results.append(
                    {
                        "network": name,
                        "width": width,
                        "class": type(cut).__name__,
                        "pytorch": round(
                            ratio(torch_call(cut, x), torch_call(built, x), blocks), 3
                        ),
                        "onnxruntime": round(ratio(*onnx, blocks), 3),
                        "pytorch_as_graph_module": round(
                            ratio(torch_call(graph, x), torch_call(built, x), blocks), 3
                        ),
                    }
                )
            print(results[-1])
    return results


def all_ratios(blocks: int) -> dict[str, Any]:
    """With the bound."""
    return {"bound": BOUND, "blocks": blocks, "ratios": measure(blocks)}


def kept(found: dict[str, Any]) -> bool:
    """Whether it is, by what `cut` returns."""
    return all(max(r["pytorch"], r["onnxruntime"]) <= BOUND for r in found["ratios"])


if __name__ == "__main__":
    raise SystemExit(main(__doc__, "cut_speed", all_ratios, kept, blocks=101))
