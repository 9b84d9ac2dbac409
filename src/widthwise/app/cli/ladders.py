"""`widthwise ladders TASK`: large-sparse, small-dense and elastic at equal stored bytes."""

import shlex
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from widthwise.app.cli.common import (
    AsJson,
    BatchSize,
    Begin,
    Competing,
    End,
    Epochs,
    OnDevice,
    Rate,
    TaskName,
    absolute,
    cli_errors,
    interruptible,
    share,
)
from widthwise.app.cli.output import console, line, notes, one_line, print_json, table, watched
from widthwise.app.compare import shown
from widthwise.app.compare.ladders import run
from widthwise.app.compare.plan import Cell, Kind, Plan
from widthwise.app.runs.device import computing_on
from widthwise.app.runs.folder import hold
from widthwise.app.tasks.resolve import resolve
from widthwise.common.units import parse_share
from widthwise.pruning.gradual import Gradual
from widthwise.pruning.gradual.compete import Scope
from widthwise.task import Recipe

EXAMPLES = (
    "widthwise ladders digits --out ladders/digits",
    "widthwise ladders fashion-mnist-mobilenet --out ladders/mobilenet --epochs 4 --seeds 3",
    "widthwise ladders ptb-lstm-small --out ladders/ptb --kind dense --kind sparse "
    "--sparsities 0.8,0.9",
)


@cli_errors
def ladders(
    task: TaskName,
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder to work in.")],
    kind: Annotated[
        list[Kind] | None,
        typer.Option(help="A ladder to train; may be repeated. All four by default."),
    ] = None,
    fractions: Annotated[
        str,
        typer.Option(metavar="X,X,...", help="Fractions of every axis, for all but the sparse."),
    ] = "1,0.7,0.5,0.35,0.25,0.125",
    sparsities: Annotated[
        str, typer.Option(metavar="X,X,...", help="Shares of zeros, for the sparse ladder.")
    ] = "0.5,0.8,0.9,0.95",
    elastic_sparsity: Annotated[
        float,
        typer.Option(
            metavar="X", parser=share, help="Share of zeros of the elastic-sparse ladder."
        ),
    ] = 0.8,
    begin: Begin = Gradual.begin,
    end: End = Gradual.end,
    scope: Competing = Gradual.scope,
    seeds: Annotated[int, typer.Option(metavar="N", min=1, help="Trainings of each kind.")] = 1,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    lr: Rate = None,
    device: OnDevice = "auto",
    as_json: AsJson = False,
) -> None:
    """Train ladders of networks, and compare them at equal bytes of their files.

    dense: every width trained by itself. sparse: the full width, pruned gradually to every
    sparsity. elastic: one training, cut to every width. elastic-sparse: the same, pruned
    gradually. Every training has the task's recipe. What is there already is kept, so the same
    command goes on, and one with more seeds, fractions or sparsities adds them.
    """
    given = resolve(task)
    kept = _shares(fractions, "--fractions", least_open=True)
    zeros = _shares(sparsities, "--sparsities", least_open=False)
    changed = {"epochs": epochs, "batch_size": batch_size, "lr": lr}
    plan = _plan(task, given.recipe, changed, (elastic_sparsity, begin, end), scope, min(kept))
    again = f"widthwise ladders {shlex.quote(task)} --out {shlex.quote(str(out))} ..."
    with computing_on(device), interruptible(again), hold(out):
        cells = run(
            plan,
            out,
            kinds=list(dict.fromkeys(kind or list(Kind))),
            fractions=kept,
            sparsities=zeros,
            seeds=seeds,
            progress=watched(),
            cli_errors=lambda line: notes.print(line, markup=False, soft_wrap=True),
        )
    shown.draw(cells, given.metric, out / "ladders.png", title=given.name)
    files = (out / "ladders.json", out / "ladders.png")
    if as_json:
        about = {"task": given.name, "metric": given.metric.name}
        networks = [_document(cell) for cell in cells]
        print_json({**about, "networks": networks, "files": files})
        return
    columns = ["ladder", "amount", "file", "formula", given.metric.name]
    columns += [] if given.extra_metrics is None else ["extra_metrics"]
    made = table(*columns, names=("ladder",), text=("extra_metrics",))
    for row in shown.rows(cells, given.metric):
        made.add_row(*row[: len(columns)])
    console.print(made)
    for sentence in shown.verdicts(cells, given.metric):
        line(sentence)
    line(f"Wrote {files[0]} and {files[1]}")


def _document(cell: Cell) -> dict[str, Any]:
    """A network as --json prints it."""
    found = asdict(cell)
    return {"ladder": found.pop("kind"), "results": found.pop("metric"), **found}


def _shares(given: str, option: str, *, least_open: bool) -> tuple[float, ...]:
    """Shares from a text, descending; from (0, 1], or from [0, 1)."""
    try:
        values = sorted({parse_share(part) for part in given.split(",")}, reverse=True)
    except ValueError:
        values = []
    if not values or not all(0 < v <= 1 if least_open else 0 <= v < 1 for v in values):
        limits = "above 0, at most 1" if least_open else "from 0 to below 1"
        raise typer.BadParameter(
            f"{given!r} is no list of shares {limits}; write for example 0.5,0.25.",
            param_hint=option,
        )
    return tuple(values)


def _plan(
    task: str,
    recipe: Recipe,
    changed: dict[str, int | float | None],
    shares: tuple[float, float, float],
    scope: Scope,
    lowest: float,
) -> Plan:
    sparsity, begin, end = shares
    more = {name: value for name, value in changed.items() if value is not None}
    try:
        made = replace(recipe, **more)  # type: ignore[arg-type]  # the options' types fit
        pruning = Gradual(sparsity, begin, end, scope=scope)
        return Plan(absolute(task), made, pruning, lowest)
    except ValueError as error:
        raise typer.BadParameter(one_line(error)) from error
