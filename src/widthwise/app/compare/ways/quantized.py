"""Methods that write all weights of a trained network in fewer bits.

Their networks are of certain sizes, whatever the budget.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial
from typing import Final

from torch import nn

from widthwise.app.compare.bench import Bench
from widthwise.app.compare.method import BITS, Made, Make, Method
from widthwise.common.calling import outputs_for
from widthwise.elastic.network import Elastic
from widthwise.pruning import few_values, gradient_magnitude
from widthwise.quantization import Codebook, Format, SharedValues, Uniform, quantizable, quantize_
from widthwise.train.batches import planned, stream
from widthwise.train.loop import loop
from widthwise.variant import Variant
from widthwise.variants import CompressedModel, apply

_TOLERANCES: Final = (0.3, 0.1, 0.03, 0.01, 0.003)  # rises of the loss, Bin & Quant
_VALUES: Final = (64, 16, 8, 4, 2)  # of a codebook, GWK


def in_bits(bench: Bench, budget: int, bits: int) -> Iterator[Made]:
    """All weights in so many bits, as they are and fine-tuned."""
    net = bench.net()
    made = partial(apply, net, _variant(net, dict.fromkeys(quantizable(net), Uniform(bits))))
    yield Made(f"{bits} bits", made())
    yield Made(f"{bits} bits, fine-tuned", made(train=bench.settled()))


def _variant(net: Elastic, forms: dict[str, Format]) -> Variant:
    return Variant(net.full(), {}, forms)


def bin_and_quant(bench: Bench, budget: int) -> Iterator[Made]:
    """For each tensor the fewest shared values with which the loss rises little enough."""
    net = bench.net()
    for tolerance in _TOLERANCES:
        forms = few_values(net.model, bench.batches, bench.task.loss, tolerance=tolerance)
        yield Made("bin and quant", apply(net, _variant(net, {**forms})))


def gwk(bench: Bench, budget: int) -> Iterator[Made]:
    """Shared values by gradient-weighted k-means, as they are and fine-tuned."""
    net = bench.net()
    weights = gradient_magnitude(net.model, bench.batches, bench.task.loss)
    for values in _VALUES:
        form = Codebook(values)
        variant = _variant(net, dict.fromkeys(quantizable(net), form))
        module = net.cut(net.full())
        record = quantize_(module, form, weights=weights)
        # What has so few different weights keeps them when it is quantized once more.
        yield Made("gwk", _as_it_is(net, variant, copy.deepcopy(module)))
        _fine_tune(bench, module, SharedValues(module, record))
        yield Made("gwk, fine-tuned", _as_it_is(net, variant, module))


def _as_it_is(net: Elastic, variant: Variant, module: nn.Module) -> CompressedModel:
    return apply(net, variant, prepare=lambda cut, widths: module)


def _fine_tune(bench: Bench, module: nn.Module, values: SharedValues) -> None:
    """Train the shared values, and what is not quantized, as long as any fine-tuning."""
    recipe = bench.spec.settling(bench.task)
    data = bench.data.train
    plan = planned(data, recipe.batch_size, bench.seed)
    steps = plan.steps * recipe.epochs
    batches = [indices for epoch in range(recipe.epochs) for indices in plan.epoch(epoch)]
    loop(
        module,
        stream(data, batches, bench.seed, 0),
        steps,
        lambda inputs, target: bench.task.loss(outputs_for(module, inputs), target),
        recipe,
        before=values.sum_gradients,
        after=values.step,
    )


def _fixed(name: str, group: str, label: str, make: Make) -> Method:
    return Method(name, group, "bits", f"full width{label}", make, fixed=True)


def _methods() -> list[Method]:
    made = []
    for bits in BITS:
        name, make = f"{bits} bits", partial(in_bits, bits=bits)
        made += [
            _fixed(name, name, f" in {bits} bits", make),
            _fixed(f"{name}, fine-tuned", name, f" in {bits} bits, fine-tuned", make),
        ]
    return [
        *made,
        _fixed("bin and quant", "bin and quant", ", Bin & Quant", bin_and_quant),
        _fixed("gwk", "gwk", ", gradient-weighted shared values", gwk),
        _fixed("gwk, fine-tuned", "gwk", ", GWK, values fine-tuned", gwk),
    ]


METHODS: Final = tuple(_methods())
