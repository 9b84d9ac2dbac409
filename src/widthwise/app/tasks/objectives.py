"""How the networks of a task are trained: what a task says of its loss, as objectives."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from torch import nn

from widthwise.elastic.network import Elastic
from widthwise.task import Task
from widthwise.train.distillation import DistillObjective, Teacher
from widthwise.train.family import WARM_UP, FamilyLoss
from widthwise.train.implied import matched
from widthwise.train.losses import SandwichLoss
from widthwise.train.teaching import HALF


def _own(task: Task) -> Task:
    return task


def _outputs(task: Task) -> Task:
    return replace(task, distill=task.distill or HALF, distill_loss=matched)


def _none(task: Task) -> Task:
    return replace(task, distill=None, distill_loss=None)


DISTILLATIONS: Final[Mapping[str, Callable[[Task], Task]]] = {
    "auto": _own,  # as the task says
    "outputs": _outputs,  # the squared difference of outputs
    "none": _none,
}
"""A task with another distillation, by the name that the command line has for it."""


def elastic_loss(
    net: Elastic, task: Task, levels: Sequence[Mapping[str, int]] = ()
) -> SandwichLoss:
    """The loss of all widths of a network. levels: as for `SandwichLoss`."""
    return SandwichLoss(
        net, task.loss, distill=task.distill, distill_loss=task.distill_loss, levels=levels
    )


def family_loss(net: Elastic, task: Task, *, trained: bool = False) -> FamilyLoss:
    """The loss of a training along levels. trained: whether the network is trained already."""
    warm_up = 0.0 if trained else WARM_UP
    return FamilyLoss(
        net, task.loss, distill=task.distill, distill_loss=task.distill_loss, warm_up=warm_up
    )


def taught_by(teacher: nn.Module, student: nn.Module, task: Task) -> DistillObjective:
    """The loss of one network that another one, in evaluation mode, teaches."""
    return DistillObjective([student], Teacher(teacher, task.distill, task.loss, task.distill_loss))
