"""Scores from the weights, and from derivatives of the loss by them.

Each is a statistic of the contributions of `gradients.py`, of gates or of single weights:

    taylor     mean of c^2                  c = g w, with the derivative g of a batch's loss
    obd        mean of s                    s = h w^2 / 2, with a curvature h
    obd_sd     mean of s + spread of s      over batches
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from widthwise.elastic.network import Elastic
from widthwise.graph.sharded import summed
from widthwise.measure.data import read
from widthwise.pruning.scores.gates import find_gates, opened, per_feature
from widthwise.pruning.scores.gradients import (
    Batches,
    Criterion,
    Weights,
    curvatures,
    signed_slopes,
    slopes,
    tensors_of,
)
from widthwise.pruning.scores.progress import finite, shown

Of = Literal["features", "weights"]
Curvature = Literal["fisher", "hutchinson"]
Scores = dict[str, Tensor]


def random(net: Elastic, *, of: Of = "features", seed: int = 0) -> Scores:
    """Random scores, uniform in 0..1: the yardstick of all others.

    Args:
        net: the network, left as it is.
        of: "features" or single "weights".
        seed: of the numbers.

    Returns:
        (size,) for each axis, or a tensor of its shape for each parameter; float32.
    """
    generator = torch.Generator().manual_seed(seed)
    shapes = _Kind(net, of).shapes()
    return {name: torch.rand(shape, generator=generator) for name, shape in shapes.items()}


def magnitude(net: Elastic, *, of: Of = "features", norm: Literal[1, 2] = 2) -> Scores:
    """The norm of all weights of a feature, those that make it and those that read it.

    Of a single weight its absolute value.

    Args:
        net: the network, left as it is.
        of: "features" or single "weights".
        norm: 1 is the sum of absolute values, 2 the root of the sum of squares.

    Returns:
        (size,) for each axis, or a tensor of its shape for each parameter; float32.

    References:
        Li et al., "Pruning Filters for Efficient ConvNets", 2017.
    """
    tensors = tensors_of(net.model)
    if of == "weights":
        return finite({name: t.abs() for name, t in tensors.items()})
    gates = find_gates(net, everywhere=True)
    sums = per_feature(gates, {n: t.abs() ** norm for n, t in tensors.items()})
    return finite({name: value ** (1 / norm) for name, value in sums.items()})


def taylor(
    net: Elastic,
    batches: Batches,
    criterion: Criterion,
    *,
    of: Of = "features",
    progress: bool = False,
) -> Scores:
    """The square of the first-order change of the loss, averaged over batches.

    (sum of g w)^2 over the weights of a gate, with g the derivative of the batch's mean loss.

    Args:
        net: the network, left as it is.
        batches: (inputs, target), gone through once, in evaluation mode.
        criterion: (outputs, target) -> mean loss.
        of: "features" or single "weights".
        progress: a bar on standard error.

    Returns:
        (size,) for each axis, or a tensor of its shape for each parameter; float32.

    Raises:
        ScoreError: When there is no batch, or the loss cannot be used.

    References:
        Molchanov et al., "Importance Estimation for Neural Network Pruning", 2019.
    """
    kind = _Kind(net, of)
    stream = shown(slopes(net.model, read(batches, net), criterion), batches, "taylor", progress)
    mean, _ = _moments(_squares(kind.reduced(c)) for c in stream)
    return finite(mean)


def obd(
    net: Elastic,
    batches: Batches,
    criterion: Criterion,
    *,
    of: Of = "features",
    curvature: Curvature = "fisher",
    seed: int = 0,
    progress: bool = False,
) -> Scores:
    """Half the diagonal second derivative of the loss times the squared weight.

    Optimal Brain Damage (LeCun, Denker, Solla, 1989). The weight of a feature is its gate, 1.

    Args:
        curvature: "fisher" takes the mean square of the samples' first derivatives for the second
            (empirical Fisher information; one backward pass for each batch, see `signed_slopes`),
            which is never negative; "hutchinson" takes the Hessian along random signs (Hutchinson,
            1990; two backward passes), whose estimates may be.
    """
    mean, _ = _moments(_saliencies(net, batches, criterion, of, curvature, seed, progress))
    return finite(mean)


def obd_sd(
    net: Elastic,
    batches: Batches,
    criterion: Criterion,
    *,
    of: Of = "features",
    curvature: Curvature = "hutchinson",
    spread: float = 0.5,
    seed: int = 0,
    progress: bool = False,
) -> Scores:
    """OBD plus `spread` times the standard deviation of its saliency over batches.

    mean_b(s_b) + spread x sd_b(s_b), with the saliency s_b = h_b w^2 / 2 as batch b estimates it.
    What varies from batch to batch matters to some of the data, so only what is reliably
    unimportant goes first. This is our reading of the letters SD in Harang & Sanders, "Magnificent
    Minified Models" (2023), whose formula we could not obtain. Of the readings tried, curvature and
    spread are by default those with the highest accuracy on validation data.

    Args:
        curvature: as `obd` takes it; "fisher" takes half the time.
        spread: 0 is `obd`.
    """
    mean, deviation = _moments(_saliencies(net, batches, criterion, of, curvature, seed, progress))
    return finite({name: value + spread * deviation[name] for name, value in mean.items()})


def _saliencies(
    net: Elastic,
    batches: Batches,
    criterion: Criterion,
    of: Of,
    curvature: Curvature,
    seed: int,
    progress: bool,
) -> Iterator[Scores]:
    """h w^2 / 2 as each batch estimates it."""
    kind, generator = _Kind(net, of), torch.Generator().manual_seed(seed)
    if curvature == "fisher":
        signed = signed_slopes(net.model, read(batches, net), criterion, generator)
        for contribution, samples in shown(signed, batches, "Fisher information", progress):
            squares = _squares(kind.reduced(contribution))
            yield {name: value / (2 * samples) for name, value in squares.items()}
        return
    signs: Scores = {}

    def directions(tensors: Mapping[str, Tensor]) -> Weights:
        for name, shape in kind.shapes().items():
            signs[name] = torch.randint(0, 2, shape, generator=generator) * 2.0 - 1.0
        return kind.directions(signs, tensors)

    curved = curvatures(net.model, read(batches, net), criterion, directions)
    for contribution in shown(curved, batches, "curvature", progress):
        reduced = kind.reduced(contribution)
        yield {name: value * signs[name].to(value) / 2 for name, value in reduced.items()}


class _Kind:
    """What is scored: the gates of features, or single weights."""

    def __init__(self, net: Elastic, of: Of) -> None:
        self.net = net
        self.gates = find_gates(net) if of == "features" else None

    def shapes(self) -> dict[str, torch.Size]:
        """The shape of the scores, by axis or by tensor."""
        if self.gates is not None:
            return {name: torch.Size([gate.size]) for name, gate in self.gates.items()}
        return {name: t.shape for name, t in tensors_of(self.net.model).items()}

    def reduced(self, weights: Weights) -> Scores:
        """What is known of weights as it is known of what is scored."""
        return weights if self.gates is None else per_feature(self.gates, weights)

    def directions(self, signs: Scores, tensors: Mapping[str, Tensor]) -> Weights:
        """How the weights move when what is scored moves by these signs, relative to its value."""
        if self.gates is None:
            return {name: t.detach() * signs[name].to(t) for name, t in tensors.items()}
        along = opened(self.gates, signs, tensors, add=True)
        return {name: tensors[name].detach() * d.to(tensors[name]) for name, d in along.items()}


def _squares(values: Scores) -> Scores:
    return {name: value.square() for name, value in values.items()}


def _moments(stream: Iterable[Scores]) -> tuple[Scores, Scores]:
    """Mean and standard deviation over batches, in memory of twice the scores (Welford, 1962)."""
    count, mean, squares = 0, {}, {}
    for scores in stream:
        count += 1
        for name, value in scores.items():
            if count == 1:
                mean[name], squares[name] = value.clone(), torch.zeros_like(value)
                continue
            away = value - mean[name]
            mean[name] += away / count
            squares[name] += away * (value - mean[name])
    return mean, {name: (value / count).sqrt() for name, value in squares.items()}


def averaged(scores: Mapping[str, Tensor]) -> Scores:
    """The mean over the processes of torch.distributed, which all ask for it.

        averaged(taylor(net, my_share_of_the_batches, criterion))

    With as many batches for each, the mean of `taylor` is the score on all of them, and of `obd`
    an estimate as good; a spread (`obd_sd`) or a median has no such mean.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return dict(scores)
    return {name: summed(value) / dist.get_world_size() for name, value in scores.items()}
