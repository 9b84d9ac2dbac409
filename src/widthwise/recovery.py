"""A search whose variants are judged by how they recover, the best of which are trained on.

    recovery = Recovery(net, task, data.train, batches, Recipe(epochs=8), prepare=prepare)
    found = search(net, few, max_bytes=10_000, prepare=prepare, train=recovery.brief)
    made = recovery.best(found, evaluation, max_bytes=10_000)

What few bits and many zeros do to a network is mended by training, a moment of which tells where it
can be mended. The full network teaches.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from torch import nn
from torch.utils.data import Dataset

from widthwise.bits import StraightThrough
from widthwise.elastic import Elastic
from widthwise.formats import Uniform
from widthwise.measure.sweep import Evaluation
from widthwise.tasks.task import Task
from widthwise.train.batches import own_randomness
from widthwise.train.fit import fit
from widthwise.train.loop import loop
from widthwise.train.losses import Distill
from widthwise.train.recipe import Recipe
from widthwise.train.touchup import Taught
from widthwise.variant import Variant, Widths
from widthwise.vary import Applied, Found, apply
from widthwise.vary.apply import Prepare

FINALISTS: Final = 3
STEPS: Final = 60  # of a moment's training
_FULL: Final = 0.97  # of the budget: less is left to waste
_WIDER: Final = 60  # per cent, at most


@dataclass(frozen=True)
class Recovery:
    """How variants of a network are trained.

    train: its training data. batches: of these, for a moment's training in every trial. recipe: of
    the finalists' training. prepare: as the search is given it.
    """

    net: Elastic
    task: Task
    train: Dataset[Any]
    batches: Sequence[Any]
    recipe: Recipe
    prepare: Prepare | None = None
    seed: int = 0
    progress: bool = False

    def brief(self, module: nn.Module, quantizer: StraightThrough | None) -> None:
        """A moment's training, as `apply` takes it."""
        batches = self.batches[:STEPS]
        after = {} if quantizer is None else {"after": quantizer.step}
        with own_randomness():
            loop(module, batches, len(batches), self._taught(module), self.recipe, **after)

    def whole(self, module: nn.Module, quantizer: StraightThrough | None) -> None:
        """The training of a finalist."""
        fit(
            module,
            self.train,
            self._taught(module),
            recipe=self.recipe,
            quantizer=quantizer,
            seed=self.seed,
            progress=self.progress,
        )

    def best(
        self,
        found: Found,
        evaluation: Evaluation,
        *,
        max_bytes: int | None = None,
        widen: bool = True,
    ) -> Applied | None:
        """The best of the finalists, trained; None where none fits once it is.

        max_bytes: of its file. widen: try finalists whose trained codes leave room also as much
        wider; not where there are other limits, which that could break. Raises TrainingError.
        """
        best: Applied | None = None
        reached = 0.0
        sign = 1 if evaluation.metric.higher_is_better else -1
        for made in self._trained(finalists([t.variant for t in found.tried]), max_bytes, widen):
            value = sign * evaluation(made.module)
            if best is None or value > reached:
                best, reached = made, value
        return best

    def _taught(self, module: nn.Module) -> Taught:
        return Taught(module, self.net.eval(), Distill(hard=0.5), self.task.loss, None)

    def _trained(
        self, variants: Sequence[Variant], most: int | None, widen: bool
    ) -> Iterator[Applied]:
        for variant in variants:
            made = self._made(variant)
            if most is None or made.bytes <= most:
                yield made
            if most is None or made.bytes > _FULL * most or not widen:
                continue
            room = self._size(variant) * 0.995 * most / made.bytes
            wider = self._widened(variant, room)
            if wider != variant:
                again = self._made(wider)
                if again.bytes <= most:
                    yield again

    def _made(self, variant: Variant) -> Applied:
        return apply(self.net, variant, prepare=self.prepare, train=self.whole)

    def _widened(self, variant: Variant, most: float) -> Variant:
        """All axes wider by the same factor, as far as an untrained file takes no more bytes."""
        full = self.net.full()

        def wider(percent: int) -> Variant:
            factor = 1 + percent / 100
            widths = {a: min(full[a], round(w * factor)) for a, w in variant.widths.items()}
            kept = Widths({a: self.net.free[a].near(w) for a, w in widths.items()})
            return Variant(kept, variant.sparsity, variant.bits)

        sizes = range(_WIDER)  # per cent more
        count = bisect.bisect_right(sizes, most, key=lambda percent: self._size(wider(percent)))
        return wider(count - 1) if count > 1 else variant

    def _size(self, variant: Variant) -> int:
        """Bytes of its file before it is trained."""
        return apply(self.net, variant, calibration="minmax").bytes


def finalists(best_first: Sequence[Variant]) -> list[Variant]:
    """The best variant, and the best of those in other numbers of bits.

    A moment's training tells little of how far those in few bits get.
    """
    by_bits: dict[int, Variant] = {}
    for variant in best_first:
        by_bits.setdefault(_bits(variant), variant)
    return list(by_bits.values())[:FINALISTS]


def _bits(variant: Variant) -> int:
    """The mean over its quantized tensors, rounded."""
    bits = [form.bits for form in variant.bits.values() if isinstance(form, Uniform)]
    return round(sum(bits) / len(bits)) if bits else 32
