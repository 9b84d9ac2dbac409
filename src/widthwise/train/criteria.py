"""What a criterion is, as far as calling it tells: a number, a distance, a sum of known losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from widthwise.errors import TrainingError

Criterion = Callable[[Any, Any], Tensor]
"""(outputs, target) -> 0-dim tensor, the mean over the batch."""

_STEP: Final = 1e-2  # of outputs, in standard deviations, by which a criterion must grow

_ROUNDING: Final = 1e-3  # relative, of gradients that are equal


def one_number(loss: Any) -> Tensor:
    """A criterion's loss, if it is one number; raises TrainingError."""
    if isinstance(loss, Tensor) and loss.dim() == 0:
        return loss
    if isinstance(loss, Tensor):
        kind, remedy = f"a tensor of shape {list(loss.shape)}", "its mean, loss.mean()"
    else:
        kind, remedy = f"a {type(loss).__name__}", "one 0-dim tensor, such as the sum of its parts"
    raise TrainingError(f"The loss function returned {kind}; return {remedy}.")


def check_alive(soft: Tensor, narrow: Any, full: Any) -> None:
    """Raise TrainingError where a distillation is 0 for outputs that differ."""
    leaves = [t for t in pytree.tree_leaves(narrow) if floating(t)]
    learns = not torch.is_grad_enabled() or not any(t.requires_grad for t in leaves)
    pairs = zip(leaves, (t for t in pytree.tree_leaves(full) if floating(t)), strict=False)
    if (learns or soft.requires_grad) and (
        float(soft.detach()) != 0
        or all(a.shape == b.shape and bool((a == b).all()) for a, b in pairs)
    ):
        return
    raise TrainingError(
        "The distill_loss is 0 or has no gradient for outputs that differ, so it teaches nothing; "
        "compute it from the narrow outputs, or give distill=None."
    )


def is_distance(criterion: Criterion, outputs: Any, target: Any) -> bool:
    """Whether a criterion takes outputs for the target, and is least where they are equal."""
    mine, spec = pytree.tree_flatten(outputs)
    theirs, other = pytree.tree_flatten(target)
    if spec != other or not all(
        floating(a) and floating(b) and a.shape == b.shape
        for a, b in zip(mine, theirs, strict=True)
    ):
        return False
    full = [t.detach() for t in mine]

    def at(step: float) -> float:
        moved = [t + step * n for t, n in zip(full, noise, strict=True)]
        with torch.no_grad():
            value = criterion(pytree.tree_unflatten(moved, spec), pytree.tree_unflatten(full, spec))
        return float(value)

    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        noise = [
            torch.randn(t.shape, generator=generator).to(t) * (t.std(correction=0) + 1e-6)
            for t in full
        ]
        least = at(0.0)
        if not (at(_STEP) > least and at(-_STEP) > least):
            return False
    return True


def leaf_of(tensor: Tensor) -> Tensor:
    copy = tensor.detach()
    return copy.requires_grad_() if copy.is_floating_point() else copy


def floating(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def reached_by(value: Any, leaves: Sequence[Tensor]) -> list[Tensor]:
    """The leaves on which a value depends."""
    if not (isinstance(value, Tensor) and value.requires_grad and leaves):
        return []
    found = torch.autograd.grad(
        value, leaves, torch.ones_like(value), allow_unused=True, retain_graph=True
    )
    return [leaf for leaf, gradient in zip(leaves, found, strict=True) if gradient is not None]


def has_rest(loss: Tensor, parts: Sequence[Tensor], leaves: Sequence[Tensor]) -> bool:
    """Whether a loss depends on outputs in another way than through these parts of it."""
    slopes = torch.autograd.grad(loss, parts, allow_unused=True, retain_graph=True)
    pairs = [(part, slope) for part, slope in zip(parts, slopes, strict=True) if slope is not None]
    through: Sequence[Tensor | None] = [None] * len(leaves)
    if pairs:
        some, weights = zip(*pairs, strict=True)
        through = torch.autograd.grad(some, leaves, weights, allow_unused=True, retain_graph=True)
    whole = torch.autograd.grad(loss, leaves, allow_unused=True, retain_graph=True)
    for all_of_it, known in zip(whole, through, strict=True):
        if all_of_it is None or all_of_it.is_meta:
            continue
        left = all_of_it if known is None else all_of_it - known
        if bool(left.abs().amax() > _ROUNDING * all_of_it.abs().amax()):
            return True
    return False
