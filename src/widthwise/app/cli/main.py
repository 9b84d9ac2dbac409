"""The command line: `widthwise COMMAND`. Every command is a file beside this one.

A command is imported when it is run, so that `widthwise --help` need not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any, Final

import typer
from typer.core import TyperCommand, TyperGroup

from widthwise.app.cli import output
from widthwise.version import VERSION

GROUPS: Final = {  # in the order of the help, with what it says of each command
    "Begin": {
        "demo": "Train on small digits, cut three sizes, and check every file that was written.",
        "tasks": "List the built-in tasks: what each trains on what, its metric, and its epochs.",
        "inspect": "Show what can be cut in a task's model, and what cannot and why.",
    },
    "Make a run": {
        "train": "Train a task so that every width can be cut from it.",
        "order": "Order a trained network by importance, so that every width can be cut from it.",
    },
    "Choose a size": {
        "sweep": "Measure a run at every width and write frontier.json, frontier.png and "
        "report.html.",
        "pick": "Print the best measured width that meets every limit given; of equals, the "
        "smallest.",
        "bench": "Time a run's picks beside its full network on this machine's CPU, and say what "
        "is faster.",
        "serve": "Open a page on which to choose a size, try it, and download the network.",
    },
    "Make a file": {
        "cut": "Cut a run's network to a budget, a fraction or given widths, and store it.",
        "search": "Search for the best variant of a run's network within a budget, and store it.",
        "prune": "Set single weights of a trained network to zero and store it without them.",
        "export": "Write a network in a format that needs no widthwise to run.",
    },
    "Compare methods": {
        "compare": "Compare ways of compressing a network at equal bytes of their files.",
    },
}
COMMANDS: Final = {name: said for group in GROUPS.values() for name, said in group.items()}
_GROUP_OF: Final = {name: title for title, group in GROUPS.items() for name in group}
_SHARED: Final = ("quiet", "verbose")  # options of the whole that every command has, too
_HELP_OPTIONS: Final = {"help_option_names": ["-h", "--help"]}


def command(name: str) -> TyperCommand:
    """A command, imported."""
    module = import_module(f"widthwise.app.cli.{name}")
    examples = module.EXAMPLES
    head = "Example:" if len(examples) == 1 else "Examples:"
    alone = typer.Typer(
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings=_HELP_OPTIONS,
    )
    alone.command(
        name,
        short_help=COMMANDS[name],
        epilog="\n\n".join([head, *examples]),
        rich_help_panel=_GROUP_OF[name],
    )(getattr(module, name))
    made = typer.main.get_command(alone)
    assert isinstance(made, TyperCommand)
    # Before --help, which is added when it is asked for.
    made.params += [p for p in typer.main.get_group(app).params if p.name in _SHARED]
    return made


class Commands(TyperGroup):
    """The commands by name. The list of them is made of their summaries and imports none.

    Contexts and formatters are click's, which some versions of typer bring along.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        """Their names, in the order of the help."""
        return [*COMMANDS]

    def get_command(self, ctx: Any, cmd_name: str) -> TyperCommand | None:
        """The command of this name, imported; None where there is none."""
        return command(cmd_name) if cmd_name in COMMANDS else None

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """The help of the whole."""
        listed: dict[str, Any] = {
            name: TyperCommand(name, short_help=summary, rich_help_panel=_GROUP_OF[name])
            for name, summary in COMMANDS.items()
        }
        TyperGroup(
            name=self.name,
            commands=listed,
            params=self.params,
            help=self.help,
            rich_markup_mode=self.rich_markup_mode,
        ).format_help(ctx, formatter)


app = typer.Typer(
    name="widthwise",
    cls=Commands,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings=_HELP_OPTIONS,
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"widthwise {VERSION}")
        raise typer.Exit


@app.callback()
def widthwise(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    quiet: Annotated[
        bool,
        typer.Option(
            "--quiet",
            "-q",
            callback=output.quiet,
            expose_value=False,
            help="Print only results and errors: no progress, remarks and warnings.",
        ),
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose",
            "-v",
            callback=output.verbose,
            expose_value=False,
            help="Print the traceback of an error, and where a warning comes from.",
        ),
    ] = False,
) -> None:
    """Train a network once, then cut it to any width."""


def main() -> None:
    """Run the command line."""
    app(prog_name="widthwise")
