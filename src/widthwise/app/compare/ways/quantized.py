"""Methods that write all weights of a trained network in fewer bits, at certain sizes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial
from typing import Final

from torch import nn

from widthwise.app.compare.bench import Bench
from widthwise.app.compare.ways.made import Made
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


def all_sizes(bench: Bench, group: str) -> Iterator[Made]:
    """Every network of a group, at full width."""
    net = bench.net()
    if group == "bin and quant":
        yield from _bin_and_quant(bench, net)
    elif group == "gwk":
        yield from _gwk(bench, net)
    else:
        form = Uniform(int(group.split()[0]))
        made = partial(apply, net, _variant(net, dict.fromkeys(quantizable(net), form)))
        yield Made(group, made())
        yield Made(f"{group}, fine-tuned", made(train=bench.settled()))


def _variant(net: Elastic, forms: dict[str, Format]) -> Variant:
    return Variant(net.full(), {}, forms)


def _bin_and_quant(bench: Bench, net: Elastic) -> Iterator[Made]:
    for tolerance in _TOLERANCES:
        forms = few_values(net.model, bench.batches, bench.task.loss, tolerance=tolerance)
        yield Made("bin and quant", apply(net, _variant(net, {**forms})))


def _gwk(bench: Bench, net: Elastic) -> Iterator[Made]:
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
