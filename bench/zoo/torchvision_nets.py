"""All classification models of torchvision, on images as small as each takes."""

from __future__ import annotations

from functools import partial
from typing import Any

from bench.zoo.network import SIZES, Made, Network, on_smallest_image
from torch import nn
from torchvision import models


def _make(name: str) -> Made:
    sizes = (56,) if name == "vit_h_14" else SIZES  # a multiple of its patch
    return on_smallest_image(partial(_build, name), sizes)


def _build(name: str, size: int) -> nn.Module:
    options: dict[str, Any] = {}
    if name.startswith("vit"):
        options["image_size"] = size
    if name == "maxvit_t":
        options["input_size"] = (size, size)
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = False  # theirs takes a minute
    model: nn.Module = models.get_model(name, weights=None, **options)
    return model


NETWORKS = tuple(
    Network(f"torchvision/{name}", partial(_make, name))
    for name in models.list_models(module=models)
)
