"""`widthwise demo`: all of it on small digits, in less than a minute."""

import shlex
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from widthwise.app import demo as demonstration
from widthwise.app.cli.common import AsJson, OnDevice, cli_errors, facts, interruptible
from widthwise.app.cli.documents import of_pick
from widthwise.app.cli.output import console, hint, line, notes, print_json, table, watched
from widthwise.app.report import text
from widthwise.app.runs import reports
from widthwise.app.runs.device import computing_on
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
    device: OnDevice = "auto",
    as_json: AsJson = False,
) -> None:
    """Train on small digits, cut three sizes, and check every file that was written."""
    command = shlex.join(["widthwise", "demo", "--out", str(out)])
    if epochs is not None:
        command += f" --epochs {epochs}"
    notes.print("Training digits once; every width is cut from this one network.")
    with computing_on(device), interruptible(command):
        made = demonstration.run(
            out, command=command, epochs=epochs, overwrite=overwrite, progress=watched()
        )
    frontier, run = made.frontier, made.opened.run
    title = f"{made.opened.task.name}: {frontier.metric} at every size"
    pages = reports.publish(out, frontier, title=title, facts=facts([run], frontier))
    if as_json:
        networks = [
            of_pick(out / (cut.pick.file or ""), cut.pick, frontier.metric)
            | {
                "budget": cut.budget,
                "onnx": {"bytes": cut.onnx_bytes, "results": {"test": cut.onnx}},
            }
            for cut in made.cuts
        ]
        about = {"task": made.opened.task.name, "run": out}
        print_json({**about, "networks": networks, "files": pages})
        return
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
    console.print(f"[bold]{title}[/]; each number was measured on the file, read back:")
    console.print(rows)
    for path in pages:
        line(f"Wrote {path}")
    folder = shlex.quote(str(out))
    hint(f"Next: widthwise cut {folder} --max-bytes 5kB --out {folder}/small.safetensors")
    hint(f"Choose on a page: {_program()} serve {folder}")


def _program() -> str:
    """This program as it can be typed here: `make demo` runs it from an environment of its own."""
    called = Path(sys.argv[0])
    if called.name != "widthwise" or shutil.which("widthwise"):
        return "widthwise"
    inside = called.is_relative_to(Path.cwd())
    return shlex.quote(str(called.relative_to(Path.cwd()) if inside else called))
