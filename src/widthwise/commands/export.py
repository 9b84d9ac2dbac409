"""`widthwise export FILE`: a network for ONNX Runtime, or as a torch.export program."""

from pathlib import Path
from typing import Annotated

import typer

from widthwise import steps
from widthwise.commands.common import console, told
from widthwise.errors import TaskError
from widthwise.measure.size import format_size
from widthwise.runs import Run, single
from widthwise.store.file import load
from widthwise.tasks.resolve import resolve

EXAMPLES = (
    "widthwise export small.safetensors --task digits --out small.onnx",
    "widthwise export runs/digits --format torch --out full.pt2",
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
        steps.Format, typer.Option("--format", help="onnx, or torch for a torch.export program.")
    ] = "onnx",
) -> None:
    """Write a network in a format that needs no widthwise to run.

    It takes any batch size, and has been run and compared with PyTorch before it is written.
    """
    file = source
    if source.is_dir():
        run = single(source)
        task = run.finished_record().settings.task if task is None else task
        file = run.model
    elif task is None:
        task = _task_beside(source)
    found = resolve(task)
    steps.export(load(file, build=found.model), found, out, form)
    console.print(
        f"Wrote {out}: {format_size(out.stat().st_size)}, gives what PyTorch gives",
        markup=False,
        soft_wrap=True,
    )


def _task_beside(file: Path) -> str:
    """The task of the run folder that a file lies in. Raises TaskError, RunError."""
    run = Run(file.parent)
    if not run.record_file.exists():
        raise TaskError(
            f"{file} does not lie in a run folder, so its task is unknown; give it, such as "
            "--task digits."
        )
    return run.record().settings.task
