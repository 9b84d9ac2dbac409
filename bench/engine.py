"""What the engine costs: tracing with all proofs beside torch.export alone, and cutting.

    python bench/engine.py                   # three networks of ordinary size
    python bench/engine.py --write           # and store the figures in bench/results/engine.json

Each network runs in a process of its own, so that peak memory is its own; times are medians of
several runs in turns within that process, after one warm-up. Export leaves the same sizes free as
widthwise does. Memory is the peak of the process above what it held once the model was built.
"""

from __future__ import annotations

import resource
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import torchvision_operators
import widthwise as ww
from common import apart, main, seconds

BOUND = 3.0  # of tracing over export
CUT_BOUND = {"resnet18": 0.2}  # seconds


class Logits(nn.Module):
    """A transformers model reduced to its logits."""

    def __init__(self, model: nn.Module, **keywords: Any) -> None:
        super().__init__()
        self.model = model
        self.keywords = keywords

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x, **self.keywords).logits
        return logits


def resnet18() -> tuple[nn.Module, Tensor]:
    """ResNet-18 for 224 x 224 images and 1,000 classes."""
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(
        embedding_size=64,
        hidden_sizes=[64, 128, 256, 512],
        depths=[2, 2, 2, 2],
        layer_type="basic",
        num_labels=1000,
    )
    return Logits(ResNetForImageClassification(config)), torch.randn(2, 3, 224, 224)


def vit() -> tuple[nn.Module, Tensor]:
    """ViT-B/16: 12 layers, 768 wide, 12 heads."""
    from transformers import ViTConfig, ViTForImageClassification

    model = ViTForImageClassification(ViTConfig(num_labels=1000))
    return Logits(model), torch.randn(2, 3, 224, 224)


def llama() -> tuple[nn.Module, Tensor]:
    """A Llama of 12 layers, 768 wide, 12 query heads on 4 key heads, 32,000 tokens."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=32_000,
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=12,
        num_attention_heads=12,
        num_key_value_heads=4,
    )
    return Logits(LlamaForCausalLM(config), use_cache=False), torch.randint(0, 32_000, (2, 64))


NETWORKS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "resnet18": resnet18,
    "vit_b16": vit,
    "llama_12_layers": llama,
}


def measure(name: str, runs: int) -> dict[str, Any]:
    """Seconds and ratios for one network, in this process."""
    torchvision_operators.declare()
    warnings.simplefilter("ignore", ww.GraphModuleWarning)
    model, x = NETWORKS[name]()
    model.eval()
    start = _peak()
    exports, traces, ratios, cuts = [], [], [], []
    net = None
    for run in range(runs + 1):
        export = seconds(lambda: _export(model, x))
        if run == 0:
            export_peak = _peak()
        began = time.perf_counter()
        net = ww.Elastic(model, x)
        trace = time.perf_counter() - began
        half = net.widths(0.5)
        cut = seconds(lambda net=net, half=half: net.cut(half))
        if run:
            exports.append(export)
            traces.append(trace)
            ratios.append(trace / export)
            cuts.append(cut)
    assert net is not None
    return {
        "network": name,
        "parameters": sum(p.numel() for p in model.parameters()),
        "axes": len(net.free),
        "same_class_at_half": type(net.cut(net.widths(0.5))) is type(model),
        "export_seconds": round(statistics.median(exports), 3),
        "trace_seconds": round(statistics.median(traces), 3),
        "trace_over_export": round(statistics.median(ratios), 2),
        "cut_seconds": round(statistics.median(cuts), 3),
        "export_peak_MB": round((export_peak - start) / 1e3),
        "trace_and_cut_peak_MB": round((_peak() - start) / 1e3),
        "parameters_MB": round(4 * sum(p.numel() for p in model.parameters()) / 1e6),
        "runs": runs,
    }


def _export(model: nn.Module, x: Tensor) -> None:
    # The same freedom that widthwise gives: the batch of images, batch and length of sequences.
    free = range(1 if x.dim() > 3 else x.dim())
    dynamic = (dict.fromkeys(free, torch.export.Dim.AUTO),)
    torch.export.export(model, (x,), dynamic_shapes=dynamic, strict=False)


def _peak() -> int:
    """Peak resident memory of this process so far, in kB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def all_networks(runs: int) -> list[dict[str, Any]]:
    """Every network, in a process of its own."""
    return [apart(measure, name, runs) for name in NETWORKS]


def kept(found: list[dict[str, Any]]) -> bool:
    """Whether every bound is."""
    ratios = all(r["trace_over_export"] <= BOUND for r in found)
    return ratios and all(r["cut_seconds"] <= CUT_BOUND.get(r["network"], 1e9) for r in found)


if __name__ == "__main__":
    raise SystemExit(main(__doc__, "engine", all_networks, kept, runs=5))
