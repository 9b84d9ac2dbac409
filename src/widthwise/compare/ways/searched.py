"""The searched combination of widths, zeros and bits, from one elastic training."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, Final

from torch import nn

from widthwise.bits import StraightThrough
from widthwise.compare.bench import Bench
from widthwise.compare.ways.loop import loop
from widthwise.compare.ways.made import Made
from widthwise.compare.ways.sizing import largest
from widthwise.elastic import Elastic
from widthwise.formats import Uniform
from widthwise.measure.sweep import Evaluation
from widthwise.train.losses import Distill
from widthwise.train.touchup import Taught
from widthwise.variant import Variant, Widths
from widthwise.vary import Applied, apply
from widthwise.vary.search import search as search_for

_STEPS: Final = 60  # of training in every trial: enough to see which variants recover
_VALIDATED: Final = 3_000  # items that trials are judged on
_FINALISTS: Final = 3  # that are trained on, of which the best on all validation data is taken
_FULL: Final = 0.97  # of the budget: less is left to waste


def search(bench: Bench, budget: int) -> Iterator[Made]:
    """The best on validation data of the few best variants of a search, trained on.

    Each is trained for as long as any training. Trained codes take fewer bytes than those that the
    search saw, so the finalists are then widened by as much.
    """
    net = bench.net()
    found = search_for(
        net,
        Evaluation(_some(bench), bench.task.metric),
        max_bytes=budget,
        prepare=bench.calibrated,
        train=partial(_brief, bench, net),
        trials=bench.spec.trials,
        seed=bench.seed,
    )
    best: Applied | None = None
    reached = 0.0
    for made in _trained(bench, net, _finalists([t.variant for t in found.tried]), budget):
        value = bench.valid(made.module)
        if best is None or bench.better(value, reached):
            best, reached = made, value
    if best is not None:
        yield Made("search", best)


def _finalists(best_first: list[Variant]) -> list[Variant]:
    """The best variant, and the best of those in other numbers of bits: a moment's training tells
    little of how far those in few bits get."""
    by_bits: dict[int, Variant] = {}
    for variant in best_first:
        by_bits.setdefault(_bits(variant), variant)
    return list(by_bits.values())[:_FINALISTS]


def _bits(variant: Variant) -> int:
    """The mean over its quantized tensors, rounded."""
    bits = [form.bits for form in variant.bits.values() if isinstance(form, Uniform)]
    return round(sum(bits) / len(bits)) if bits else 32


def _trained(bench: Bench, net: Elastic, variants: list[Variant], budget: int) -> Iterator[Applied]:
    """Those that fit once they are trained."""
    train = bench.tuned(bench.spec.recipe(bench.task), net)
    for variant in variants:
        made = apply(net, variant, prepare=bench.calibrated, train=train)
        if made.bytes <= budget:
            yield made
        if made.bytes < _FULL * budget:
            before = apply(net, variant).bytes
            wider = _widened(net, variant, before * budget * 0.995 / made.bytes)
            if wider != variant:
                again = apply(net, wider, prepare=bench.calibrated, train=train)
                if again.bytes <= budget:
                    yield again


def _widened(net: Elastic, variant: Variant, target: float) -> Variant:
    """All axes wider by the same factor, as far as an untrained file stays within the target."""
    full = net.full()

    def wider(percent: int) -> Variant:
        widths = {
            a: min(full[a], round(w * (1 + percent / 100))) for a, w in variant.widths.items()
        }
        return Variant(Widths(net.complete(widths)), variant.sparsity, variant.bits)

    found = largest(range(1, 60), lambda percent: apply(net, wider(percent)).bytes <= target)
    return variant if found is None else wider(found)


def _some(bench: Bench) -> list[Any]:
    """The first batches of the validation data."""
    batches: list[Any] = []
    items = 0
    for batch in bench.evaluation("valid").again():
        batches.append(batch)
        items += len(batch[1])
        if items >= _VALIDATED:
            break
    return batches


def _brief(
    bench: Bench, net: Elastic, module: nn.Module, quantizer: StraightThrough | None
) -> nn.Module:
    """A few steps on the outputs of the full network."""
    batches = bench.statistics[:_STEPS]
    taught = Taught(module, net.eval(), Distill(hard=0.5), bench.task.loss, None)
    recipe = bench.spec.tuning(bench.task)
    after = {} if quantizer is None else {"after": quantizer.step}
    return loop(module, batches, len(batches), taught, recipe, **after)
