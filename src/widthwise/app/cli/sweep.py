"""`widthwise sweep RUN`: measure every width of a run, and write the report."""

import math
import shlex
from pathlib import Path
from typing import Annotated, Literal

import typer

from widthwise.app.cli.common import (
    AsJson,
    OnDevice,
    all_or_nothing,
    cli_errors,
    facts,
    fits_table,
)
from widthwise.app.cli.documents import of_point
from widthwise.app.cli.output import console, hint, line, print_json, watched
from widthwise.app.report.curve import proposed
from widthwise.app.runs import opening, reports, sweeps
from widthwise.app.runs.device import computing_on
from widthwise.app.runs.folder import Run, hold, members
from widthwise.errors import RunError
from widthwise.measure.combine import combine
from widthwise.measure.frontier import Frontier

EXAMPLES = (
    "widthwise sweep runs/digits",
    "widthwise sweep runs/seed-0 runs/seed-1 --out runs/both --num-widths 12",
    "widthwise sweep runs/ordered --allocation scores --num-widths 24",
    "widthwise sweep runs/ordered --no-reconstruct",
)

_QUARTER = 0.25  # of the largest network: what the next command proposes


@cli_errors
def sweep(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...", help="Folders that train or order wrote; several are averaged."
        ),
    ],
    num_widths: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="How many widths, down to the narrowest that training drew; by default every "
            "level and two between each pair, or all widths of a small network, else 16.",
        ),
    ] = None,
    allocation: Annotated[
        sweeps.Allocation | None,
        typer.Option(
            help="levels goes along the widths that the run was trained at, which is the default "
            "where there are some. fraction keeps the same share of every axis. scores gives each "
            "axis a width of its own, which is the default for a run of order whose scores compare "
            "across axes (all but magnitude, activation and random)."
        ),
    ] = None,
    split: Annotated[
        Literal["valid", "test"], typer.Option(help="The data to measure on; choose on valid.")
    ] = "valid",
    latency: Annotated[bool, typer.Option(help="Measure the time of a call, too.")] = True,
    recalibrate: Annotated[
        bool, typer.Option(help="Re-estimate batch-norm statistics for each width.")
    ] = True,
    reconstruct: Annotated[
        bool | None,
        typer.Option(
            "--reconstruct/--no-reconstruct",
            help="Fit every cut's layers to the full network's before it is measured, as cut then "
            "does by itself. By default on for runs of order alone.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where the average of several runs goes.")
    ] = None,
    device: OnDevice = "auto",
    as_json: AsJson = False,
) -> None:
    """Measure a run at every width and write frontier.json, frontier.png and report.html.

    Several runs, or a folder of several seeds, give the mean and its spread. Networks are measured
    on the CPU, and on another device only where --device names it.
    """
    found = [run for folder in runs for run in members(folder)]
    folder = _target(runs, found, out)
    frontiers: list[Frontier] = []
    name = title = ""
    chosen: sweeps.Allocation = allocation or "fraction"
    for run in found:
        with computing_on(device) as place, all_or_nothing(), hold(run.folder):
            opened = opening.open_run(run)
            opened.net.to(place)
            name, metric = opened.task.name, opened.task.metric.name
            title = f"{name}: {metric} at every size"
            chosen = allocation or sweeps.allocation_of(opened.record)
            frontiers.append(
                sweeps.sweep_run(
                    opened,
                    count=num_widths,
                    allocation=chosen,
                    split=split,
                    latency=latency,
                    recalibrate=recalibrate,
                    reconstruct=reconstruct,
                    progress=watched(),
                )
            )
            pages = reports.publish(
                run.folder, frontiers[-1], title=title, facts=facts([run], frontiers[-1])
            )
    frontier = frontiers[0]
    if len(found) > 1:
        with hold(folder):
            frontier = combine(frontiers)
            frontier.save(Run(folder).frontier)
            pages = reports.publish(folder, frontier, title=title, facts=facts(found, frontier))
    files = (Run(folder).frontier, *pages)
    if as_json:
        points = [of_point(frontier, point) for point in frontier.points]
        about = {"task": name, "run": folder, "metric": frontier.metric, "split": frontier.split}
        print_json({**about, "runtime": frontier.runtime, "points": points, "files": files})
        return
    how = {"levels": ", along its levels", "scores": ", widths by scores"}.get(chosen, "")
    how += f", post-processing {frontier.post_process}" if frontier.post_process else ""
    console.print(f"[bold]{title}[/] ({frontier.split}{how}); what fits:")
    console.print(fits_table(frontier))
    for path in files:
        line(f"Wrote {path}")
    point = proposed(frontier, _QUARTER)
    hint(
        f"Next: widthwise cut {shlex.quote(str(found[0].folder))} --max-bytes "
        f"{math.ceil(point.bytes / 100) / 10:g}kB --out small.safetensors"
    )


def _target(given: list[Path], found: list[Run], out: Path | None) -> Path:
    """The folder that the result goes to: the run's own, its seeds' folder, or the one named."""
    if len(given) == 1 and out is None:
        return given[0]
    if len(found) > 1 and out is not None:
        return out
    if out is None:
        raise RunError("Several runs were given; name a folder for their average with --out.")
    raise RunError("A single run keeps its frontier in its own folder; leave out --out.")
