"""`widthwise inspect TASK`: which axes a model has, what shares them, and what stays and why."""

from typing import Annotated

import typer

from widthwise.commands.common import TaskName, console, told
from widthwise.elastic import Elastic
from widthwise.tasks.resolve import resolve

EXAMPLES = (
    "widthwise inspect digits",
    "widthwise inspect mine.py:task",
    "widthwise inspect package.module:task --json",
)
AsJson = Annotated[bool, typer.Option("--json", help="The same, and every axis by name, as JSON.")]


@told
def inspect(task: TaskName, as_json: AsJson = False) -> None:
    """Show what can be cut in a task's model, and what cannot and why.

    Only the task's model and example are used: its data are not loaded.
    """
    found = resolve(task)
    made = Elastic(found.model(), found.example()).inspect()
    shown = made.to_json() if as_json else str(made)
    # Names may hold brackets, and a line stays a line in a narrow window.
    console.print(shown, markup=False, soft_wrap=True)
