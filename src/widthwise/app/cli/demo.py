"""`widthwise demo`: all of it on small digits, in less than a minute."""

import shlex
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from widthwise.app import demo as demonstration
from widthwise.app.cli.common import cli_errors, console, facts, interruptible, notes, table
from widthwise.app.report import text
from widthwise.app.runs import reports
from widthwise.common.units import format_size

EXAMPLES = ("widthwise demo", "widthwise demo --out runs/first")


@cli_errors
def demo(
    out: Annotated[
        Path, typer.Option(metavar="RUN", help="The folder to make and to work in.")
    ] = Path("runs/demo"),
    epochs: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Passes over the data; fewer are quicker and worse."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the run that is in the folder.")
    ] = False,
) -> None:
    """Train on small digits, cut three sizes, and check every file that was written."""
    command = shlex.join(["widthwise", "demo", "--out", str(out)])
    if epochs is not None:
        command += f" --epochs {epochs}"
    notes.print("Training digits once; every width is cut from this one network.")
    with interruptible(command):
        made = demonstration.run(
            out, command=command, epochs=epochs, overwrite=overwrite, progress=notes.is_terminal
        )
    frontier, run = made.frontier, made.opened.run
    title = f"{made.opened.task.name}: {frontier.metric} at every size"
    pages = reports.publish(out, frontier, title=title, facts=facts([run], frontier))
    rows = table(
        "name", "budget", "size", frontier.split, "test", "ONNX", "test in ONNX Runtime", "widths",
        names=("name",), text=("widths",),
    )  # fmt: skip
    for cut in made.cuts:
        rows.add_row(
            cut.pick.name,
            format_size(cut.budget),
            format_size(cut.pick.bytes),
            text.value(frontier.metric, cut.pick.valid),
            text.value(frontier.metric, cut.pick.test),
            format_size(cut.onnx_bytes),
            text.value(frontier.metric, cut.onnx),
            text.widths(cut.pick.widths, 4),
        )
    console.print(f"[bold]{title}[/]; each number is that of the file, read back:")
    console.print(rows)
    for path in pages:
        console.print(f"Wrote {path}", markup=False, soft_wrap=True)
    folder = shlex.quote(str(out))
    console.print(
        f"Next: widthwise cut {folder} --max-bytes 5kB --out {folder}/small.safetensors",
        markup=False,
        soft_wrap=True,
    )
    console.print(f"Choose on a page: {_program()} serve {folder}", markup=False, soft_wrap=True)


def _program() -> str:
    """This program as it can be typed here: `make demo` runs it from an environment of its own."""
    called = Path(sys.argv[0])
    if called.name != "widthwise" or shutil.which("widthwise"):
        return "widthwise"
    inside = called.is_relative_to(Path.cwd())
    return shlex.quote(str(called.relative_to(Path.cwd()) if inside else called))
