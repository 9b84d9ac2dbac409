"""`widthwise inspect TASK`: which axes a model has, what shares them, and what stays and why."""

from typing import Annotated

import typer

from widthwise.app.cli.common import Keep, MultipleOf, TaskName, cli_errors, console, constrained
from widthwise.app.tasks.resolve import resolve
from widthwise.elastic.network import Elastic

EXAMPLES = (
    "widthwise inspect digits",
    "widthwise inspect mine.py:task",
    "widthwise inspect digits --keep fc1 --multiple-of 8",
    "widthwise inspect package.module:task --json",
)
AsJson = Annotated[bool, typer.Option("--json", help="The same, and every axis by name, as JSON.")]


@cli_errors
def inspect(
    task: TaskName, keep: Keep = None, multiple_of: MultipleOf = None, as_json: AsJson = False
) -> None:
    """Show what can be cut in a task's model, and what cannot and why.

    Only the task's model and example are used: its data are not loaded.
    """
    found = resolve(task)
    asked = constrained(found.constraints, keep, multiple_of)
    made = Elastic(found.model(), found.example(), constraints=asked).inspect()
    shown = made.to_json() if as_json else str(made)
    # Names may hold brackets, and a line stays a line in a narrow window.
    console.print(shown, markup=False, soft_wrap=True)
