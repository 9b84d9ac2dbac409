"""Reconstruction: what a feature costs when those that stay make up for it.

Optimal Brain Surgeon (Hassibi & Stork, 1993) on whole features, as in ZipLM (Kurtic et al., 2023):
where a layer z = W x reads the features x, of second moments G = E[x x'], removing feature j and
moving the other weights in least squares changes z by

    sum_o f_o w_oj^2 / P_jj,     P = G^-1,      then  W -= w_j P_j / P_jj,   P -= P_j' P_j / P_jj

and half of it, weighted by the squared derivative f_o of the loss by each output, is the second
order change of the loss. Features are taken away one after another, the cheapest first, each
knowing what went before, and a feature's score is what it cost when it went.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx

from widthwise.elastic import Elastic
from widthwise.importance.features import entries_of, find_gates
from widthwise.importance.gradients import (
    Batches,
    Criterion,
    nonempty,
    output_slopes,
    per_sample,
)
from widthwise.importance.linear import Reader, linear_readers
from widthwise.importance.lockstep import Side, flattened
from widthwise.importance.progress import finite, shown
from widthwise.importance.scores import obd
from widthwise.measure.modes import evaluating

_ROUNDS = 512  # the features of an axis leave in at most so many rounds


def reconstruction(
    net: Elastic,
    batches: Batches,
    criterion: Criterion,
    *,
    ridge: float = 1e-3,
    progress: bool = False,
) -> dict[str, Tensor]:
    """The second-order change of the loss when a feature goes and the rest makes up for it.

    Scores rise in the order in which features go, so that sorting by them gives that order. Axes
    that are read by anything but linear layers and convolutions get the scores of `obd`, which are
    in the same unit but know of no compensation.

    ridge: added to the second moments, relative to their mean. In memory are, for each layer, the
    squared number of the features that it reads.
    """
    layers = _gather(net, batches, criterion, progress)
    found: dict[str, Tensor] = {}
    for name, gate in find_gates(net).items():
        if all(place.tensor in layers for place in gate.held):
            readings = [
                _Reading(layers[place.tensor], place.feature, gate.size, ridge)
                for place in gate.held
                if layers[place.tensor].reader.reading_dim == place.dim
            ]
            if len(readings) == len(gate.held):
                found[name] = _eliminate(gate.size, readings)
    if len(found) < len(net.free):
        others = obd(net, batches, criterion, progress=progress)
        found = {name: found.get(name, others[name]) for name in net.free}
    return finite({name: value.float() for name, value in found.items()})


@dataclass
class _Layer:
    """What is known of a layer that reads features.

    weight: of the layer. moments: sum of x x' over rows, (features, features). slopes: sum over
    samples and rows of the squared derivative of a sample's loss by each output, (outputs,).
    """

    reader: Reader
    weight: Tensor
    moments: Tensor
    slopes: Tensor
    rows: int = 0
    samples: int = 0


def _gather(
    net: Elastic, batches: Batches, criterion: Criterion, progress: bool
) -> dict[str, _Layer]:
    """Run the network with derivatives on all batches; the layers by the name of their weight."""
    program, state = net.evaluation.program, net.state()
    layers: dict[str, _Layer] = {}
    for reader in linear_readers(program):
        weight = state[reader.weight].detach()
        reads, makes = weight.shape[reader.reading_dim], weight.shape[1 - reader.reading_dim]
        sums = [torch.zeros(n, dtype=torch.float64, device=weight.device) for n in (reads, makes)]
        layers[reader.weight] = _Layer(reader, weight, torch.outer(sums[0], sums[0]), sums[1])
    if not layers:
        return layers
    for inputs, target in shown(nonempty(batches), batches, "reconstruction", progress):
        with evaluating(net.model), torch.enable_grad():
            _add(net, layers, inputs, target, criterion)
    return layers


def _add(
    net: Elastic, layers: Mapping[str, _Layer], inputs: Any, target: Any, criterion: Criterion
) -> None:
    """Count one batch."""
    program = net.evaluation.program
    of = {layer.reader.node: layer for layer in layers.values()}
    state = {name: t.detach() for name, t in net.state().items()}
    side = Side(program.graph, list(program.state.values()), state, [flattened(program, inputs)])
    made: dict[fx.Node, Tensor] = {}
    for node in program.graph.nodes:
        if node.op != "call_function":
            continue
        side.run(node)
        if node in of:
            layer, (z,) = of[node], side[node]
            rows = layer.reader.features(side[layer.reader.source][0].detach()).double()
            layer.moments += rows.T @ rows
            layer.rows += len(rows)
            made[node] = z if z.requires_grad else z.requires_grad_()
            side.values[0][node] = made[node].clone()  # which operators may overwrite
        side.forget(node)
    _add_slopes(program, side, of, made, target, criterion)


def _add_slopes(
    program: Any,
    side: Side,
    of: Any,
    made: dict[fx.Node, Tensor],
    target: Any,
    criterion: Criterion,
) -> None:
    (end,) = program.graph.find_nodes(op="output")
    outputs = [side[n][0] if isinstance(n, fx.Node) else n for n in end.args[0]]
    reached = output_slopes(pytree.tree_unflatten(outputs, program.out_spec), target, criterion)
    samples = max(len(x) if x.dim() else 1 for x, _ in reached)
    each = torch.full((samples,), float(samples))
    given = [per_sample(g, each.to(g)) for _, g in reached]
    slopes = torch.autograd.grad(
        [x for x, _ in reached], list(made.values()), given, allow_unused=True
    )
    for node, slope in zip(made, slopes, strict=True):
        layer = of[node]
        layer.samples += samples
        if slope is not None:
            layer.slopes += layer.reader.features(slope.double().square()).sum(dim=0)


class _Reading:
    """A layer that reads the features of an axis, while they are taken away one by one.

    weights: (outputs x window, columns), columns what the layer reads, each row scaled by the root
    of the loss' squared derivative. inverse: of the second moments, (columns, columns).
    blocks: (features, columns of a feature) int64, the columns that a feature lies in.
    """

    def __init__(self, layer: _Layer, feature: Tensor, size: int, ridge: float) -> None:
        reader = layer.reader
        weight = layer.weight.double().movedim(reader.reading_dim, -1)  # (outputs, window, columns)
        columns = weight.shape[-1]
        scale = (layer.slopes / layer.samples).sqrt()
        if reader.kind == "matrix":
            weight = weight.reshape(-1, columns) * scale.unsqueeze(1)
        else:
            weight = weight.reshape(len(scale), -1, columns) * scale.view(-1, 1, 1)
        self.weights = weight.reshape(-1, columns)
        moments = layer.moments / layer.rows
        pull = ridge * moments.diagonal().mean().clamp(min=1e-12)
        eye = torch.eye(columns, dtype=moments.dtype, device=moments.device)
        self.inverse = torch.linalg.inv(moments + pull * eye)
        self.blocks = entries_of(feature, size).to(moments.device)

    def costs(self, features: Tensor) -> Tensor:
        """What taking away each of these features alone would cost, (len(features),)."""
        at = self.blocks[features]  # (F, E)
        inner = self.inverse[at.unsqueeze(2), at.unsqueeze(1)]  # (F, E, E)
        read = self.weights[:, at].movedim(0, -1)  # (F, E, rows)
        costs: Tensor = (read * torch.linalg.solve(inner, read)).sum(dim=(1, 2)) / 2
        return costs

    def remove(self, features: Tensor) -> None:
        """Take features away, and let the others make up for them."""
        at = self.blocks[features].flatten()
        inner = torch.linalg.inv(self.inverse[at.unsqueeze(1), at])
        across = inner @ self.inverse[at]
        self.weights -= self.weights[:, at] @ across
        self.inverse -= self.inverse[:, at] @ across


def _eliminate(size: int, readings: list[_Reading]) -> Tensor:
    """The scores of an axis' features: what each cost when it went, never falling, (size,)."""
    left = torch.arange(size, device=readings[0].inverse.device)
    scores = torch.zeros(size, dtype=torch.float64, device=left.device)
    some = -(-size // _ROUNDS)
    highest = scores.new_zeros(())
    while len(left):
        costs = torch.stack([reading.costs(left) for reading in readings]).sum(dim=0)
        order = costs.argsort(stable=True)
        gone = left[order[:some]]
        highest = torch.maximum(highest, costs[order[:some]].max())
        scores[gone] = highest
        left = left[order[some:]].sort().values
        if len(left):
            for reading in readings:
                reading.remove(gone)
    return scores


__all__ = ["reconstruction"]
