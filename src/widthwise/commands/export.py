"""`widthwise export FILE`: a network for ONNX Runtime, or as a torch.export program."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from widthwise import steps
from widthwise.commands.common import console, told
from widthwise.errors import ExportError, TaskError
from widthwise.measure.size import format_size
from widthwise.runs import Run, single
from widthwise.store.export_elastic import export_elastic
from widthwise.store.file import load
from widthwise.tasks.resolve import resolve

EXAMPLES = (
    "widthwise export small.safetensors --task digits --out small.onnx",
    "widthwise export runs/digits --format torch --out full.pt2",
    "widthwise export runs/digits --format elastic-onnx --out all-widths.onnx",
)


@told
def export(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="FILE_OR_RUN", help="A file that cut wrote, or a run for its full network."
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The file to write.")],
    task: Annotated[
        str | None,
        typer.Option(metavar="TASK", help="The task of a file that lies outside its run folder."),
    ] = None,
    form: Annotated[
        Literal["onnx", "torch", "elastic-onnx"],
        typer.Option(
            "--format",
            help="onnx, torch for a torch.export program, or elastic-onnx for a run's network with "
            "its widths as inputs.",
        ),
    ] = "onnx",
) -> None:
    """Write a network in a format that needs no widthwise to run.

    It takes any batch size, and has been run and compared with PyTorch before it is written.
    """
    if form == "elastic-onnx":
        _export_elastic(source, out)
    else:
        _export(source, out, task, form)
    console.print(
        f"Wrote {out}: {format_size(out.stat().st_size)}, gives what PyTorch gives",
        markup=False,
        soft_wrap=True,
    )


def _export_elastic(source: Path, out: Path) -> None:
    if not source.is_dir():
        raise ExportError(
            f"{source} is one cut network; give the run folder to export it at all widths."
        )
    export_elastic(steps.open_run(single(source)).net, out)


def _export(source: Path, out: Path, task: str | None, form: steps.Format) -> None:
    file = source
    if source.is_dir():
        run = single(source)
        task = run.finished_record().settings.task if task is None else task
        file = run.model
    elif task is None:
        task = _task_beside(source)
    found = resolve(task)
    steps.export(load(file, build=found.model), found, out, form)


def _task_beside(file: Path) -> str:
    """The task of the run folder that a file lies in. Raises TaskError, RunError."""
    run = Run(file.parent)
    if not run.record_file.exists():
        raise TaskError(
            f"{file} does not lie in a run folder, so its task is unknown; give it, such as "
            "--task digits."
        )
    return run.record().settings.task
