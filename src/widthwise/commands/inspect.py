"""`widthwise inspect TASK`: which axes a model has, what shares them, and what stays fixed."""

from rich.table import Table
from torch import nn

from widthwise.commands.common import TaskName, console, table, told
from widthwise.elastic import Elastic
from widthwise.graph.axes import Axis
from widthwise.report import text
from widthwise.tasks.resolve import resolve

EXAMPLES = ("widthwise inspect digits", "widthwise inspect mine.py:task")


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
        console.print(f"\n[bold]Fixed[/]: {_number(len(fixed), 'dimension stays', 'dimensions stay')}")
        console.print(_fixed(fixed))
    unknown = net._relations.unknown
    if unknown:
        console.print("\n[bold]No rule[/]: what these operators touch stays as it is")
        for operator, where in unknown.items():
            console.print(f"{operator}" + (f" in {where}" if where else ""), markup=False)
