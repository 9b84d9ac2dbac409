"""`widthwise tasks`: the built-in tasks, which every command that takes a TASK knows by name."""

from widthwise.app.cli.common import AsJson, cli_errors
from widthwise.app.cli.output import console, print_json, table
from widthwise.app.tasks import BUILT_IN

EXAMPLES = (
    "widthwise tasks",
    "widthwise tasks --json",
)


@cli_errors
def tasks(as_json: AsJson = False) -> None:
    """List the built-in tasks: what each trains on what, its metric, and its epochs.

    A task of your own is named FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION.
    """
    found = [
        {
            "task": name,
            "about": (make.__doc__ or "").partition("\n")[0],
            "metric": made.metric.name,
            "epochs": made.recipe.epochs,
        }
        for name, make in BUILT_IN.items()
        for made in [make()]
    ]
    if as_json:
        print_json(found)
        return
    shown = table("task", "epochs", "metric", "about", names=("task",), text=("metric", "about"))
    for row in found:
        shown.add_row(*(str(row[column]) for column in ("task", "epochs", "metric", "about")))
    console.print(shown)
