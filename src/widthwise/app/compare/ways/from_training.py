"""Methods with a training of their own for every budget."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Final

import torch
from torch import nn

from widthwise.app.compare.bench import Bench
from widthwise.app.compare.method import BITS, Made, Method
from widthwise.app.compare.ways.from_trained import sparsest, weight_scores
from widthwise.app.runs.postprocessing import initialise
from widthwise.elastic.network import Elastic
from widthwise.pruning.gradual import Gradual, GradualPruner, prunable
from widthwise.quantization import Uniform
from widthwise.train.batches import own_randomness, planned
from widthwise.variant import Variant
from widthwise.variants import CompressedModel, apply
from widthwise.variants.sizing import coded, widest_file

_TRIES: Final = 6
_FULL: Final = 0.97  # of the budget: less is left to waste


def small_dense(bench: Bench, budget: int, bits: int | None = None) -> Iterator[Made]:
    """The widest network that fits, trained from new weights; then quantized, straight-through.

    How wide a quantized one may be is seen on the trained network of full width, cut and quantized.
    Its own codes take other bytes, mostly fewer: where there is room, or too little of it, another
    one is trained that is wider or narrower by as much.
    """
    net = bench.net()
    form = Uniform(bits) if bits else None
    variant = partial(coded, net, form)
    target: float = budget
    best: CompressedModel | None = None
    for _ in range(_TRIES):
        widths = widest_file(net, variant, target)
        if widths is None or (best is not None and best.variant == variant(widths)):
            break
        made = _trained(bench, net, variant(widths))
        fits = made.bytes <= budget
        if fits and (best is None or made.bytes > best.bytes):
            best = made
        if fits and (not bits or made.bytes > _FULL * budget or widths == net.full()):
            break
        target *= 0.995 * budget / made.bytes
    if best is not None:
        yield Made(f"small-dense {bits} bits" if bits else "small-dense", best)


def _trained(bench: Bench, net: Elastic, variant: Variant) -> CompressedModel:
    small = bench.train(initialise(net.cut(variant.widths, recalibrate=False), bench.seed))
    train = bench.settled() if variant.bits else None
    return apply(net, variant, prepare=lambda module, widths: small, train=train)


def gradual(bench: Bench, budget: int, dpf: bool = False) -> Iterator[Made]:
    """Pruned in training to as many zeros as the budget takes, from new weights.

    How many is seen on the trained network, pruned by magnitude; what the training leaves too much
    goes by magnitude at its end, without training.
    """
    net = bench.net()
    found = sparsest(net, net.model, weight_scores(bench, net, "magnitude"), budget)
    if found is None:
        return
    sizes = {n: p.numel() for n, p in net.model.named_parameters()}
    pruned = sum(share * sizes[n] for n, share in found.sparsity.items())
    with own_randomness():
        torch.manual_seed(bench.seed)
        model = bench.task.model().train()
    fresh = Elastic(
        model, bench.task.example(), seed=bench.seed, constraints=bench.task.constraints
    )
    pruner = _pruner(bench, fresh, pruned, dpf=dpf)
    bench.train(fresh.model, pruner=pruner)
    scores = weight_scores(bench, fresh, "magnitude")
    variant = sparsest(fresh, fresh.model, scores, budget)
    if variant is not None:
        name = "gradual pruning with feedback" if dpf else "gradual pruning"
        yield Made(name, apply(fresh, variant, score=lambda module: scores))


def _pruner(bench: Bench, net: Elastic, pruned: float, dpf: bool) -> GradualPruner:
    """pruned: how many weights are to become zero."""
    recipe = bench.spec.recipe(bench.task)
    steps = planned(bench.data.train, recipe.batch_size, bench.seed).steps * recipe.epochs
    share = min(pruned / _prunable(net.model), 0.999)
    return Gradual(share, scope=bench.spec.scope, dpf=dpf).pruner(net, steps)


def _prunable(module: nn.Module) -> int:
    named = dict(module.named_parameters())
    return sum(named[name].numel() for name in prunable(module))


def _small_dense() -> list[Method]:
    what = "trained from scratch at a small width"
    made = [Method("small-dense", "small-dense", "small-dense", f"{what}, float32", small_dense)]
    for bits in BITS:
        name, label = f"small-dense {bits} bits", f"{what}, then in {bits} bits"
        made.append(Method(name, name, "small-dense", label, partial(small_dense, bits=bits)))
    return made


def _gradual(name: str, label: str, dpf: bool) -> Method:
    return Method(name, name, "gradual pruning", label, partial(gradual, dpf=dpf))


SMALL_DENSE: Final = tuple(_small_dense())
GRADUAL: Final = (
    _gradual("gradual pruning", "pruned gradually in training", False),
    _gradual(
        "gradual pruning with feedback", "pruned gradually in training with feedback (DPF)", True
    ),
)
