"""`widthwise export FILE`: a network for ONNX Runtime, or as a torch.export program."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from torch import nn

from widthwise.app.cli.common import (
    AsJson,
    OnDevice,
    SeveralMaxBytes,
    all_or_nothing,
    cli_errors,
    pick_within,
    size_of,
)
from widthwise.app.cli.output import line, print_json
from widthwise.app.cli.several import files
from widthwise.app.report import text
from widthwise.app.runs import cuts, exports, measuring, opening
from widthwise.app.runs.device import computing_on
from widthwise.app.runs.folder import Run, read_frontier, single
from widthwise.app.runs.progressive import export_progressive
from widthwise.app.tasks.noted import task_of, without_folder
from widthwise.app.tasks.resolve import resolve
from widthwise.benchmark.kernels import NothingFasterWarning
from widthwise.benchmark.runtimes import compare, gains
from widthwise.common.units import format_size
from widthwise.errors import ExportError
from widthwise.export.elastic_onnx import export_elastic
from widthwise.export.int8_onnx import export_int8
from widthwise.measure.budget import Budget
from widthwise.store.file import load, read_manifest
from widthwise.store.progressive.reader import Progressive
from widthwise.task import Task

EXAMPLES = (
    "widthwise export small.safetensors --out small.onnx",
    "widthwise export small.safetensors --format onnx --int8 --out small.int8.onnx",
    "widthwise export runs/digits --max-bytes 20kB --format onnx --out small.onnx",
    "widthwise export runs/digits --max-bytes 20kB --max-bytes 40kB --out small",
    "widthwise export runs/digits --format torch --out full.pt2",
    "widthwise export runs/digits --format elastic-onnx --out all-widths.onnx",
    "widthwise export runs/digits --format progressive --out net.safetensors --levels 8",
)

Graph = Literal["onnx", "torch"]
"""One network that runs without widthwise."""
Form = Literal["onnx", "torch", "elastic-onnx", "progressive"]


@cli_errors
def export(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="FILE_OR_RUN", help="A file that cut wrote, or a run for its full network."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE", help="The file to write; with several --max-bytes, a folder of them."
        ),
    ],
    task: Annotated[
        str | None,
        typer.Option(
            metavar="TASK",
            help="The task of the file, where it is not the one that the file notes.",
        ),
    ] = None,
    form: Annotated[
        Form,
        typer.Option(
            "--format",
            help="onnx, torch for a torch.export program, elastic-onnx for a run's network with "
            "its widths as inputs, or progressive for one safetensors file of a swept run whose "
            "first bytes are the smaller networks.",
        ),
    ] = "onnx",
    int8: Annotated[
        bool,
        typer.Option(
            "--int8",
            help="With --format onnx: multiply 8-bit integers, and say what that costs and whether "
            "it is faster here.",
        ),
    ] = False,
    max_bytes: SeveralMaxBytes = None,
    levels: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, max=255, help="With --format progressive: at most so many networks."
        ),
    ] = 8,
    bits: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=2, max=8, help="With --format progressive: bits of a weight, not 32."
        ),
    ] = None,
    device: OnDevice = "auto",
    as_json: AsJson = False,
) -> None:
    """Write a network in a format that needs no widthwise to run.

    It takes every size that the network takes, and has been run and compared with PyTorch before
    it is written. With --max-bytes it is the best network of a swept run whose file fits,
    post-processed as cut does it. A progressive file is for widthwise.load, over the network
    too, and for any safetensors reader.
    """
    if bits is not None and form != "progressive":
        raise ExportError(
            "--bits is for --format progressive; ONNX files in 8 bits are written with --int8."
        )
    if int8 and form != "onnx":
        raise ExportError("--int8 writes an ONNX file; use it with --format onnx.")
    if max_bytes and (form not in ("onnx", "torch") or not source.is_dir()):
        raise ExportError(
            "--max-bytes is for --format onnx or torch of a swept run; give its folder, or export "
            "the file as it is."
        )
    outs = files(out, max_bytes or (), ".pt2" if form == "torch" else ".onnx")
    with computing_on(device), all_or_nothing():
        if form == "progressive":
            written = [_export_progressive(source, out, levels, bits)]
        elif form == "elastic-onnx":
            written = [_export_elastic(source, out)]
        elif max_bytes:
            networks, found = _fitting(source, form, int8, max_bytes)
            pairs = zip(networks, outs, strict=True)
            written = [_export(module, found, place, form, int8) for module, place in pairs]
        else:
            module, found = _opened(source, task)
            written = [_export(module, found, out, form, int8)]
    if as_json:
        print_json({"networks": [_document(each, form) for each in written]})
        return
    for each in written:
        line(f"Wrote {each.file}: {format_size(each.file.stat().st_size)}, {each.said}")


@dataclass(frozen=True)
class _Written:
    """A file, what is said of it to people, and what else programs are told."""

    file: Path
    said: str = "gives what PyTorch gives"
    facts: Mapping[str, Any] = field(default_factory=dict)


def _document(each: _Written, form: Form) -> dict[str, Any]:
    return {
        "file": each.file,
        "bytes": each.file.stat().st_size,
        "format": form,
        **each.facts,
    }


def _export(module: nn.Module, task: Task, out: Path, form: Graph, int8: bool) -> _Written:
    if int8:
        return _export_int8(module, task, out)
    exports.export(module, task, out, form)
    return _Written(out)


def _fitting(
    folder: Path, form: Graph, int8: bool, budgets: Sequence[str]
) -> tuple[list[nn.Module], Task]:
    """The best networks of a run whose files in this format have at most so many bytes each."""
    run = single(folder)
    frontier, opened = read_frontier(run.folder), opening.open_run(run)
    counted = size_of(opened, form, int8)
    points = [pick_within(Budget(most), frontier, counted) for most in budgets]
    kept = [opened.net.complete(point.widths) for point in points]
    how = cuts.shipped_post_processing(opened, kept)
    made = cuts.make(opened, kept, opened.task.splits(), how)
    return [each.module for each in made], opened.task


def _export_elastic(source: Path, out: Path) -> _Written:
    if not source.is_dir():
        raise ExportError(
            f"{source} is one cut network; give the run folder to export it at all widths."
        )
    export_elastic(opening.open_run(single(source)).net, out)
    return _Written(out)


def _export_progressive(source: Path, out: Path, most: int, bits: int | None) -> _Written:
    if not source.is_dir():
        raise ExportError(f"{source} is one cut network; give the run folder, once it was swept.")
    opened = opening.open_run(single(source))
    first, *_ = export_progressive(opened, out, most, bits)
    with Progressive.open(out) as file:
        count, smallest = len(file.levels), file.levels[0]
        sizes = {"levels": [{"bytes": level.bytes} for level in file.levels]}
    if count == 1:
        return _Written(out, "one network, for no other nests inside it", sizes)
    said = f"{count} networks, the smallest in its first {format_size(smallest.bytes)}"
    frontier = read_frontier(source)
    if not frontier.post_process or smallest.metric is None:
        return _Written(out, said, sizes)
    name = frontier.metric
    here, fitted = text.value(name, smallest.metric.value), text.value(name, first.metric)
    return _Written(
        out,
        f"{said}, all without what the sweep did to each ({frontier.post_process}), for only plain "
        f"cuts lie inside each other: {frontier.split} {name} of the smallest {here}, {fitted} in "
        "the sweep",
        sizes,
    )


def _export_int8(module: nn.Module, task: Task, out: Path) -> _Written:
    written = export_int8(module, task.example(), out)
    data, name = task.splits(), task.metric.name
    before = measuring.evaluation(task, data, "test")(module)
    after = exports.onnx_metric(out, task, data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NothingFasterWarning)  # the line says it
        rows = compare(module, task.example())
    speeds = ", ".join(f"{gain:.2f} at batch {batch}" for batch, gain in gains(rows).items())
    return _Written(
        out,
        f"{format_size(written.float32_bytes)} in float32; test {name} {text.value(name, after)}, "
        f"{text.value(name, before)} in float32; times as fast as float32 here: {speeds} "
        f"(threads: {rows[0].threads})",
        {
            "int8": True,
            "float32_bytes": written.float32_bytes,
            "metric": name,
            "results": {"test": after},
            "results_before": {"test": before},
            "times_as_fast": gains(rows),
        },
    )


def _opened(source: Path, task: str | None) -> tuple[nn.Module, Task]:
    """The network of a file or a run, and its task."""
    file = source
    if source.is_dir():
        run = single(source)
        task = run.finished_record().settings.task if task is None else task
        file = run.model
    found = resolve(_task_of(source) if task is None else task)
    return load(file, build=found.model), found


def _task_of(file: Path) -> str:
    """The task that a file notes, or the task of the run folder it lies in. Raises TaskError."""
    noted = read_manifest(file).task
    run = Run(file.parent)
    if run.record_file.exists():
        recorded = run.record().settings.task
        source = recorded.rpartition(":")[0]
        if without_folder(recorded) == noted or not noted:
            if not source.endswith(".py") or Path(source).is_file():
                return recorded
            noted = noted or without_folder(recorded)
    return task_of(noted, file)
