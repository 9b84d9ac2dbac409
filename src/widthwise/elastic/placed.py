"""Layers of structural dropout that the user has placed by hand: on which side of an activation.

    behind = placed(model, relations, axes, state)      # {"fc1"}: its scale is behind the GELU
    scaled_dims(relations, axes, behind)

`Elastic` captures a model as if they were not there, so what they show at half their width is
compared with what cuts compute, on the example, with random weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn
from torch.func import functional_call

from widthwise.elastic.scaling import in_front, operator, scaled_dims
from widthwise.errors import CaptureError
from widthwise.graph.axes import Axes
from widthwise.graph.capture.diagnostics import in_words
from widthwise.graph.capture.preflight import kept_state, silently, twin
from widthwise.graph.capture.program import Program
from widthwise.graph.cut import cut_state
from widthwise.graph.proof import random_like
from widthwise.graph.relate import Related, Relations
from widthwise.graph.rewrite import cut_graph
from widthwise.graph.rules.op import module_path
from widthwise.sampling.draws import Draw

_CLOSE: Final = 1e-4  # of the largest output


@runtime_checkable
class Layer(Protocol):
    """Structural dropout that the user has placed by hand (`train.layer.StructuralDropout`)."""

    draw: Draw
    dim: int
    width: int | None


def placed(
    model: nn.Module, relations: Relations, axes: Axes, state: Mapping[str, Tensor]
) -> frozenset[str]:
    """See on the example where layers placed by hand have their scale.

    Returns:
        The axes whose scale is behind an activation, as `scaled_dims` takes them.

    Raises:
        CaptureError: for a layer that shows what no cut computes, as in front of a sigmoid.
    """
    if any(t.is_meta for t in state.values()):
        return frozenset()
    mine = twin(model).eval()
    layers = {n: m for n, m in mine.named_modules() if isinstance(m, Layer) and _scales(m)}
    behind: set[str] = set()
    if layers:
        check = _Check(mine, relations, axes, _other_weights(mine, state))
        with kept_state(model), silently():
            if not _alike(check.outputs(), check.outputs()):
                return frozenset()  # nothing can be compared
            for name, layer in layers.items():
                behind |= check.behind(name, layer)
    return frozenset(behind)


def _other_weights(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Random tensors in the place of the model's own: zeros and ones would hide differences."""
    generator = torch.Generator().manual_seed(0)
    own = {n for n, _ in [*model.named_parameters(), *model.named_buffers()]}
    made = {
        id(t): random_like(t.detach().cpu(), generator).to(t)
        for n, t in state.items()
        if n in own and (t.is_floating_point() or t.is_complex())
    }
    return {name: made.get(id(t), t.detach()) for name, t in state.items()}


def _scales(layer: Layer) -> bool:
    return isinstance(layer.draw, Draw) and layer.draw.scale


@dataclass
class _Check:
    """Compares what layers show with cuts, on the example.

    model: in evaluation mode. state: of its tensors, by name, what it is compared with.
    """

    model: nn.Module
    relations: Relations
    axes: Axes
    state: Mapping[str, Tensor]

    def behind(self, name: str, layer: Layer) -> set[str]:
        """The axis that a layer cuts, if its scale is behind an activation. Raises CaptureError."""
        size = self._features(layer)
        axes = [a for a in self.axes.free.values() if a.size == size and not a.inner_of]
        axes = [a for a in axes if not a.tied and a.near(a.size // 2) < a.size]
        widths = {a.near(a.size // 2) for a in axes}
        for width in widths:
            layer.width = width
            shown = self.outputs()
            layer.width = None
            for after in (False, True):
                for axis in axes:
                    where = {axis.name} if after else set()
                    if _alike(shown, self._cut({axis.name: width}, where)):
                        return where
        if not axes:
            return set()  # it is no axis that it cuts
        fronts = [in_front(self.relations, self.axes, axis.name) for axis in axes]
        raise CaptureError(_refusal(name, [n for f in fronts if f for n in f.activations]))

    def _features(self, layer: Layer) -> int:
        sizes: list[int] = []
        assert isinstance(layer, nn.Module)
        hook = layer.register_forward_pre_hook(lambda m, args: sizes.append(_size(args[0], m.dim)))
        try:
            self.outputs()
        finally:
            hook.remove()
        return sizes[0] if len(set(sizes)) == 1 else 0

    def _example(self) -> list[Any]:
        device = next(iter(self.state.values())).device
        leaves = self._program.example
        return [x.to(device) if isinstance(x, Tensor) else x for x in leaves]

    @property
    def _related(self) -> Related:
        return next(r for r in self.relations.programs if not r.program.training)

    @property
    def _program(self) -> Program:
        return self._related.program

    def outputs(self) -> list[Any]:
        """What the model gives for the example."""
        args, kwargs = pytree.tree_unflatten(self._example(), self._program.in_spec)
        own = [*self.model.named_parameters(), *self.model.named_buffers()]
        tensors = {name: self.state[name] for name, _ in own if name in self.state}
        return list(pytree.tree_leaves(functional_call(self.model, tensors, args, kwargs)))

    def _cut(self, widths: Mapping[str, int], behind: set[str]) -> list[Any]:
        kept = self.axes.complete(widths)
        scaled = scaled_dims(self.relations, self.axes, behind)
        state = cut_state(self.relations, self.axes, kept, self.state, scaled)
        module = fx.GraphModule(nn.Module(), cut_graph(self._related, self.axes, kept))
        tensors = [state[name] for name in self._program.state.values()]
        return list(pytree.tree_leaves(module(*tensors, *self._example())))


def _size(x: Tensor, dim: int) -> int:
    return x.shape[dim] if -x.dim() <= dim < x.dim() else 0


def _alike(some: list[Any], others: list[Any]) -> bool:
    if len(some) != len(others):
        return False
    pairs = [(a, b) for a, b in zip(some, others, strict=True) if isinstance(a, Tensor)]
    return all(
        a.shape == b.shape and bool(((a - b).abs() <= _CLOSE * a.abs().max()).all())
        for a, b in pairs
        if a.is_floating_point() and a.numel()
    )


def _refusal(name: str, activations: list[fx.Node]) -> str:
    """Why no cut computes what a layer shows."""
    if not activations:
        return (
            f"No cut computes what the StructuralDropout {name!r} shows at a smaller width; place "
            "it right behind the layer that makes the features of one axis, or behind its "
            "activation, once for each axis."
        )
    node = activations[0]
    return (
        f"No cut computes what the StructuralDropout {name!r} shows at a smaller width, for the "
        f"features that it zeroes go through {operator(node)}{_line(node)}; place it behind that."
    )


def _line(node: fx.Node) -> str:
    """The user's line that called an operator, or the module that did."""
    lines = re.findall(r'File "([^"]+)", line (\d+)', node.stack_trace or "")
    own = [(f, n) for f, n in lines if not Path(f).is_relative_to(Path(torch.__file__).parent)]
    path = module_path(node)
    if own:
        return in_words(own[-1][0], int(own[-1][1]))
    return f" in {path!r}" if path else ""
