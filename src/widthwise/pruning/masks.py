"""Masks: which single weights stay.

    masks = keep(obd(net, batches, criterion, of="weights"), sparsity=0.9)
    with held_at_zero(net.model, masks):          # the others are zero, and stay so
        fit(net.model, train, criterion, recipe=recipe)

    prune(net.model, score, 0.9, rounds=5, between=fine_tune)      # step by step, as OBD has it

Matrices and kernels are pruned; vectors (biases, norms) stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from widthwise.elastic.zeros import mean
from widthwise.errors import ScoreError
from widthwise.pruning.gradual.compete import Scope, checked, lamp
from widthwise.pruning.gradual.select import lowest

Masks = dict[str, Tensor]


def keep(scores: Mapping[str, Tensor], sparsity: float, *, scope: Scope = "global") -> Masks:
    """Masks that keep the weights of the highest scores: bool, of the shape of each tensor.

    Args:
        scores: by tensor, of its shape; tensors of fewer than two dims are left out of the masks.
        sparsity: the share of the weights that go, exactly, rounded to a whole number of them.
        scope: "global" compares all weights with each other, "layer" within a tensor; "lamp" all
            of them, each by its share of the larger ones of its tensor (`gradual.lamp`), for
            magnitudes.

    Raises:
        ScoreError: For a sparsity outside [0, 1), scores that are not numbers, and where a tensor
            would be left without any weight.
        ValueError: For another scope.
    """
    _check(sparsity)
    checked(scope)
    pruned = {name: value for name, value in scores.items() if value.dim() >= 2}
    for name, value in pruned.items():
        if value.isnan().any():
            raise ScoreError(f"A score of {name!r} is not a number; compute the scores again.")
    if scope == "lamp":
        pruned = {name: lamp(value) for name, value in pruned.items()}
    groups = [[name] for name in pruned] if scope == "layer" else [list(pruned)]
    masks: Masks = {}
    for names in groups:
        masks |= _highest({name: pruned[name] for name in names}, sparsity)
    for name, mask in masks.items():
        if not mask.any():
            raise ScoreError(
                f"At a sparsity of {sparsity} nothing is left of {name!r}; give a lower one, or "
                'scope="layer" or "lamp".'
            )
    return masks


def _check(sparsity: float) -> None:
    if not 0 <= sparsity < 1:
        raise ScoreError(f"The sparsity is {sparsity}; give a share of zeros from 0 to below 1.")


def _highest(scores: Mapping[str, Tensor], sparsity: float) -> Masks:
    if not scores:
        return {}
    flat = torch.cat([value.flatten().cpu() for value in scores.values()])
    kept = ~lowest(flat, round(sparsity * len(flat)))
    pieces = kept.split([value.numel() for value in scores.values()])
    pairs = zip(scores.items(), pieces, strict=True)
    return {name: piece.view(value.shape).to(value.device) for (name, value), piece in pairs}


@contextmanager
def held_at_zero(module: nn.Module, masks: Mapping[str, Tensor]) -> Iterator[nn.Module]:
    """Zero what the masks leave out, and keep it at zero while the module is trained inside.

    The gradients there are zero, so an optimizer made inside never moves them: start no training
    here that was begun before, whose momentum would. The zeros are meant from then on (see
    elastic/zeros.py), so that `fit` keeps them afterwards too.

    Raises:
        ScoreError: For masks that do not fit.
    """
    handles = []
    mean(module, masks)
    try:
        for name, mask in masks.items():
            parameter = dict(module.named_parameters()).get(name)
            if parameter is None or parameter.shape != mask.shape:
                raise ScoreError(f"The mask {name!r} fits no parameter of the module.")
            there = mask.to(parameter.device)
            with torch.no_grad():
                parameter.masked_fill_(~there, 0)  # and not times 0, which is -0 for some
            if parameter.requires_grad:  # nothing moves a frozen one
                handles.append(parameter.register_hook(lambda g, m=there: g * m.to(g.device)))
        yield module
    finally:
        for handle in handles:
            handle.remove()


def zeros_of(module: nn.Module) -> Masks:
    """Masks of the zeros that a module has already: True where a matrix or kernel is not zero."""
    return {n: p.detach() != 0 for n, p in module.named_parameters() if p.dim() >= 2}


def prune_(
    module: nn.Module,
    score: Callable[[nn.Module], Mapping[str, Tensor]],
    sparsity: float,
    *,
    rounds: int = 1,
    between: Callable[[nn.Module], object] | None = None,
    scope: Scope = "global",
) -> Masks:
    """Prune single weights in place, in rounds of scoring, removing and training.

    Each round keeps the same share of what was left, so that the last one reaches `sparsity`
    (LeCun, Denker, Solla, 1989: "prune, retrain, repeat").

    Args:
        score: module -> scores by tensor.
        between: trains the module, whose zeros stay, after each round.

    Returns:
        The masks.

    Raises:
        ScoreError: As `keep` does.
        ValueError: For no rounds.
    """
    _check(sparsity)
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}; give at least 1.")
    masks: Masks = {}
    for number in range(1, rounds + 1):
        reached = 1 - (1 - sparsity) ** (number / rounds)
        scores = {name: value.clone() for name, value in score(module).items()}
        for name, mask in masks.items():
            scores[name][~mask] = -torch.inf  # what is gone stays gone
        masks = keep(scores, reached, scope=scope)
        with held_at_zero(module, masks):
            if between is not None:
                between(module)
    return masks
