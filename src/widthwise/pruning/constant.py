"""Features that are the same whatever the input: dead ones, and ones that a bias can stand for.

    values = constants(net, batches)["fc1"]      # (256,) float64: 0 where dead, NaN where it varies
    values = constants_by_weights(net)["fc1"]    # without data: of features that no weight makes

A feature that is always 0 is not needed by what reads it. One that is always c is not either, if
everything that reads it has a bias: b + W c.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import torch
from torch import Tensor

from widthwise.elastic.network import Elastic
from widthwise.graph.capture.form import Form
from widthwise.pruning.consumers import find_readers
from widthwise.pruning.linear import Reader, linear_readers
from widthwise.pruning.paired import flattened
from widthwise.pruning.scores.activations import every_reading, read_values
from widthwise.pruning.scores.gates import Gate, held
from widthwise.pruning.scores.gradients import nonempty
from widthwise.pruning.scores.progress import shown

_SAME: Final = 1e-6  # of its size: by how much a constant may vary, by rounding


def constants(
    net: Elastic, batches: Iterable[tuple[Any, Any]], *, progress: bool = False
) -> dict[str, Tensor]:
    """The values of features that are the same in all rows of all batches, wherever they are read.

    Returns:
        axis -> (features,) float64, NaN for those that vary; 0 only for what is exactly 0. Axes
        whose features no operator sums over are left out.

    Raises ScoreError as `moments` does.
    """
    form = Form(net.model, net.engine.evaluation.program)
    stream = shown(nonempty(batches, net), batches, "constants", progress)
    return _constants(net, (flattened(form, inputs) for inputs, _ in stream))


def constants_by_weights(net: Elastic) -> dict[str, Tensor]:
    """The same of features whose incoming weights are all zero, from the example alone."""
    found = _constants(net, [list(net.engine.evaluation.program.example)])
    readers, state = find_readers(net), net.engine.state()
    for name, values in found.items():
        axis = net.free[name]
        makers = [p for p in axis.places if (p.tensor, p.dim) not in readers.read]
        makers = [p for p in makers if state[p.tensor].dim() > 1]
        rows = [h.rows(state[h.tensor], axis.size) for h in held(net, name, makers)]
        made = torch.stack([row.any(1) for row in rows]).any(0) if rows else torch.ones(axis.size)
        values[made.bool().to(values.device)] = torch.nan
    return found


def _constants(net: Elastic, batches: Iterable[list[Any]]) -> dict[str, Tensor]:
    readings = every_reading(net)
    ranges: dict[str, tuple[Tensor, Tensor]] = {}

    def see(axis: str, features: Tensor) -> None:
        low, high = features.double().aminmax(dim=0)
        if axis in ranges:
            low, high = torch.minimum(low, ranges[axis][0]), torch.maximum(high, ranges[axis][1])
        ranges[axis] = low, high

    for leaves in batches:
        read_values(net, readings, leaves, see)
    found = {}
    for axis, (low, high) in ranges.items():
        same = high - low <= _SAME * torch.maximum(low.abs(), high.abs())
        found[axis] = torch.where(same, (low + high) / 2, torch.nan)
    return found


def biased_readers(net: Elastic, gates: Mapping[str, Gate]) -> dict[str, list[Reader]]:
    """The operators that read the features of an axis, where constants can go to their biases.

    That is where each of them is linear, has a bias of its own, and no padding between.
    """
    program = net.engine.evaluation.program
    by_place = {(r.weight, r.reading_dim): r for r in linear_readers(program) if r.bias is not None}
    found = {}
    for name, gate in gates.items():
        readers = [by_place.get((h.tensor, h.dim)) for h in gate.held]
        whole = [r for r in readers if r is not None and not r.padded]
        if len(whole) == len(gate.held):
            found[name] = whole
    return found
