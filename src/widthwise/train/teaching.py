"""How narrow networks learn from the full one: it follows from the criterion.

    teaching = Teaching(F.cross_entropy, Distill(hard_weight=0.5))
    loss, lesson = teaching.full(lambda: net(x, widths={}), y)      # loss: the criterion's
    lesson(lambda: net(x, widths=narrow), y)                        # half of it to the full outputs

The criterion runs on the full network's outputs, and each loss of torch's that it calls is noted.
When it runs on a narrow network's, each of these calls gives a blend: of the loss to the target, as
it is, and of the loss to what the full network gave in its place (`soft_loss`). So the weights,
masks and sums that a criterion makes of its losses hold for what is distilled too, head by head.

A criterion that calls none of them and is least where outputs equal the target, such as a
hand-written squared error, is taken for a distance, and has the full outputs as a second target.
Where neither fits, narrow networks have the criterion alone, and a warning says so.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from widthwise.train.calls import Call, Noting, Watching
from widthwise.train.criteria import (
    Criterion,
    check_alive,
    floating,
    has_rest,
    is_distance,
    leaf_of,
    one_number,
    reached_by,
)
from widthwise.train.soft import Soft, soft_loss

DistillLoss = Callable[[Any, Any], Tensor]
"""(outputs of a narrow network, outputs of the full one) -> 0-dim tensor, mean over the batch."""

Run = Callable[[], Any]
"""() -> the outputs of a network for the batch at hand."""

Lesson = Callable[[Run, Any], Tensor]
"""(run of a narrow network, target) -> what it minimises, a 0-dim tensor."""

_REMEDY: Final = "give distill_loss=, a function of narrow and full outputs, to teach them"


class DistillationWarning(UserWarning):
    """Narrow widths learn from the target alone, or in part, since nothing fits the criterion."""


@dataclass(frozen=True)
class Distill:
    """How narrow passes learn from the full-width outputs of the same step.

    Args:
        temperature: outputs of cross entropies are divided by it first (Hinton et al., 2015); other
            losses have none.
        hard_weight: share of the criterion on the true target in a narrow pass' loss; the rest is
            distilled.

    Raises:
        ValueError: For values outside these ranges.
    """

    temperature: float = 1.0
    hard_weight: float = 0.0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"Distill.temperature is {self.temperature}; give more than 0.")
        if not 0 <= self.hard_weight <= 1:
            raise ValueError(
                f"Distill.hard_weight is {self.hard_weight}; give a share from 0 to 1."
            )


HALF: Final = Distill(hard_weight=0.5)
"""Half from the full network, half from the target."""


class _Way(Enum):
    """What narrow networks learn from."""

    TOLD = auto()  # a `distill_loss` of the user's
    CALLS = auto()  # losses of torch's in the criterion
    INSIDE = auto()  # those that the model computes: the criterion takes outputs.loss
    DISTANCE = auto()  # the criterion, with the full outputs as the target
    ALONE = auto()  # the target


class Teaching:
    """What networks learn from the full one under a criterion. Decided at the first batch.

    criterion: (outputs, target) -> mean loss. distill: how; None teaches by the criterion alone.
    distill_loss: (narrow outputs, full outputs) -> mean loss, in the place of what follows from the
    criterion.
    """

    def __init__(
        self, criterion: Criterion, distill: Distill | None, distill_loss: DistillLoss | None = None
    ) -> None:
        self.criterion = criterion
        self.distill = Distill(hard_weight=1.0) if distill is None else distill
        self.distill_loss = distill_loss
        self.way: _Way | None = None
        if distill is None:
            self.way = _Way.ALONE
        elif distill_loss is not None:
            self.way = _Way.TOLD
        self.fresh = True  # until the first lesson, which is looked at

    def full(self, run: Run, target: Any) -> tuple[Tensor, Lesson]:
        """The criterion's loss of the full network, and the lesson that its outputs are.

        run: () -> the outputs of the full network. Raises TrainingError, also from the lesson,
        where the distillation would be 0 whatever a narrow network gives.
        """
        first, inside, noted = self.way is None, Noting(), Noting()
        with inside if self.way in (None, _Way.INSIDE) else nullcontext():
            outputs = run()
        if first:
            loss = self._decide(outputs, target, inside, noted)
        else:
            with noted if self.way is _Way.CALLS else nullcontext():
                loss = one_number(self.criterion(outputs, target))
        if self.way is _Way.ALONE:
            return loss, lambda run, target: one_number(self.criterion(run(), target))
        if self.way in (_Way.TOLD, _Way.DISTANCE):
            full = pytree.tree_map_only(Tensor, Tensor.detach, outputs)
            return loss, self._by_outputs(full)
        if self.way is _Way.INSIDE:
            return loss, self._by_calls([_Taught(call, self.distill) for call in inside.calls])
        taught = [_Taught(call, self.distill) for call in noted.calls]
        plain = self.distill.hard_weight == 0 and _plain(loss, noted, outputs)
        return loss, self._by_one(taught[0]) if plain else self._by_calls(taught)

    def _by_calls(self, taught: Sequence[_Taught]) -> Lesson:
        """From the losses that the criterion, or the model, calls."""

        def lesson(run: Run, target: Any) -> Tensor:
            if self.way is _Way.INSIDE:
                with _Blending(taught):
                    return one_number(self.criterion(run(), target))
            outputs = run()
            with _Blending(taught):
                return one_number(self.criterion(outputs, target))

        return lesson

    def _by_one(self, taught: _Taught) -> Lesson:
        """From the loss that the criterion is, without a call of it, as no share of it counts."""

        def lesson(run: Run, target: Any) -> Tensor:
            (narrow,) = pytree.tree_leaves(run())
            call = taught.call.on(narrow)
            return taught.blended(call, lambda: narrow.new_zeros(()))

        return lesson

    def _by_outputs(self, full: Any) -> Lesson:
        """From whole outputs, by the user's `distill_loss` or the criterion as a distance."""
        compare = self.criterion if self.distill_loss is None else self.distill_loss
        hard_weight = self.distill.hard_weight

        def lesson(run: Run, target: Any) -> Tensor:
            outputs = run()
            soft = one_number(compare(outputs, full))
            if self.fresh:
                check_alive(soft, outputs, full)
                self.fresh = False
            if hard_weight == 0:
                return soft
            return (1 - hard_weight) * soft + hard_weight * one_number(
                self.criterion(outputs, target)
            )

        return lesson

    def _decide(self, outputs: Any, target: Any, inside: Noting, noted: Noting) -> Tensor:
        """The criterion's loss of the first batch, by which the way is chosen."""
        leaves = [t for t in pytree.tree_leaves(outputs) if floating(t)]
        live = torch.is_grad_enabled() and any(t.requires_grad for t in leaves)
        if not live:
            outputs = pytree.tree_map_only(Tensor, leaf_of, outputs)
            leaves = [t for t in pytree.tree_leaves(outputs) if floating(t)]
        leaves = [t for t in leaves if t.requires_grad]
        with torch.enable_grad(), noted:
            loss = one_number(self.criterion(outputs, target))
        self.way = self._fitting(loss, leaves, noted, bool(inside.calls))
        if self.way is _Way.ALONE and is_distance(self.criterion, outputs, target):
            self.way = _Way.DISTANCE
        if self.way is _Way.ALONE:
            _warn(
                "How narrow widths could learn from the full one does not follow from the "
                "criterion, which calls no loss of torch's that fits, so they learn from the "
                f"target alone; {_REMEDY}."
            )
        return loss if live else loss.detach()

    def _fitting(self, loss: Tensor, leaves: Sequence[Tensor], noted: Noting, inside: bool) -> _Way:
        """The way by the losses that were called. leaves: outputs that have a gradient."""
        turned = [call.turned(call.swapped) for call in noted.calls]
        fit = [
            value
            for call, value in zip(turned, noted.losses, strict=True)
            if reached_by(call.prediction, leaves) and not call.target.requires_grad
        ]
        if fit:
            if has_rest(loss, fit, leaves):
                _warn(
                    "A part of the criterion is no loss of torch's that can be distilled, so "
                    f"narrow widths learn that part from the target alone; {_REMEDY}."
                )
            return _Way.CALLS
        reached = reached_by(loss, leaves)
        if inside and reached and any(leaf.dim() == 0 for leaf in reached):
            return _Way.INSIDE
        return _Way.ALONE


def _plain(loss: Tensor, noted: Noting, outputs: Any) -> bool:
    """Whether a criterion is one loss of the one output."""
    leaves = pytree.tree_leaves(outputs)
    if len(leaves) != 1 or len(noted.calls) != 1 or noted.losses[0] is not loss:
        return False
    return noted.calls[0].prediction is leaves[0]


class _Taught:
    """A call on the full network's outputs, prepared when a narrow network first has the same."""

    def __init__(self, call: Call, distill: Distill) -> None:
        self.call, self.distill = call, distill
        self._soft: Soft | None = None

    def blended(self, call: Call, loss: Callable[[], Tensor]) -> Tensor:
        """The loss to the full network's prediction, and a share of that to the target."""
        swapped = call.swapped
        full, call = self.call.turned(swapped), call.turned(swapped)
        if not _same_call(full, call):
            return loss()
        if self._soft is None:
            self._soft = soft_loss(full, self.distill.temperature)
        soft, hard_weight = self._soft(call), self.distill.hard_weight
        return soft if hard_weight == 0 else (1 - hard_weight) * soft + hard_weight * loss()


def _same_call(full: Call, narrow: Call) -> bool:
    """Whether two networks' outputs have been given to the same loss."""
    a, b = full.prediction, narrow.prediction
    return (
        full.kind == narrow.kind
        and a.shape == b.shape
        # The same tensor in both is none of the outputs, but a weight that is held back.
        and not (a is b or a.data_ptr() == b.data_ptr() != 0)
        and not (b.requires_grad and narrow.target.requires_grad)
    )


class _Blending(Watching):
    """Losses that run inside are blended with those to the full network's predictions."""

    def __init__(self, taught: Sequence[_Taught]) -> None:
        super().__init__()
        self.taught = iter(taught)

    def seen(self, call: Call, loss: Callable[[], Tensor]) -> Tensor:
        """See `Watching.seen`."""
        one = next(self.taught, None)
        return loss() if one is None else one.blended(call, loss)


def lesson(
    outputs: Any,
    distill: Distill | None,
    criterion: Criterion,
    distill_loss: DistillLoss | None = None,
) -> Criterion:
    """What a network learns from a wider one's outputs: (its outputs, target) -> 0-dim tensor.

    The wider outputs take no gradient. Arguments as for `Teaching`. Raises TrainingError.
    """
    teaching = Teaching(criterion, distill, distill_loss)

    def learned(narrow: Any, target: Any) -> Tensor:
        with torch.no_grad():
            _, taught = teaching.full(lambda: outputs, target)
        return taught(lambda: narrow, target)

    return learned


def _warn(message: str) -> None:
    warnings.warn(message, DistillationWarning, stacklevel=4)
