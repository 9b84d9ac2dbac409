"""`widthwise tasks`: the built-in tasks, which every command that takes a TASK knows by name."""

import json
from typing import Annotated

import typer

from widthwise.app.cli.common import cli_errors, console, table
from widthwise.app.tasks import BUILT_IN

EXAMPLES = (
    "widthwise tasks",
    "widthwise tasks --json",
)


@cli_errors
def tasks(
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array.")] = False,
) -> None:
    """List the built-in tasks: what each trains on what, its metric, and its epochs.

    A task of your own is named FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION.
    """
    found = [
        {
            "name": name,
            "about": (make.__doc__ or "").partition("\n")[0],
            "metric": made.metric.name,
            "epochs": made.recipe.epochs,
        }
        for name, make in BUILT_IN.items()
        for made in [make()]
    ]
    if as_json:
        console.print_json(json.dumps(found))
        return
    shown = table("task", "epochs", "metric", "about", names=("task",), text=("metric", "about"))
    for row in found:
        shown.add_row(*(str(row[column]) for column in ("name", "epochs", "metric", "about")))
    console.print(shown)
