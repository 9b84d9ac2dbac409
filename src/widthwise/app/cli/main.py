"""The command line: `widthwise COMMAND`. Every command is a file beside this one."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from widthwise.app.cli import (
    bench,
    compare,
    cut,
    demo,
    export,
    inspect,
    ladders,
    order,
    pick,
    prune,
    search,
    serve,
    sweep,
    train,
)
from widthwise.version import VERSION

app = typer.Typer(
    name="widthwise",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
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
) -> None:
    """Train a network once, then cut it to any width."""


def _add(command: Callable[..., Any], examples: Sequence[str]) -> None:
    head = "Example:" if len(examples) == 1 else "Examples:"
    summary = (command.__doc__ or "").partition("\n")[0]
    app.command(short_help=summary, epilog="\n\n".join([head, *examples]))(command)


_add(demo.demo, demo.EXAMPLES)
_add(inspect.inspect, inspect.EXAMPLES)
_add(train.train, train.EXAMPLES)
_add(order.order, order.EXAMPLES)
_add(sweep.sweep, sweep.EXAMPLES)
_add(pick.pick, pick.EXAMPLES)
_add(cut.cut, cut.EXAMPLES)
_add(bench.bench, bench.EXAMPLES)
_add(serve.serve, serve.EXAMPLES)
_add(search.search, search.EXAMPLES)
_add(prune.prune, prune.EXAMPLES)
_add(ladders.ladders, ladders.EXAMPLES)
_add(compare.compare, compare.EXAMPLES)
_add(export.export, export.EXAMPLES)


def main() -> None:
    """Run the command line."""
    app(prog_name="widthwise")
