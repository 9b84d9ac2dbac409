"""What a command prints: its result on standard output, everything else on standard error.

    console.print(rows)                  # the result, for people
    print_json({"file": "a.onnx"})       # the same for programs: --json
    note("nothing was cut.")             # a remark; not with --quiet
    sweep_run(..., progress=watched())   # a bar, where someone sees it

--quiet and --verbose are options of `widthwise` and of every command, before or after its name.
"""

import json
import math
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from widthwise.common.messages import one_line

# What goes into a pipe or a file is not for a window of 80 columns.
_WIDE = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160
console = Console(highlight=False, width=_WIDE)
notes = Console(stderr=True, highlight=False, width=_WIDE)  # silent with --quiet, as rich has it


class _Details:
    """Whether --verbose was given. Whether --quiet was is `notes.quiet`."""

    asked = False


def quiet(context: typer.Context, asked: bool) -> None:
    """Take --quiet, which may stand before the command, after it, or nowhere."""
    notes.quiet = asked or (context.parent is not None and notes.quiet)


def verbose(context: typer.Context, asked: bool) -> None:
    """Take --verbose, likewise."""
    _Details.asked = asked or (context.parent is not None and _Details.asked)


def watched() -> bool:
    """Whether to draw a bar: someone sees it, and did not ask for silence."""
    return notes.is_terminal and not notes.quiet


def print_json(document: Mapping[str, Any] | Sequence[Any]) -> None:
    """Print the result as one JSON document: paths as texts, null for what is not finite."""
    typer.echo(json.dumps(_plain(document), indent=2, allow_nan=False))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def line(text: str) -> None:
    """Print a line of the result as it is: names may hold brackets, and it stays one line."""
    console.print(text, markup=False, soft_wrap=True)


def hint(text: str) -> None:
    """Print what to do next below the result; not with --quiet."""
    if not notes.quiet:
        line(text)


def note(text: object) -> None:
    """Print a remark on standard error, in one line; not with --quiet."""
    if not notes.quiet:
        typer.echo(f"Note: {one_line(text)}", err=True)


def fail(sentence: str, error: BaseException) -> NoReturn:
    """Print an error in one sentence, with --verbose after its traceback, and end with code 1."""
    if _Details.asked:
        typer.echo("".join(traceback.format_exception(error)), err=True, nl=False)
    # Not through rich, which would break the line at the width of the window.
    typer.echo(f"Error: {one_line(sentence)}", err=True)
    raise typer.Exit(1) from error


@contextmanager
def noting_warnings() -> Iterator[None]:
    """Inside, our own warnings are remarks; with --verbose they also say where they come from."""
    with warnings.catch_warnings():
        warnings.showwarning = _show(warnings.showwarning)
        yield


def _show(shown: Callable[..., None]) -> Callable[..., None]:
    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if notes.quiet:
            return
        if category.__module__.startswith("widthwise") and not _Details.asked:
            note(message)
        else:
            shown(message, category, *where, **more)

    return show


def table(*columns: str, names: tuple[str, ...] = (), text: tuple[str, ...] = ()) -> Table:
    """A rich table: columns of numbers, aligned right, of names, and of text that may wrap."""
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in columns:
        left = name in names or name in text
        made.add_column(name, justify="left" if left else "right", no_wrap=name not in text)
    return made
