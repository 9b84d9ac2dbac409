"""The last linear layer of a cut network, solved for the features that were kept.

    small = net.cut(widths)
    refit_output_(small, train, F.cross_entropy)          # by least squares

Changes the cut network in place and leaves the network it was cut from as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn
from torch.nn import functional as F

from widthwise.common.calling import outputs_for
from widthwise.common.modes import evaluating
from widthwise.errors import DataError, TrainingError
from widthwise.measure.data import Items, Stream, adapt
from widthwise.measure.pairs import takes
from widthwise.train.batches import in_order, own_randomness, placed
from widthwise.train.criteria import Criterion


@dataclass(frozen=True)
class Refit:
    """What a refit did. before, after: mean loss over the data, in evaluation mode."""

    before: float
    after: float


def refit_output_(
    cut: nn.Module,
    data: Any,
    criterion: Criterion,
    *,
    steps: int = 50,
    l2_to_start: float = 1e-3,
    batch_size: int = 1024,
    seed: int = 0,
) -> Refit:
    """Solve the last linear layer of a cut network for the features that were kept.

    The layer's inputs are computed once, in evaluation mode, and held in memory; L-BFGS then
    minimises the criterion over all the data.

    When nothing better is found the weights stay as they were.

    Args:
        cut: a module whose output is a linear layer's, (N, classes) or (N, T, classes).
        data: in any form that `fit` takes.
        criterion: (outputs, target) -> mean loss.
        steps: at most so many iterations.
        l2_to_start: weight of half the squared distance from the weights as they were, which
            keeps a refit on few items from running away.
        batch_size: items at a time.
        seed: of the data set's augmentation.

    Raises:
        TrainingError: When the network does not end in a linear layer of its own, or the loss is
            not finite.
    """
    with evaluating(cut), own_randomness():
        device = next(cut.parameters()).device
        source = adapt(data, takes(cut))
        layer = _last_linear(cut, _first(source, seed, device))
        kept = _features(layer, source, batch_size, seed)
    return _solve(layer, kept, criterion, steps, l2_to_start)


@dataclass(frozen=True)
class _Layer:
    """A linear layer. features: runs the network on a batch's inputs and gives what it reads."""

    weight: Tensor
    bias: Tensor | None
    features: Callable[[Any], Tensor]

    @property
    def tensors(self) -> list[Tensor]:
        """The weight, and the bias if there is one."""
        return [self.weight] if self.bias is None else [self.weight, self.bias]


def _last_linear(cut: nn.Module, inputs: Any) -> _Layer:
    """The linear layer that makes the network's output; raises TrainingError."""
    found = _in_graph(cut) if isinstance(cut, fx.GraphModule) else _in_modules(cut, inputs)
    if found is None:
        raise TrainingError(
            "The network does not end in a linear layer, so there is none to refit; use distill."
        )
    named = cut.named_parameters(remove_duplicate=False)
    if sum(any(p is t for t in found.tensors) for _, p in named) > len(found.tensors):
        raise TrainingError(
            "The last linear layer shares its weights with another layer, so that refitting it "
            "would change what it reads; use distill."
        )
    return found


def _in_modules(cut: nn.Module, inputs: Any) -> _Layer | None:
    """Among modules: the one whose output is, for a batch, the very tensor that comes out."""
    made: list[tuple[nn.Linear, Tensor]] = []

    def note(module: nn.Module, args: Any, output: Any) -> None:
        if type(module) is nn.Linear:
            made.append((module, output))

    with _hooked(cut, note), torch.no_grad():
        output = outputs_for(cut, inputs)
    makers = [module for module, made_ in made if made_ is output]
    if not makers:
        return None
    last = makers[0]

    def features(inputs: Any) -> Tensor:
        seen: list[Tensor] = []

        def note(module: nn.Module, args: tuple[Tensor, ...], output: Any) -> None:
            if module is last:
                seen.append(args[0])

        with _hooked(cut, note):
            outputs_for(cut, inputs)
        return seen[-1]

    return _Layer(last.weight, last.bias, features)


@contextmanager
def _hooked(module: nn.Module, note: Callable[..., None]) -> Iterator[None]:
    handles = [m.register_forward_hook(note) for m in module.modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _in_graph(cut: fx.GraphModule) -> _Layer | None:
    """In a graph: the node whose value comes out; its inputs come from a graph that ends there."""
    node = _only_output(cut.graph)
    if node is None or node.target is not torch.ops.aten.linear.default:
        return None
    named = dict(cut.named_parameters(remove_duplicate=False))
    weight, bias = (
        named.get(str(n.target)) if isinstance(n, fx.Node) else None
        for n in (node.args[1], node.args[2] if len(node.args) > 2 else None)
    )
    if weight is None or (bias is None and len(node.args) > 2 and node.args[2] is not None):
        return None
    reads = node.args[0]
    assert isinstance(reads, fx.Node)
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    graph.graph_copy(cut.graph, copies)
    (output,) = cut.graph.find_nodes(op="output")
    graph.output(fx.map_arg(output.args[0], lambda n: copies[reads]))
    graph.set_codegen(cut.graph._codegen)
    graph.eliminate_dead_code()
    trunk = fx.GraphModule(cut, graph).eval()
    return _Layer(weight, bias, lambda inputs: outputs_for(trunk, inputs))


def _only_output(graph: fx.Graph) -> fx.Node | None:
    """The node whose value is the one output, None when there are several."""
    (output,) = graph.find_nodes(op="output")
    leaves = pytree.tree_leaves(output.args)
    return leaves[0] if len(leaves) == 1 and isinstance(leaves[0], fx.Node) else None


def _first(data: Items | Stream, seed: int, device: torch.device) -> Any:
    """The inputs of a batch of the first two items."""
    first = next(iter(in_order(data, 2, seed)), None)
    if first is None:
        raise DataError("There is no batch to refit on; give data with items.")
    return placed(first.inputs, device)


@torch.no_grad()
def _features(
    layer: _Layer, data: Items | Stream, batch_size: int, seed: int
) -> list[tuple[Tensor, Any]]:
    """(what the layer reads, target) for every batch."""
    device = layer.weight.device
    return [
        (layer.features(placed(inputs, device)).detach(), placed(target, device))
        for inputs, target in in_order(data, batch_size, seed)
    ]


def _solve(
    layer: _Layer,
    held: list[tuple[Tensor, Any]],
    criterion: Criterion,
    steps: int,
    l2_to_start: float,
) -> Refit:
    """Minimise the criterion, plus the distance, by L-BFGS; put the best back into the layer."""
    old = [p.detach().clone() for p in layer.tensors]
    new = [p.clone().requires_grad_() for p in old]
    items = sum(len(x) for x, _ in held)
    optimizer = torch.optim.LBFGS(new, max_iter=steps, line_search_fn="strong_wolfe")

    def mean(tensors: list[Tensor], backward: bool) -> float:
        total = 0.0
        for x, target in held:
            # Batch by batch, so that the outputs of all items are never held at once.
            loss = criterion(F.linear(x, *tensors), target) * (len(x) / items)
            if backward:
                loss.backward()
            total += loss.item()
        return total

    def closure() -> float:
        optimizer.zero_grad()
        with torch.enable_grad():
            away = torch.stack([(a - b).square().sum() for a, b in zip(new, old, strict=True)])
            penalty = away.sum() * (l2_to_start / 2)
            penalty.backward()
            return mean(new, backward=True) + penalty.item()

    with torch.no_grad():
        before = mean(old, backward=False)
        if not math.isfinite(before):
            raise TrainingError(
                f"The mean loss of the cut network is {before}; look for values in the data or in "
                "its weights that are not finite."
            )
    optimizer.step(closure)
    with torch.no_grad():
        after = mean(new, backward=False)
        if not after < before:  # not even when it is not a number
            return Refit(before, before)
        for parameter, value in zip(layer.tensors, new, strict=True):
            parameter.copy_(value)
    return Refit(before, after)
