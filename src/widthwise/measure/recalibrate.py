"""Batch-norm statistics of a cut network, estimated anew.

The statistics that a network gathered at full width are not those of a narrow cut (Yu & Huang,
"Universally Slimmable Networks", 2019). Here they become the plain average over some batches of
training data, while dropout stays off and no weight changes.

Works for every module whose statistics are kept by torch's batch norm or instance norm layers (own
class), and for graph modules, whose batch-norm operators are run in training mode for the while.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _NormBase

from widthwise.errors import DataError
from widthwise.measure.data import pairs
from widthwise.measure.metric import outputs_for
from widthwise.measure.pairs import size_of

_OPERATORS = (torch.ops.aten.batch_norm.default, torch.ops.aten.instance_norm.default)


def recalibrate(module: nn.Module, batches: Iterable[tuple[Any, Any]]) -> nn.Module:
    """Estimate the statistics of a cut network anew, in place, on batches of training data.

    module: a cut network; returned in evaluation mode. One without statistics stays as it is.
    batches: pairs (inputs, target); about a hundred batches are plenty. Not random ones of size 1.

    Raises DataError when there is no batch.
    """
    module.eval()
    if not has_statistics(module):
        return module
    runner = _graph_with_momentum(module) if isinstance(module, fx.GraphModule) else module
    count = 0
    with torch.no_grad(), _gathering(runner):
        largest = 0
        for inputs, _ in pairs(batches, module):
            size = size_of(inputs) or 1
            largest = max(largest, size)
            if size == 1 < largest:
                continue  # a last batch of one has no statistics
            count += 1
            _set_momentum(runner, 1 / count)  # the running average over all batches so far
            outputs_for(runner, inputs)
    if not count:
        raise DataError(
            "There is no batch to estimate statistics on; give batches that can be gone through "
            "again, such as a DataLoader or a list."
        )
    return module


def has_statistics(module: nn.Module) -> bool:
    """Whether the module keeps running statistics that can be estimated anew."""
    if isinstance(module, fx.GraphModule):
        return any(_statistics(node) for node in module.graph.nodes)
    return any(_keeps(m) for m in module.modules())


def _keeps(module: nn.Module) -> bool:
    return isinstance(module, _NormBase) and module.running_mean is not None


def _statistics(node: fx.Node) -> list[fx.Node]:
    """The running mean and variance that an operator of a graph reads."""
    if node.target not in _OPERATORS:
        return []
    return [a for a in node.args[3:5] if isinstance(a, fx.Node)]


@contextmanager
def _gathering(module: nn.Module) -> Iterator[None]:
    """Norm layers in training mode, everything else in evaluation mode."""
    layers = [m for m in module.modules() if _keeps(m)]
    before = [(m, m.momentum) for m in layers if isinstance(m, _NormBase)]
    for layer, _ in before:
        layer.reset_running_stats()
        layer.training = True
    try:
        yield
    finally:
        for layer, momentum in before:
            layer.momentum = momentum
            layer.training = False


def _set_momentum(module: nn.Module, momentum: float) -> None:
    if isinstance(module, fx.GraphModule):
        holder: Any = module
        holder.momentum = momentum
    for layer in module.modules():
        if isinstance(layer, _NormBase):
            layer.momentum = momentum


def _graph_with_momentum(module: fx.GraphModule) -> fx.GraphModule:
    """The graph over the same tensors, its statistics updated at the rate `self.momentum`."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    output = graph.graph_copy(module.graph, copies)
    graph.output(output)
    graph.set_codegen(module.graph._codegen)
    for node in list(graph.nodes):
        if _statistics(node):
            with graph.inserting_before(node):
                rate = graph.create_node("get_attr", "momentum")
            # (input, weight, bias, mean, variance, training, momentum, ...)
            node.args = (*node.args[:5], True, rate, *node.args[7:])
    for target in {str(n.target) for node in graph.nodes for n in _statistics(node)}:
        module.get_buffer(target).zero_()  # so that no value from before, NaN say, remains
    holder: Any = module
    holder.momentum = 1.0
    try:
        made = fx.GraphModule(module, graph)
    finally:
        del holder.momentum
    return made.eval()


__all__ = ["has_statistics", "recalibrate"]
