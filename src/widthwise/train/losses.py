"""What a training step minimises: `(inputs, target) -> loss`, for any loop.

    loss = SingleDraw(net, F.cross_entropy)          # structural dropout: one drawn width a step
    loss = SandwichLoss(net, F.cross_entropy)        # full, drawn, narrowest; narrow ones distilled

    for inputs, target in batches:                   # your own loop
        optimizer.zero_grad()
        loss(inputs, target).backward()
        optimizer.step()

    fit(net, train, loss, recipe=Recipe())           # or ours

`inputs` is one tensor, a tuple of arguments or a dict of keyword arguments of the model's forward.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from widthwise.common.calling import outputs_for
from widthwise.elastic.network import Elastic
from widthwise.sampling.draws import Sandwich, climb, one_per_octave, sandwich, share_kept
from widthwise.train.criteria import Criterion, one_number
from widthwise.train.soft import soft_target
from widthwise.train.teaching import HALF, Distill, DistillLoss, Lesson, Teaching, lesson
from widthwise.variant import AnyWidths, Widths

__all__ = [
    "Criterion",
    "Distill",
    "DistillLoss",
    "Objective",
    "SandwichLoss",
    "SingleDraw",
    "StepLoss",
    "lesson",
    "name_of",
    "run_at",
    "soft_target",
]

_ALONG_LEVELS = 4  # passes of a step whose widths are levels


class Objective(ABC):
    """(inputs, target) -> 0-dim tensor to minimise. An interface.

    speeds: parameters by name that are trained faster or slower than the others -> how many times.
    """

    speeds: Mapping[str, float] = MappingProxyType({})

    @abstractmethod
    def __call__(self, inputs: Any, target: Any) -> Tensor:
        """The loss of one batch, differentiable; in train mode a new draw at every call."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What sets this objective apart, as JSON: a run resumes only with the same."""


class StepLoss(nn.Module):
    """A step's loss as a module, for what wraps modules, such as DistributedDataParallel.

    Args:
        net: what is trained.
        loss: (inputs, target) -> 0-dim tensor, of this network.

    Example:
        step = DistributedDataParallel(StepLoss(net, SandwichLoss(net, F.cross_entropy)))
        step(inputs, target).backward()             # all passes of the step are one forward
    """

    def __init__(self, net: nn.Module, loss: Callable[[Any, Any], Tensor]) -> None:
        super().__init__()
        self.net = net
        self.loss = loss

    def forward(self, inputs: Any, target: Any) -> Tensor:
        """The loss of one batch, a 0-dim tensor."""
        return self.loss(inputs, target)


class SingleDraw(Objective):
    """Structural dropout: the criterion at the widths that `net` draws for this step.

    Args:
        net: an Elastic, whose `draw` says how; in eval mode the loss is the full network's.
    """

    def __init__(self, net: Elastic, criterion: Criterion) -> None:
        self.net = net
        self.criterion = criterion

    def __call__(self, inputs: Any, target: Any) -> Tensor:
        return one_number(self.criterion(outputs_for(self.net, inputs), target))

    def settings(self) -> dict[str, Any]:
        return {"loss": "single draw", "criterion": name_of(self.criterion)}


class SandwichLoss(Objective):
    """Full width and drawn widths in one step (after Yu & Huang, 2019).

    The full pass has the criterion; the narrow ones learn from its outputs, which take no gradient
    from that. The loss is the mean over the passes, each times its weight. Every call advances
    `net.step` by one.

    Running statistics (batch norm) are the full width's: each step's narrow passes leave
    them alone, so re-estimate them for a cut network.

    Args:
        net: an Elastic, whose `draw` and `seed` say which widths.
        criterion: (outputs, target) -> mean loss of a batch.
        passes: how many widths in a step, or a `Sandwich` with more to say; by default the full
            width and one from every octave of the widest axis, so that no width is long without
            practice.
        distill: how narrow passes learn from the full one; None gives them the criterion alone.
            What is distilled follows from the criterion, head by head: cross entropy becomes the
            divergence over the class dim, wherever that lies; MSE, L1 and Huber the same between
            the two outputs; binary cross entropy that to the full network's probabilities. Where
            nothing fits, they have the criterion alone, and a DistillationWarning says so.
        emphasis: a pass that keeps a share s of the features weighs s ** -emphasis. Narrow networks
            are harder to train, and wide ones hardly notice; 0 weighs all alike.
        distill_loss: (narrow outputs, full outputs) -> mean loss, in the place of what follows from
            the criterion and of the temperature, not of the hard share.
        levels: widths to draw the narrow passes from, narrow ones first, instead of `net.draw`;
            for a network whose axes should not all keep the same share, such as one ordered by
            scores (`pruning.allocated_levels`). Then `passes` is 4 by default, and `net.levels` are
            these.

    Raises:
        ValueError: For settings out of range.
        TrainingError: When it is called, for a criterion that does not return one number, and a
            distillation that is 0 whatever a narrow pass gives.
    """

    def __init__(
        self,
        net: Elastic,
        criterion: Criterion,
        *,
        passes: int | Sandwich | None = None,
        distill: Distill | None = HALF,
        distill_loss: DistillLoss | None = None,
        emphasis: float = 0.5,
        levels: Sequence[AnyWidths] = (),
    ) -> None:
        if not math.isfinite(emphasis):
            raise ValueError(f"emphasis is {emphasis}; give a number such as 0 or 0.5.")
        self.net = net
        self.criterion = criterion
        self.levels = net.drawn_levels = tuple(net.complete(w) for w in levels)
        usual = _ALONG_LEVELS if levels else one_per_octave(net.free, net.draw)
        planned = usual if passes is None else passes
        self.plan = Sandwich(planned) if isinstance(planned, int) else planned
        self.emphasis = emphasis
        self.distill = distill
        self.distill_loss = distill_loss
        self.teaching = Teaching(criterion, distill, distill_loss)

    def __call__(self, inputs: Any, target: Any) -> Tensor:
        net = self.net
        wide, *narrow = self._drawn()
        total, learned = self.teaching.full(partial(run_at, net, inputs, wide), target)
        with _kept_buffers(net):
            total = sum(self._losses(inputs, target, narrow, learned), start=total)
        return total / self.plan.passes

    def _losses(
        self, inputs: Any, target: Any, narrow: Sequence[Widths], learned: Lesson
    ) -> Iterator[Tensor]:
        """What each narrow pass minimises, times its weight."""
        for widths in narrow:
            weight = share_kept(self.net.free, widths) ** -self.emphasis
            yield weight * learned(partial(run_at, self.net, inputs, widths), target)

    def taught(self, inputs: Any, target: Any) -> Tensor:
        """The loss of the narrow passes of a step alone; the full pass takes no gradients.

        As a call, it advances `net.step` by one.
        """
        net = self.net
        wide, *narrow = self._drawn()
        with _kept_buffers(net):
            with torch.no_grad():
                _, learned = self.teaching.full(partial(run_at, net, inputs, wide), target)
            return torch.stack([*self._losses(inputs, target, narrow, learned)]).mean()

    @torch.compiler.disable  # as Elastic._next_draw
    def _drawn(self) -> Sequence[Widths]:
        """The widths of the next step, the full one first."""
        net = self.net
        if self.levels:
            found = climb(self.levels, net.seed, net.step, self.plan)
        else:
            found = sandwich(net.free, net.draw, net.seed, net.step, self.plan)
        net.step += 1
        return found

    def settings(self) -> dict[str, Any]:
        return {
            "loss": "sandwich",
            "criterion": name_of(self.criterion),
            "passes": asdict(self.plan),
            "emphasis": self.emphasis,
            "distill": None if self.distill is None else asdict(self.distill),
            "distill_loss": None if self.distill_loss is None else name_of(self.distill_loss),
            **({"levels": [dict(w) for w in self.levels]} if self.levels else {}),
        }


@contextmanager
def _kept_buffers(net: Elastic) -> Iterator[None]:
    """The buffers of a network in training are afterwards as they were."""
    kept = [(b, b.clone()) for b in net.model.buffers()] if net.training else []
    yield
    for buffer, value in kept:
        # `.data`: autograd would take the write for a change to what backward needs.
        buffer.data.copy_(value)


def run_at(net: Elastic, inputs: Any, widths: Mapping[str, int]) -> Any:
    """The outputs of `net` for one batch's inputs at these widths."""
    if isinstance(inputs, dict):
        return net(**inputs, widths=widths)
    if isinstance(inputs, (tuple, list)):
        return net(*inputs, widths=widths)
    return net(inputs, widths=widths)


def name_of(function: Callable[..., Any]) -> str:
    """A function's full name with the arguments it was bound to, or the class of an object."""
    if isinstance(function, partial):
        bound = [*map(repr, function.args), *(f"{k}={v!r}" for k, v in function.keywords.items())]
        return f"{name_of(function.func)}({', '.join(bound)})"
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"
