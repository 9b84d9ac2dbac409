"""`widthwise inspect TASK`: which axes a model has, what shares them, and what stays and why."""

from dataclasses import asdict

from widthwise.app.cli.common import AsJson, Keep, MultipleOf, TaskName, cli_errors, constrained
from widthwise.app.cli.output import line, print_json
from widthwise.app.tasks.resolve import resolve
from widthwise.elastic.network import Elastic

EXAMPLES = (
    "widthwise inspect digits",
    "widthwise inspect mine.py:task",
    "widthwise inspect digits --keep fc1 --multiple-of 8",
    "widthwise inspect package.module:task --json",
)


@cli_errors
def inspect(
    task: TaskName, keep: Keep = None, multiple_of: MultipleOf = None, as_json: AsJson = False
) -> None:
    """Show what can be cut in a task's model, and what cannot and why.

    Only the task's model and example are used: its data are not loaded. As JSON, every axis is
    named.
    """
    found = resolve(task)
    asked = constrained(found.constraints, keep, multiple_of)
    made = Elastic(found.model(), found.example(), constraints=asked).inspect()
    if as_json:
        print_json({"task": found.name, **asdict(made)})
        return
    line(str(made))
