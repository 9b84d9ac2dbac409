"""Switches of a model's own layers that are thrown between calls, read at every call.

    norm.eval()                # frozen statistics, in a network that trains
    norm.momentum = None       # a plain mean of the batches, as weight averaging takes it
    dropout.p = 0.2            # a schedule

A captured graph holds what they were. They are part of what the model does, so a graph is told.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from widthwise.graph.capture.program import Program
from widthwise.graph.rules.op import module_path

aten = torch.ops.aten
_Setting = tuple[fx.Node, int, Callable[[], Any]]


class Switches:
    """What the operators of one graph take from layers: (node, argument, how to read it)."""

    def __init__(self, model: nn.Module, program: Program, graph: fx.Graph) -> None:
        self.graph = graph
        self.model, self.mode = model, program.training
        self.settings: list[_Setting] = []
        norms: list[_NormBase] = []
        counted: set[_NormBase] = set()
        modules = dict(model.named_modules())
        for node in graph.nodes:
            if node.target is aten.batch_norm.default:
                layer = modules.get(_owner(node.args[3], program))
                # Without statistics of its own a norm takes the batch's in either mode.
                if isinstance(layer, _NormBase) and layer.track_running_stats:
                    self.settings.append((node, 5, partial(self._training, layer)))
                    self.settings.append((node, 6, partial(_momentum, layer, norms.count(layer))))
                    norms.append(layer)
            elif node.target is aten.add_.Tensor:
                layer = modules.get(_owner(node.args[0], program))
                if isinstance(layer, _NormBase):
                    self.settings.append((node, 1, partial(self._counts, layer)))
                    counted.add(layer)
            elif node.target in (aten.dropout.default, aten.dropout_.default):
                layer = modules.get(module_path(node))
                if isinstance(layer, _DropoutNd):
                    self.settings.append((node, 1, partial(getattr, layer, "p")))
                    self.settings.append((node, 2, partial(self._training, layer)))
        # The graph of evaluation does not count batches; some adapt their norms in it.
        self.uncounted = [layer for layer in norms if layer not in counted]
        self.now = [node.args[i] for node, i, _ in self.settings]

    def thrown(self, module: fx.GraphModule) -> fx.GraphModule:
        """The module of this graph that does what its layers say now."""
        wanted = [read() for _, _, read in self.settings]
        if wanted != self.now:
            module = self._set(wanted)
        for layer in self.uncounted:
            if self._training(layer) and layer.num_batches_tracked is not None:
                layer.num_batches_tracked.add_(1)
        return module

    def _training(self, layer: nn.Module) -> bool:
        """A layer's mode, where the model is in the graph's mode; else the graph's."""
        return layer.training if self.model.training == self.mode else self.mode

    def _counts(self, layer: nn.Module) -> int:
        return int(self._training(layer))

    @torch.compiler.disable
    def _set(self, wanted: list[Any]) -> fx.GraphModule:
        for (node, i, _), value in zip(self.settings, wanted, strict=True):
            node.args = (*node.args[:i], value, *node.args[i + 1 :])
        self.now = wanted
        # Another module, since a compiled network would not notice that this one was changed.
        return fx.GraphModule(nn.Module(), self.graph)


def _momentum(layer: _NormBase, before: int) -> float:
    """The momentum of a layer that has run so often before in the same call."""
    if layer.momentum is not None:
        return float(layer.momentum)
    counted = layer.num_batches_tracked
    return 0.0 if counted is None else 1.0 / (int(counted) + before + 1)


def _owner(value: Any, program: Program) -> str:
    """The path of the layer that holds a statistic; a name that no layer has for other values."""
    while isinstance(value, fx.Node) and value.op == "call_function" and value.args:
        value = value.args[0]  # a slice of it
    name = program.state.get(value.name, "") if isinstance(value, fx.Node) else ""
    return name.rpartition(".")[0] if name.endswith(_STATISTICS) else "?"


_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
