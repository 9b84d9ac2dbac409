"""What a training runs on: Accelerate for its devices and precision, and its optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from widthwise.errors import TrainingError
from widthwise.train.config import RunConfig
from widthwise.train.ranks import without_gpu
from widthwise.train.recipe import Recipe
from widthwise.train.tracking import trackers

if TYPE_CHECKING:
    from accelerate import Accelerator


def accelerator_for(recipe: Recipe, run: RunConfig) -> Accelerator:
    """Accelerate's device, precision and trackers.

    Raises TrainingError where the recipe's precision is not to be had.
    """
    from accelerate import Accelerator  # here, for `import widthwise` should be quick

    name = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}[recipe.precision]
    kept = trackers(run.trackers, run.place)
    try:
        return Accelerator(cpu=run.cpu or without_gpu(), mixed_precision=name, **kept)
    except ValueError as error:
        raise TrainingError(
            f"Training in {recipe.precision}{' on the CPU' if run.cpu else ''} is not possible in "
            f"this process ({error}); use precision='float32', or start a new process."
        ) from error


def optimizer_for(
    module: nn.Module, recipe: Recipe, speeds: Mapping[str, float] | None = None
) -> torch.optim.Optimizer:
    """AdamW; weights decay, vectors (biases, norms) do not.

    speeds: times the learning rate, by parameter name; 1 for those that are not named. Each group
    holds its own as "speed".
    """
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, p in module.named_parameters():
        if p.requires_grad:
            decay = recipe.weight_decay if p.dim() > 1 else 0.0
            key = decay, (speeds or {}).get(name, 1.0)
            new = {"params": [], "weight_decay": decay, "speed": key[1]}
            groups.setdefault(key, new)["params"].append(p)
    if not groups:
        raise ValueError("The network has no parameters to train.")
    parameters = [p for group in groups.values() for p in group["params"]]
    fused = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters)
    return torch.optim.AdamW([*groups.values()], lr=recipe.lr, betas=recipe.betas, fused=fused)
