"""What a training runs on: Accelerate for its devices and precision, and its optimizer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from widthwise.errors import TrainingError
from widthwise.train.ranks import without_gpu
from widthwise.train.recipe import Recipe

if TYPE_CHECKING:
    from accelerate import Accelerator


def accelerator_for(recipe: Recipe, cpu: bool) -> Accelerator:
    """Raises TrainingError where the recipe's precision is not to be had."""
    from accelerate import Accelerator  # here, for `import widthwise` should be quick

    name = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}[recipe.precision]
    try:
        return Accelerator(cpu=cpu or without_gpu(), mixed_precision=name)
    except ValueError as error:
        raise TrainingError(
            f"Training in {recipe.precision}{' on the CPU' if cpu else ''} is not possible in this "
            f"process ({error}); use precision='float32', or start a new process."
        ) from error


def optimizer_for(module: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW; weights decay, vectors (biases, norms) do not."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError("The network has no parameters to train.")
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    fused = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters)
    return torch.optim.AdamW(
        [g for g in groups if g["params"]], lr=recipe.lr, betas=recipe.betas, fused=fused
    )
