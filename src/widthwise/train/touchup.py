"""What a cut network can still gain in seconds.

    small = net.cut(widths)                              # a plain module with its own parameters
    refit_output_(small, train, F.cross_entropy)          # its last linear layer, by least squares
    distill(small, net, train, recipe=Recipe(epochs=2))  # all of it, taught by the full network

Both change the cut network in place, are functions of their seed, and leave the network it was cut
from as it is. What comes back is one variant more: the other widths gain nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn
from torch.nn import functional as F

from widthwise.common.calling import outputs_for
from widthwise.elastic.network import Elastic
from widthwise.elastic.recalibration import remember, remembered
from widthwise.errors import DataError, TrainingError
from widthwise.measure.data import Items, Stream, adapt
from widthwise.measure.pairs import takes
from widthwise.quantization import StraightThrough
from widthwise.train.batches import evaluating, in_order, own_randomness, placed
from widthwise.train.config import RunConfig
from widthwise.train.fit import fit
from widthwise.train.history import History
from widthwise.train.implied import implied
from widthwise.train.job import module_of
from widthwise.train.losses import Objective, name_of
from widthwise.train.recipe import Recipe
from widthwise.train.teaching import Criterion, Distill, DistillLoss, Teaching

_SOFT = Distill()
BRIEF: Final = Recipe(epochs=2, batch_size=256, lr=1e-3)
"""The training that `distill` is by default."""
_FASTEST, _SPEED, _POWER = 8.0, 1.5, 0.4  # of small networks beside the full one


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
        pull: weight of half the squared distance from the weights as they were, which keeps a refit
            on few items from running away.
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
class Teacher:
    """A network that teaches, and what its students learn from its outputs.

    Args:
        net: an Elastic at full width, or any module. It runs in evaluation mode, on the device
            where the outputs of the students are, and is left as and where it was; on several
            devices, it stays there.
        how: as `SandwichLoss` takes `distill`, None for the criterion alone; a criterion is needed
            when `how.hard` is above 0.
        criterion: the training's, from which follows what is distilled, as for `SandwichLoss`.
            Without one it follows from the targets: classes mean a cross entropy, and in all other
            cases the squared difference of the outputs is what is made small.
        distill_loss: as for `SandwichLoss`.

    Raises:
        ValueError: For a hard share without a criterion.

    Example:
        distill(small, Teacher(net, criterion=F.cross_entropy), train)
    """

    net: nn.Module
    how: Distill | None = _SOFT
    criterion: Criterion | None = None
    distill_loss: DistillLoss | None = None

    def __post_init__(self) -> None:
        if self.how is not None and self.how.hard_weight > 0 and self.criterion is None:
            raise ValueError("Distill.hard is above 0; give the criterion that the hard share has.")


def distill(
    cut: nn.Module | Sequence[nn.Module],
    teacher: nn.Module | Teacher,
    data: Any,
    *,
    recipe: Recipe = BRIEF,
    by_size: bool = False,
    quantizer: StraightThrough | None = None,
    seed: int = 0,
    progress: bool = False,
) -> History:
    """Train a cut network for a few epochs on the outputs of the network it was cut from.

    `fit` does the training, and its errors are raised.

    Args:
        cut: changed in place, and left in evaluation mode, on the device that `fit` trains on.
            Several are trained in one go, each as by itself but for its dropout, so that the data
            is read, and the full network run, only once; the loss in the history is then the sum.
        teacher: the full network, or a `Teacher` that says what is learned from it.
        data: as `fit` takes it.
        recipe: how long and how fast.
        by_size: train each network the faster the smaller it is beside its teacher: up to eight
            times.
        quantizer: of the cut network, or of an `nn.ModuleList` of several: their weights are then
            quantized, at every step and in the end, and `quantizer.record` is what `save` takes.
        seed: of the order of the data and of dropout.
        progress: show it.

    Returns:
        What the training was like.

    Raises:
        TrainingError: Where there is nothing to learn, as the two networks give the same outputs.

    Example:
        distill(net.cut(0.5), net, train, recipe=Recipe(epochs=2, lr=1e-3))
    """
    taught_by = teacher if isinstance(teacher, Teacher) else Teacher(teacher)
    net = taught_by.net
    students, trained = _several(cut)
    objective = DistillObjective(students, taught_by)
    if by_size:
        objective.speeds = _speeds(students, net, listed=trained is not students[0])
    with own_randomness():
        source = adapt(data, takes(net if isinstance(net, Elastic) else students[0]))
    run = RunConfig(seed=seed, progress=progress)
    with evaluating(net), _brought_back(net):
        history = fit(trained, source, objective, recipe=recipe, compress=quantizer, run=run)
    for each in {module_of(net), *students} - {trained}:
        if not remembered(each):
            remember(each, remembered(trained))
    return history


def _several(cut: nn.Module | Sequence[nn.Module]) -> tuple[list[nn.Module], nn.Module]:
    """The networks, and the module to train: one of them, or a list in which they are."""
    if isinstance(cut, nn.ModuleList):
        return list(cut), cut
    if isinstance(cut, nn.Module):
        return [cut], cut
    return list(cut), cut[0] if len(cut) == 1 else nn.ModuleList(cut)


def _speeds(students: Sequence[nn.Module], net: nn.Module, *, listed: bool) -> dict[str, float]:
    """How much faster narrow networks are trained, by parameter name as `distill` trains them.

    listed: whether their parameters are named in a list of them.

    Adam's steps are as large whatever the width, and what they change in the outputs grows with it
    (Yang et al., "Tensor Programs V", 2022): narrow networks take larger ones. The power was found
    on validation data of an MLP and a CNN (`bench/family.py`).
    """
    whole = sum(p.numel() for p in net.parameters())
    found: dict[str, float] = {}
    for i, student in enumerate(students):
        share = sum(p.numel() for p in student.parameters()) / whole
        prefix = f"{i}." if listed else ""
        speed = min(_FASTEST, max(1.0, _SPEED * share**-_POWER))
        found |= {prefix + name: speed for name, _ in student.named_parameters()}
    return found


class DistillObjective(Objective):
    """The loss of networks on the outputs of another one, summed over them."""

    def __init__(
        self,
        students: Sequence[nn.Module],
        teacher: Teacher,
    ) -> None:
        net, how = teacher.net, teacher.how
        own = {id(p) for p in net.parameters()}
        if any(id(p) in own for student in students for p in student.parameters()):
            raise TrainingError(
                "The network to train shares its weights with the one that teaches it, so that "
                "there is nothing to learn; train a cut of it, net.cut(widths)."
            )
        self.students = list(students)
        self.net = net
        self.how = how
        self.criterion = teacher.criterion
        self.distill_loss = teacher.distill_loss
        self._soft = how is not None and how.hard_weight == 0
        self.teaching: Teaching | None = None  # decided at the first batch

    def __call__(self, inputs: Any, target: Any) -> Tensor:
        _follow(self.net, (next(self.students[0].parameters(), None), inputs))
        teacher = _Ran(self.net, inputs)
        first = self.teaching is None
        with torch.no_grad():
            teaching = self.teaching or self._teaching(teacher, target)
            self.teaching = teaching
            _, lesson = teaching.full(teacher, target)
        losses = []
        for each in self.students:
            student = _Ran(each, inputs)
            losses.append(lesson(student, target))
            if first and self._soft and _equal(student.outputs, teacher.outputs):
                raise TrainingError(
                    "The network to train gives the very outputs of the one that teaches it, so "
                    "that there is nothing to learn; cut it narrower, or leave the distillation "
                    "out."
                )
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def _teaching(self, teacher: _Ran, target: Any) -> Teaching:
        criterion, distill_loss = self.criterion, self.distill_loss
        if criterion is None:
            criterion, own = implied(teacher(), target)
            distill_loss = distill_loss or own
        return Teaching(criterion, self.how, distill_loss)

    def settings(self) -> dict[str, Any]:
        return {"loss": "taught", "by": name_of(type(self.net))}


class _Ran:
    """A network's pass over one batch, whose outputs are looked at again."""

    def __init__(self, net: nn.Module, inputs: Any) -> None:
        self.net, self.inputs = net, inputs
        self.outputs: Any = None

    def __call__(self) -> Any:
        self.outputs = outputs_for(self.net, self.inputs)
        return self.outputs


def _equal(some: Any, others: Any) -> bool:
    """Whether all tensors in two outputs are the same; False where nobody can tell."""
    pairs = list(zip(pytree.tree_leaves(some), pytree.tree_leaves(others), strict=False))
    tensors = [(a, b) for a, b in pairs if isinstance(a, Tensor) and isinstance(b, Tensor)]
    return bool(tensors) and all(not a.is_meta and torch.equal(a, b) for a, b in tensors)


def _devices(net: nn.Module) -> set[torch.device]:
    return {tensor.device for tensor in (*net.parameters(), *net.buffers())}


def _follow(net: nn.Module, values: Any) -> None:
    """Move a network to the device of the first tensor among these values."""
    device = next((x.device for x in pytree.tree_leaves(values) if isinstance(x, Tensor)), None)
    found = _devices(net)
    if device is not None and len(found) == 1 and found != {device}:
        net.to(device)


@contextmanager
def _brought_back(net: nn.Module) -> Iterator[None]:
    """The network is afterwards on the device where it was, if it was on one."""
    before = _devices(net)
    try:
        yield
    finally:
        if len(before) == 1:
            net.to(before.pop())


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
    """Minimise the criterion, plus the pull, by L-BFGS; put the best back into the layer."""
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
