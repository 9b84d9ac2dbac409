"""A plain training loop, for trainings that `fit` is too much for, or has no place for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from widthwise.train.recipe import Recipe, rate


def _nothing() -> None:
    pass


def loop(
    module: nn.Module,
    batches: Iterable[tuple[Any, Any]],
    steps: int,
    loss: Callable[[Any, Any], Tensor],
    recipe: Recipe,
    *,
    before: Callable[[], object] = _nothing,
    after: Callable[[], object] = _nothing,
) -> nn.Module:
    """Train in place on batches (inputs, target), as many as `steps` says; in eval mode afterwards.

    loss: (inputs, target) -> 0-dim tensor. recipe: its rates over these steps; weights do not
    decay. before, after: called around every step of the optimizer.
    """
    optimizer = torch.optim.Adam(module.parameters(), lr=recipe.lr, betas=recipe.betas)
    module.train()
    for step, (inputs, target) in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = rate(recipe, step, steps)
        optimizer.zero_grad()
        loss(inputs, target).backward()
        before()
        optimizer.step()
        after()
    return module.eval()
