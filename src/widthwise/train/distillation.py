"""What a cut network can still gain in seconds.

    small = net.cut(widths)                              # a plain module with its own parameters
    refit_output_(small, train, F.cross_entropy)          # its last linear layer, by least squares
    distill(small, net, train, recipe=Recipe(epochs=2))  # all of it, taught by the full network

Both change the cut network in place, are functions of their seed, and leave the network it was cut
from as it is. What comes back is one variant more: the other widths gain nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from widthwise.common.calling import outputs_for
from widthwise.common.modes import evaluating
from widthwise.elastic.network import Elastic
from widthwise.elastic.recalibration import remember, remembered
from widthwise.errors import TrainingError
from widthwise.measure.data import adapt
from widthwise.measure.pairs import takes
from widthwise.quantization import StraightThrough
from widthwise.train.batches import own_randomness
from widthwise.train.config import RunConfig
from widthwise.train.criteria import Criterion
from widthwise.train.fit import fit
from widthwise.train.history import History
from widthwise.train.implied import implied
from widthwise.train.job import module_of
from widthwise.train.losses import Objective, name_of
from widthwise.train.recipe import Recipe
from widthwise.train.teaching import Distill, DistillLoss, Teaching

_SOFT = Distill()
BRIEF: Final = Recipe(epochs=2, batch_size=256, lr=1e-3)
"""The training that `distill` is by default."""
_FASTEST, _SPEED, _POWER = 8.0, 1.5, 0.4  # of small networks beside the full one


@dataclass(frozen=True)
class Teacher:
    """A network that teaches, and what its students learn from its outputs.

    Args:
        net: an Elastic at full width, or any module. It runs in evaluation mode, on the device
            where the outputs of the students are, and is left as and where it was; on several
            devices, it stays there.
        how: as `SandwichLoss` takes `distill`, None for the criterion alone; a criterion is needed
            when `how.hard_weight` is above 0.
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
            raise ValueError("Distill.hard_weight is above 0; give the criterion that it weighs.")


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
    with evaluating(net), torch.enable_grad(), _brought_back(net):
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
