"""Zeros that are meant: weights of a module that trainings must leave at zero.

Not every zero is one: a layer may start at zero and learn. The zeros of a pruner, of masks and of a
file that was stored without its zeros are meant.

    mean(module, ["fc1.weight"])     # whatever is zero in there stays so
    meant(module)                    # {"fc1.weight": True where a weight is not zero}
    free(module)                     # all of them may be trained again

The names lie in a table beside the modules: they go when the module goes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final
from weakref import WeakKeyDictionary

from torch import Tensor, nn

MOST: Final = 0.5  # a matrix with fewer zeros than this share was not pruned

_MEANT: WeakKeyDictionary[nn.Module, frozenset[str]] = WeakKeyDictionary()


class ZerosLostWarning(UserWarning):
    """Weights that were pruned are not zero any more, or were not for a while."""


def mean(module: nn.Module, names: Iterable[str]) -> None:
    """Say that the zeros in these parameters, whichever there are at a time, are meant."""
    _MEANT[module] = _MEANT.get(module, frozenset()) | frozenset(names)


def free(module: nn.Module) -> None:
    """Let a training move all weights of a module, those that are zero too."""
    _MEANT.pop(module, None)


def meant(module: nn.Module, floats: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Masks of the zeros that are meant: by parameter, True where a weight is not zero.

    floats: what quantized weights are made of, by name; a code of zero is none that is meant.
    """
    names = _MEANT.get(module, frozenset())
    weights = {**_named(module), **(floats or {})}
    found = {n: weight.detach() != 0 for n, weight in weights.items() if n in names}
    return {n: mask for n, mask in found.items() if mask.any() and not mask.all()}


def follow(module: nn.Module, cut: nn.Module) -> None:
    """Let what is meant in a module be meant in what was cut from it."""
    names = _MEANT.get(module, frozenset()) & _named(cut).keys()
    if names:
        mean(cut, names)


def shares(module: nn.Module) -> dict[str, float]:
    """The share of zeros in every matrix or kernel that has many, but not only zeros."""
    matrices = {n: p.detach() for n, p in module.named_parameters() if p.dim() > 1 and p.numel()}
    found = {n: 1 - int(p.count_nonzero()) / p.numel() for n, p in matrices.items()}
    return {n: share for n, share in found.items() if MOST <= share < 1}


def lost(module: nn.Module, before: dict[str, float]) -> ZerosLostWarning | None:
    """For a training that made weights of what was mostly zero; None where it did not.

    before: `shares` of the module as it was.
    """
    named = dict(module.named_parameters())
    for name, share in before.items():
        now = 1 - int(named[name].count_nonzero()) / named[name].numel()
        if now < share / 2:
            return ZerosLostWarning(
                f"{share:.0%} of {name!r} was zero before the training and {now:.0%} is now; train "
                "inside pruning.held_at_zero(module, pruning.zeros_of(module)) to keep them."
            )
    return None


def _named(module: nn.Module) -> dict[str, nn.Parameter]:
    return dict(module.named_parameters(remove_duplicate=False))
