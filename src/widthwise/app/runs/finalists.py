"""A search whose variants are judged by how they recover, the best of which are trained on.

    recovery = Recovery(net, task, data.train, batches, Recipe(epochs=8), valid, prepare=prepare)
    found = search(net, few, Budget(10_000), candidates=Candidates(train=recovery.brief))
    made = recovery.best(found, max_bytes=10_000)

What few bits and many zeros do to a network is mended by training, a moment of which tells where it
can be mended. The full network teaches, once it has been trained for itself.
"""

from __future__ import annotations

import bisect
import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

from torch import nn
from torch.utils.data import Dataset

from widthwise.app.tasks.objectives import taught_by
from widthwise.elastic.network import Elastic
from widthwise.formats import Uniform
from widthwise.measure.evaluation import Evaluation
from widthwise.quantization import StraightThrough
from widthwise.task import Task
from widthwise.train.batches import own_randomness
from widthwise.train.config import RunConfig
from widthwise.train.distillation import DistillObjective
from widthwise.train.fit import fit
from widthwise.train.loop import loop
from widthwise.train.losses import Criterion
from widthwise.train.recipe import Recipe
from widthwise.variant import Variant, Widths
from widthwise.variants import CompressedModel, SearchResult, apply
from widthwise.variants.apply import Prepare, Train

State = dict[str, Any]
"""What the tensors of a network hold, by name."""

FINALISTS: Final = 2
_BITS: Final = 3  # numbers of bits that candidates have
_OF_EACH: Final = 2  # candidates of one number of bits
_SHORT: Final = 3  # as part of a training, how candidates are tried
STEPS: Final = 60  # of a moment's training
_FULL: Final = 0.97  # of the budget: less is left to waste
_SCALES: Final = range(50, 161)  # per cent of the widths that were found
_TRIES: Final = 3  # trainings of a finalist, until it fits well


@dataclass(frozen=True)
class Recovery:
    """How variants of a network are trained.

    train: its training data. batches: of these, for a moment's training in every trial. recipe: of
    the teacher's and the finalists' training. valid: on validation data, by which teacher and
    finalists are chosen. prepare: as the search is given it.
    """

    net: Elastic
    task: Task
    train: Dataset[Any]
    batches: Sequence[Any]
    recipe: Recipe
    valid: Evaluation
    prepare: Prepare | None = None
    seed: int = 0
    progress: bool = False

    @cached_property
    def teacher(self) -> nn.Module:
        """The full network as it is, or trained on at this width alone: whichever is better.

        After a short elastic training the full width is behind a network that was trained for
        itself, and holds back whom it teaches; not so after one along levels.
        """
        return self._teacher[0]

    def brief(self, module: nn.Module, quantizer: StraightThrough | None) -> None:
        """A moment's training, as `apply` takes it."""
        batches = self.batches[:STEPS]
        after = {} if quantizer is None else {"after": quantizer.step}
        with own_randomness():
            loop(module, batches, len(batches), self._taught(module), self.recipe, **after)

    def whole(self, module: nn.Module, quantizer: StraightThrough | None) -> None:
        """The training of a finalist."""
        self._fit(module, self._taught(module), quantizer, self.recipe)

    def best(
        self, found: SearchResult, *, max_bytes: int | None = None, widen: bool = True
    ) -> CompressedModel | None:
        """The best of the finalists, trained, or what the search found where that is better.

        None where none of them fits. The first is cut from the network as it is, and, unless that
        was trained along levels, from the network trained on at full width; the other from the one
        of which the better network came.
        max_bytes: of its file. Finalists whose trained codes take more are trained again, as much
        narrower; those that leave room also wider, where `widen` is set: not where there are other
        limits, which that could break. Raises TrainingError.
        """
        own = self._starts[0]
        first = self._made(found.best.variant, own, train=self.brief)
        best = first if max_bytes is None or first.bytes <= max_bytes else None
        reached = self.valid(first.module)
        came_from: State | None = None
        for variant in self._finalists([t.variant for t in found.tried]):
            for start in self._starts if came_from is None else (came_from,):
                for made in self._trained(variant, start, max_bytes, widen):
                    value = self.valid(made.module)
                    if best is None or self.valid.metric.better(value, reached):
                        best, reached, came_from = made, value, start
        return best

    @cached_property
    def _teacher(self) -> tuple[nn.Module, State]:
        """The teacher, and the weights that it starts from."""
        full = Variant(self.net.full())
        own, *settled = (
            (self._made(full, start, train=None).module, start) for start in self._starts
        )
        better = settled and self.valid.metric.better(self.valid(settled[0][0]), self.valid(own[0]))
        return settled[0] if better else own

    def _finalists(self, best_first: Sequence[Variant]) -> list[Variant]:
        """The candidates that a short training makes best.

        Successive halving (Jamieson & Talwalkar, 2016): many are judged by a moment's training, few
        by a part of one, and two by all of it.
        """
        some = candidates(best_first)
        if len(some) <= FINALISTS:
            return some
        sign = -1 if self.valid.metric.higher_is_better else 1
        _, start = self._teacher
        reached = [
            sign * self.valid(self._made(v, start, train=self._shortly).module) for v in some
        ]
        order = sorted(range(len(some)), key=reached.__getitem__)
        return [some[i] for i in order[:FINALISTS]]

    def _shortly(self, module: nn.Module, quantizer: StraightThrough | None) -> None:
        short = replace(self.recipe, epochs=math.ceil(self.recipe.epochs / _SHORT))
        self._fit(module, self._taught(module), quantizer, short)

    @cached_property
    def _starts(self) -> tuple[State, ...]:
        """The network as it is, and trained on at full width alone where that may help."""
        own = _copied(self.net)
        if self.net.levels:
            return (own,)
        with _holding(self.net, own):
            self._fit(self.net.model, self.task.loss, None, self.recipe)
            return own, _copied(self.net)

    def _taught(self, module: nn.Module) -> DistillObjective:
        return taught_by(self.teacher, module, self.task)

    def _fit(
        self,
        module: nn.Module,
        loss: DistillObjective | Criterion,
        quantizer: StraightThrough | None,
        recipe: Recipe,
    ) -> None:
        fit(
            module,
            self.train,
            loss,
            recipe=recipe,
            compress=quantizer,
            run=RunConfig(seed=self.seed, progress=self.progress),
        )

    def _trained(
        self, variant: Variant, start: State, most: int | None, widen: bool
    ) -> Iterator[CompressedModel]:
        for _ in range(_TRIES):
            made = self._made(variant, start, train=self.whole)
            if most is None or made.bytes <= most:
                yield made
            if most is None or _FULL * most < made.bytes <= most:
                break
            resized = self._resized(variant, self._size(variant) * 0.995 * most / made.bytes)
            if resized == variant or (made.bytes <= most and not widen):
                break
            variant = resized

    def _made(self, variant: Variant, start: State, train: Train | None) -> CompressedModel:
        with _holding(self.net, start):
            return apply(self.net, variant, prepare=self.prepare, train=train)

    def _resized(self, variant: Variant, most: float) -> Variant:
        """All axes wider or narrower by one factor, so that an untrained file takes so many bytes.

        The same, where that takes a factor out of all reason.
        """
        widths = {**self.net.full(), **variant.widths}
        axes = {a: axis for a, axis in self.net.free.items() if axis.inner_of is None}

        def scaled(percent: int) -> Variant:
            some = {a: axis.near(widths[a] * percent / 100) for a, axis in axes.items()}
            return Variant(Widths({**widths, **some}), variant.sparsity, variant.bits)

        count = bisect.bisect_right(_SCALES, most, key=lambda percent: self._size(scaled(percent)))
        return scaled(_SCALES[count - 1]) if count else variant

    def _size(self, variant: Variant) -> int:
        """Bytes of its file before it is trained."""
        return apply(self.net, variant, calibration="minmax", recalibrate=False).bytes


def _copied(net: Elastic) -> State:
    return copy.deepcopy(net.model.state_dict())


@contextmanager
def _holding(net: Elastic, values: State) -> Iterator[None]:
    """The network has these values; afterwards its own again, where it was."""
    own, device = _copied(net), next(net.parameters()).device
    try:
        net.model.load_state_dict(values)
        yield
    finally:
        net.to(device).eval()
        net.model.load_state_dict(own)


def candidates(best_first: Sequence[Variant]) -> list[Variant]:
    """The best two variants of each of a few numbers of bits, the best of all first.

    A moment's training tells little of how far those in few bits get.
    """
    by_bits: dict[int, list[Variant]] = {}
    for variant in best_first:
        by_bits.setdefault(_bits(variant), []).append(variant)
    some = [variant for each in list(by_bits.values())[:_BITS] for variant in each[:_OF_EACH]]
    return sorted(some, key=best_first.index)


def _bits(variant: Variant) -> int:
    """The mean over its quantized tensors, rounded."""
    bits = [form.bits for form in variant.bits.values() if isinstance(form, Uniform)]
    return round(sum(bits) / len(bits)) if bits else 32
