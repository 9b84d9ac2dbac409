"""Running a captured graph on the model's own tensors, at any widths.

Tensors are looked up at every call, whatever replaced them meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import fx, nn

from widthwise.graph.axes import Axes
from widthwise.graph.capture.captured import Captured
from widthwise.graph.capture.form import Form
from widthwise.graph.capture.program import Program
from widthwise.graph.rewrite import elastic_graph
from widthwise.graph.sharded import gathered
from widthwise.graph.shared import split_graph
from widthwise.graph.switches import Switches


class Runners:
    """The elastic graphs of a model for one form of call, in both modes.

    scale: whether what is kept is multiplied by full size / width.
    """

    def __init__(self, model: nn.Module, captured: Captured, scale: bool) -> None:
        self.model, self.captured = model, captured
        self.scaled = frozenset(captured.relations.consumed) if scale else frozenset()
        programs = [related.program for related in captured.relations.programs]
        # A graph of evaluation that serves training too has all switches as in evaluation.
        alone = all(program.graph is programs[0].graph for program in programs)
        self.runners = {
            related.program.training: Runner(
                model,
                replace(related.program, training=False) if alone else related.program,
                captured.axes,
                elastic_graph(related, captured.axes, self.scaled),
            )
            for related in captured.relations.programs
        }
        self.many: Runner | None = None

    def each(self, many: Iterable[Mapping[str, int]], inputs: list[Any]) -> Iterator[Any]:
        """The outputs at each of the widths; what all of them share is run once."""
        if self.many is None:
            axes = self.captured.axes
            related = next(r for r in self.captured.relations.programs if not r.program.training)
            shared, rest = split_graph(related, axes, self.scaled)
            self.many = Runner(self.model, related.program, axes, rest, shared)
        return self.many.each(many, inputs)


class Runner:
    """An elastic graph ready to run on the model's own tensors."""

    def __init__(
        self,
        model: nn.Module,
        program: Program,
        axes: Axes,
        graph: fx.Graph,
        shared: fx.Graph | None = None,
    ) -> None:
        self.model = model
        self.program = program
        self.sizes = {name: axis.size for name, axis in axes.free.items()}
        self.form = Form(model, program)
        self.constants = dict(program.constants)
        self.module = fx.GraphModule(nn.Module(), graph)
        self.shared = None if shared is None else fx.GraphModule(nn.Module(), shared)
        self.sources = [self._source(name) for name in program.state.values()]
        self.switches = [Switches(model, program, g) for g in (graph, shared) if g is not None]
        self.device: torch.device | None = None
        self._place()

    def __call__(self, widths: Mapping[str, int], inputs: list[Any]) -> Any:
        """The outputs at these widths for the inputs that `form` made of a call."""
        state = self._state()  # first: it may put another module in the place of this one
        outputs = self.module(*self._in_order(widths), *state, *inputs)
        return pytree.tree_unflatten(outputs, self.program.out_spec)

    def each(self, many: Iterable[Mapping[str, int]], inputs: list[Any]) -> Iterator[Any]:
        """The outputs at each of the widths; the shared part is run once."""
        assert self.shared is not None
        inputs = [*self._state(), *inputs]
        with torch.no_grad():
            given = self.shared(*inputs)
        sums: dict[int, Any] = {}
        for widths in many:
            with torch.no_grad():
                outputs = self.module.forward(*self._in_order(widths), *inputs, *given, sums)
            yield pytree.tree_unflatten(outputs, self.program.out_spec)

    def _in_order(self, widths: Mapping[str, int]) -> list[int]:
        """The width of every axis of this graph; one that only it has stays full."""
        return [widths.get(name, size) for name, size in self.sizes.items()]

    def _state(self) -> list[Any]:
        """The model's tensors as they are now; the graphs are told of its switches."""
        self._place()
        self.module = self.switches[0].thrown(self.module)
        if self.shared is not None:
            self.shared = self.switches[1].thrown(self.shared)
        return list(gathered([held[name] for held, name in self.sources]))

    def _place(self) -> None:
        """Be where the model is."""
        held, name = next(iter(self.sources), (None, ""))
        if held is not None and held[name].device != self.device:
            self._move(held[name].device)

    def _move(self, device: torch.device) -> None:
        """Operators that make tensors make them on the model's device."""
        for module in filter(None, (self.module, self.shared)):
            moved = False
            for node in module.graph.nodes:
                if node.kwargs.get("device", device) != device:
                    node.kwargs = {**node.kwargs, "device": device}
                    moved = True
            if moved:
                module.recompile()
        self.constants.update({name: t.to(device) for name, t in self.constants.items()})
        self.device = device

    def _source(self, name: str) -> tuple[dict[str, Any], str]:
        """Where a tensor is held, so that it is found at every call, whatever replaced it."""
        if name in self.constants:
            return self.constants, name
        path, _, last = name.rpartition(".")
        module = self.model.get_submodule(path)
        held: dict[str, Any] = module._parameters if last in module._parameters else module._buffers
        return held, last
