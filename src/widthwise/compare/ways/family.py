"""Cuts of one training along levels, touched up as `widthwise cut` does it, or in few bits too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from torch import nn

from widthwise.bits import Uniform, quantizable
from widthwise.compare.bench import Bench
from widthwise.compare.ways.made import Made
from widthwise.compare.ways.sizing import widest
from widthwise.elastic import Elastic
from widthwise.touchups import TouchUp, TouchUps, touch_up
from widthwise.variant import Variant, Widths
from widthwise.vary import apply


def cuts(bench: Bench, group: str, budget: int) -> Iterator[Made]:
    """The widest network along the levels that fits: as cut and touched up, or in few bits.

    Quantized ones are touched up in floats first, and then trained straight-through with the full
    network as the teacher.
    """
    net = bench.net()
    bits = [int(word) for word in group.split() if word.isdigit()]
    form = Uniform(bits[0]) if bits else None
    variant = partial(_variant, net, form)
    widths = widest(
        net,
        lambda w: apply(net, variant(w), calibration="minmax", recalibrate=False).bytes <= budget,
    )
    if widths is None:
        return
    touched = partial(_touched, bench, net)
    if form is None:
        yield Made("family", apply(net, variant(widths), prepare=bench.calibrated))
        yield Made("family, touched up", apply(net, variant(widths), prepare=touched))
        return
    settle = bench.tuned(bench.spec.settling(bench.task), teacher=net)
    made = apply(net, variant(widths), prepare=touched, train=settle)
    if made.bytes <= budget:  # codes of trained weights may take a few bytes more
        yield Made(group, made)


def _variant(net: Elastic, form: Uniform | None, widths: Widths) -> Variant:
    return Variant(widths, {}, dict.fromkeys(quantizable(net), form) if form else {})


def _touched(bench: Bench, net: Elastic, module: nn.Module, widths: Widths) -> nn.Module:
    """A cut, distilled from the full network."""
    module = bench.calibrated(module, widths)
    if net.complete(widths) == net.full() or bench.task.distill is None:
        return module
    task = replace(bench.task, recipe=bench.spec.recipe(bench.task))
    how = TouchUps((TouchUp.DISTILL,))
    train, batches = bench.data.train, lambda: bench.batches
    touch_up([module], net, [widths], task, train, how, batches, seed=bench.seed)
    return module
