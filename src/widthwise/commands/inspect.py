"""`widthwise inspect TASK`: which axes a model has, what shares them, and what stays fixed."""

from collections.abc import Iterable
from typing import Final

from rich.markup import escape
from rich.table import Table
from torch import nn

from widthwise.commands.common import TaskName, console, table, told
from widthwise.elastic import Elastic
from widthwise.graph.axes import Axis
from widthwise.report import text
from widthwise.tasks.resolve import resolve

EXAMPLES = ("widthwise inspect digits", "widthwise inspect mine.py:task")
_SHOWN: Final = 4  # layers named for an axis; a residual stream has many


@told
def inspect(task: TaskName) -> None:
    """Show what can be cut in a task's model, and what cannot and why."""
    found = resolve(task)
    model = found.model()
    net = Elastic(model, found.example())
    params = sum(p.numel() for p in model.parameters())
    fixed = [axis for axis in net.axes.values() if axis.fixed_because]
    console.print(
        f"[bold]{found.name}[/]: {type(model).__name__}, {text.count(params)} parameters, "
        f"{_number(len(net.free), 'axis', 'axes')} can be cut"
    )
    if net.free:
        console.print(_free(net.free.values(), model))
    if fixed:
        console.print(
            f"\n[bold]Fixed[/]: {_number(len(fixed), 'dimension stays', 'dimensions stay')}"
        )
        console.print(_fixed(fixed))
    unknown = net.unknown
    if unknown:
        console.print("\n[bold]No rule[/]: what these operators touch stays as it is")
        for operator, where in unknown.items():
            console.print(f"{operator}" + (f" in {where}" if where else ""), markup=False)


def _free(axes: Iterable[Axis], model: nn.Module) -> Table:
    made = table("axis", "size", "places", "shared by", names=("axis",), text=("shared by",))
    for axis in axes:
        layers = list(dict.fromkeys(_layer(place.tensor, model) for place in axis.places))
        shared = ", ".join(layers[:_SHOWN])
        if len(layers) > _SHOWN:
            shared += f" and {len(layers) - _SHOWN} more"
        if axis.inner_of:
            shared += f"; in every one of {axis.inner_of}"
        made.add_row(escape(axis.name), f"{axis.size:,}", str(len(axis.places)), escape(shared))
    return made


def _fixed(axes: Iterable[Axis]) -> Table:
    made = table("dimension", "size", "because", names=("dimension",), text=("because",))
    for axis in axes:
        made.add_row(escape(axis.name), f"{axis.size:,}", escape(axis.fixed_because or ""))
    return made


def _layer(tensor: str, model: nn.Module) -> str:
    """The layer that holds a tensor; a parameter of the user's own class goes by its own name."""
    path = tensor.rpartition(".")[0]
    own = not path or not type(model.get_submodule(path)).__module__.startswith("torch.nn.")
    return tensor if own else path


def _number(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"
