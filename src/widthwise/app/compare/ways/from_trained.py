"""Methods that take features or weights from a network that is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Final

import torch
from torch import Tensor, nn

from widthwise import pruning
from widthwise.app.compare.bases import Kind
from widthwise.app.compare.bench import Bench
from widthwise.app.compare.method import Made, Make, Method
from widthwise.elastic.network import Elastic
from widthwise.errors import ScoreError
from widthwise.pruning import keep
from widthwise.pruning.gradual import lamp
from widthwise.pruning.scores import registry
from widthwise.train.batches import own_randomness
from widthwise.variant import Variant, Widths
from widthwise.variants import CompressedModel, apply
from widthwise.variants.apply import Prepare
from widthwise.variants.sizing import densest, widest


def cuts(bench: Bench, budget: int, kind: Kind) -> Iterator[Made]:
    """The widest cut that fits of a network trained for all widths: as cut, and post-processed.

    What was pruned in its training stays so, and is not stored.
    """
    net = bench.net()
    variant = partial(_with_zeros, net) if bench.base.kind == "elastic-sparse" else Variant
    widths = widest(net, lambda w: apply(net, variant(w), recalibrate=False).bytes <= budget)
    if widths is None:
        return
    made = partial(apply, net, variant(widths), prepare=bench.calibrated)
    yield Made(kind, made())
    yield Made(f"{kind}, post-processed", made(train=bench.tuned(teacher=net)))


def _with_zeros(net: Elastic, widths: Widths) -> Variant:
    """A cut with the zeros that it has."""
    named = net.cut(widths, recalibrate=False).named_parameters()
    zeros = {name: float((p == 0).float().mean()) for name, p in named if p.dim() >= 2}
    return Variant(widths, {name: share for name, share in zeros.items() if 0 < share < 1})


def _widest(net: Elastic, budget: int) -> Widths | None:
    return widest(net, lambda w: apply(net, Variant(w), recalibrate=False).bytes <= budget)


def neurons(bench: Bench, budget: int, score: str, allocated: bool = False) -> Iterator[Made]:
    """Features removed by a score, all axes by the same share; as cut and fine-tuned.

    allocated: each axis has its own share, by the scores, and the cut is reconstructed.
    """
    net = bench.net()
    scores = registry.score(net, score, bench.batches, bench.task.loss, seed=bench.seed)
    widths = pruning.allocate(net, scores, max_bytes=budget) if allocated else None
    pruning.order_(net, scores)
    widths = widths or _widest(net, budget)
    if widths is None:
        return
    prepare = partial(_reconstructed, bench, net) if allocated else bench.calibrated
    yield from _tuned(bench, f"neurons {score}", net, widths, prepare)


def merged(bench: Bench, budget: int) -> Iterator[Made]:
    """Similar features made one, all axes cut by the same share; as cut and fine-tuned."""
    net = bench.net()
    widths = _widest(net, budget)
    if widths is None:
        return
    small = pruning.merge(net, widths, bench.batches)
    prepare: Prepare = lambda module, widths: bench.calibrated(small, widths)  # noqa: E731
    yield from _tuned(bench, "neurons merge", net, widths, prepare)


def _tuned(
    bench: Bench, name: str, net: Elastic, widths: Widths, prepare: Prepare
) -> Iterator[Made]:
    """A cut as it is, and fine-tuned."""
    as_cut = apply(net, Variant(widths), prepare=prepare)
    yield Made(name, as_cut)
    yield Made(f"{name}, fine-tuned", _again(net, as_cut, bench))


def _reconstructed(bench: Bench, net: Elastic, module: nn.Module, widths: Widths) -> nn.Module:
    return pruning.reconstruct_(module, net, widths, bench.batches)


def _again(net: Elastic, made: CompressedModel, bench: Bench) -> CompressedModel:
    """The same network, fine-tuned."""
    return apply(net, made.variant, prepare=lambda module, widths: made.module, train=bench.tuned())


def weights(bench: Bench, budget: int, score: str) -> Iterator[Made]:
    """Single weights removed by a score, in the whole network: as cut, tuned, from scratch."""
    net = bench.net()
    scores = weight_scores(bench, net, score)
    variant = sparsest(net, net.model, scores, budget)
    if variant is None:
        return
    made = partial(apply, net, variant, score=lambda module: scores)
    name = f"weights {score}"
    yield Made(name, made())
    yield Made(f"{name}, fine-tuned", made(train=bench.tuned()))
    with own_randomness():
        torch.manual_seed(1_000 + bench.seed)
        fresh = bench.task.model()
    anew = made(
        prepare=lambda module, widths: fresh, train=lambda module, quantizer: bench.train(module)
    )
    yield Made(f"{name}, from scratch", anew)


def weight_scores(bench: Bench, net: Elastic, score: str) -> dict[str, Tensor]:
    """Scores of single weights, on one scale for all tensors, so that these can compete."""
    scores = registry.score(
        net, score, bench.batches, bench.task.loss, of="weights", seed=bench.seed
    )
    if registry.find(score, "weights").scope == bench.spec.scope == "lamp":
        return {name: lamp(value) for name, value in scores.items()}
    return scores


def sparsest(
    net: Elastic, module: nn.Module, scores: Mapping[str, Tensor], budget: int
) -> Variant | None:
    """The fewest zeros with which a module's file fits, as the share of each tensor.

    module: of the net at full width. scores: of weights, which compete in the whole network.
    """

    def variant(share: float) -> Variant:
        masks = keep(scores, share)
        shares = {n: 1 - int(m.sum()) / m.numel() for n, m in masks.items()}
        return Variant(net.full(), {n: s for n, s in shares.items() if s > 0})

    def fits(share: float) -> bool:
        try:
            some = variant(share)
        except ScoreError:  # nothing would be left of a tensor
            return False
        made = apply(net, some, prepare=lambda m, w: _copy(net, module), score=lambda m: scores)
        return made.bytes <= budget

    # With too many zeros it does not "fit" either, so that the upper end is looked for first.
    most = _most(scores)
    share = densest(lambda s: fits(min(s, most)))
    return None if share is None else variant(min(share, most))


def _most(scores: Mapping[str, Tensor]) -> float:
    """The largest share of zeros with which every tensor keeps a weight."""
    pruned = [value.flatten() for value in scores.values() if value.dim() >= 2]
    least = min(float(value.max()) for value in pruned)
    every = torch.cat(pruned)
    return max(0.0, (int((every < least).sum()) - 1) / len(every))


def _copy(net: Elastic, module: nn.Module) -> nn.Module:
    """A module like the net's cut at full width, with the values of `module`."""
    made = net.cut(net.full())
    made.load_state_dict(module.state_dict())
    return made


_HOW: Final = {  # what each score is to a reader
    "random": "at random",
    "magnitude": "by absolute value",
    "activation": "by activation",
    "dropout-ablation": "by dropout ablation",
    "taylor": "by first-order Taylor",
    "obd": "by OBD",
    "obd-sd": "by OBD-SD",
}
_OF_WEIGHTS: Final = ("random", "magnitude", "taylor", "obd", "obd-sd")


def _elastic(kind: Kind, what: str) -> list[Method]:
    make = partial(cuts, kind=kind)
    return [
        Method(kind, kind, "elastic", f"{what}, cut", make, kind),
        Method(
            f"{kind}, post-processed",
            kind,
            "elastic",
            f"{what}, cut and post-processed",
            make,
            kind,
        ),
    ]


def _neurons(name: str, how: str, make: Make) -> list[Method]:
    what = f"neurons removed {how}"
    return [
        Method(name, name, "neurons", what, make),
        Method(f"{name}, fine-tuned", name, "neurons", f"{what}, then fine-tuned", make),
    ]


def _weights(score: str) -> list[Method]:
    name, make = f"weights {score}", partial(weights, score=score)
    what = f"single weights removed {_HOW[score]}"
    scratch = f"{what}, trained from new weights"
    return [
        Method(name, name, "weights", what, make),
        Method(f"{name}, fine-tuned", name, "weights", f"{what}, then fine-tuned", make),
        Method(f"{name}, from scratch", name, "weights", scratch, make),
    ]


ELASTIC: Final = (
    *_elastic("published", "structural dropout's draws, by the task's recipe"),
    *_elastic("elastic", "sandwich passes at equal shares"),
    *_elastic("elastic-sparse", "sandwich passes, pruned gradually to 80 % zeros at every width"),
)
NEURONS: Final = (
    *(
        m
        for s, how in _HOW.items()
        for m in _neurons(f"neurons {s}", how, partial(neurons, score=s))
    ),
    *_neurons(
        "neurons output-error",
        "by the error of the outputs, reconstructed",
        partial(neurons, score="output-error", allocated=True),
    ),
    *_neurons("neurons merge", "merged", merged),
)
WEIGHTS: Final = tuple(method for score in _OF_WEIGHTS for method in _weights(score))
