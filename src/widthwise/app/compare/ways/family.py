"""Cuts of one training along levels, post-processed as `widthwise cut` does it, or in few bits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Final

from torch import nn

from widthwise.app.compare.bench import Bench
from widthwise.app.compare.method import BITS, Made, Method
from widthwise.app.runs.postprocessing import (
    PostProcess,
    PostProcessing,
    post_process,
    teach_in_bits,
)
from widthwise.elastic.network import Elastic
from widthwise.quantization import StraightThrough, Uniform
from widthwise.variant import Variant, Widths
from widthwise.variants import CompressedModel, apply
from widthwise.variants.sizing import coded, fitted, widest_file


def cuts(bench: Bench, budget: int, bits: int | None = None) -> Iterator[Made]:
    """The widest network along the levels that fits: as cut and post-processed, or in few bits.

    Quantized ones are made as `widthwise cut --bits` makes them.
    """
    net = bench.net()
    form = Uniform(bits) if bits else None
    variant = partial(coded, net, form)
    if form is None:
        widths = widest_file(net, variant, budget)
        if widths is None:
            return
        post_processed = partial(_post_processed, bench, net)
        yield Made("family", apply(net, variant(widths), prepare=bench.calibrated))
        yield Made("family, post-processed", apply(net, variant(widths), prepare=post_processed))
        return
    found = fitted(
        [budget],
        partial(widest_file, net, variant),
        lambda kept: [_in_bits(bench, net, variant(widths)) for widths in kept],
    )
    for made in found.values():
        yield Made(f"family {bits} bits", made)


def _in_bits(bench: Bench, net: Elastic, variant: Variant) -> CompressedModel:
    task = replace(bench.task, recipe=bench.spec.recipe(bench.task))
    train, seed = bench.data.train, bench.seed

    def teach(module: nn.Module, quantizer: StraightThrough | None) -> None:
        assert quantizer is not None
        teach_in_bits(module, net, task, train, quantizer, seed=seed)

    return apply(net, variant, prepare=bench.calibrated, train=teach)


def _post_processed(bench: Bench, net: Elastic, module: nn.Module, widths: Widths) -> nn.Module:
    """A cut, distilled from the full network."""
    module = bench.calibrated(module, widths)
    if net.complete(widths) == net.full() or bench.task.distill is None:
        return module
    task = replace(bench.task, recipe=bench.spec.recipe(bench.task))
    how = PostProcessing((PostProcess.DISTILL,))
    train, batches = bench.data.train, lambda: bench.batches
    post_process([module], net, [widths], task, train, how, batches, seed=bench.seed)
    return module


def _methods() -> list[Method]:
    what = "one training along levels"
    made = [
        Method("family", "family", "elastic", f"{what}, cut", cuts, "family"),
        Method(
            "family, post-processed",
            "family",
            "elastic",
            f"{what}, cut and post-processed",
            cuts,
            "family",
        ),
    ]
    for bits in BITS:
        name, label = f"family {bits} bits", f"{what}, post-processed, then in {bits} bits"
        made.append(Method(name, name, "elastic", label, partial(cuts, bits=bits), "family"))
    return made


METHODS: Final = tuple(_methods())
