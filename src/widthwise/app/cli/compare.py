"""`widthwise compare SPEC`: every way of compressing a network, at equal stored bytes."""

import os
import platform
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from widthwise.app.cli.common import AsJson, OnDevice, absolute, cli_errors, interruptible
from widthwise.app.cli.output import console, line, notes, print_json, table, watched
from widthwise.app.compare.data import loaded
from widthwise.app.compare.engines import Engine, Local, Ray
from widthwise.app.compare.matrix import Told, run
from widthwise.app.compare.methods import METHODS, chosen
from widthwise.app.compare.report import tables, words
from widthwise.app.compare.report.publish import publish
from widthwise.app.compare.report.summary import Winner, winners
from widthwise.app.compare.spec import Spec, read
from widthwise.app.runs.device import computing_on
from widthwise.app.runs.folder import hold
from widthwise.app.tasks.resolve import resolve
from widthwise.task import Task
from widthwise.version import VERSION

EXAMPLES = (
    "widthwise compare mnist.toml --out comparisons/mnist",
    "widthwise compare mnist.toml --out comparisons/mnist --engine ray --address auto",
)


class Where(StrEnum):
    """Where units run."""

    LOCAL = "local"
    RAY = "ray"


@cli_errors
def compare(
    spec: Annotated[Path, typer.Argument(metavar="SPEC", help="A TOML file, as below.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder to work in.")],
    engine: Annotated[
        Where, typer.Option(help="Processes of this machine, or a Ray cluster.")
    ] = Where.LOCAL,
    address: Annotated[
        str | None,
        typer.Option(help="Of a Ray cluster, such as auto; by default one is started here."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Processes here; as many as cores by default."),
    ] = None,
    device: OnDevice = "auto",
    as_json: AsJson = False,
) -> None:
    """Compare ways of compressing a network at equal bytes of their files.

    SPEC is a short file: task = "mnist", budgets = ["2kB", "10kB", "50kB"], and if wanted seeds,
    epochs (of a training), fine_tune (epochs of a fine-tuning), trials (of a search), examples (to
    train on, drawn once; all when left out), scope (how magnitudes of weights compete: "global" as
    they are, "lamp" when left out) and methods, such as ["elastic*", "small-dense*",
    "search"]. Every method makes the best network that it can for every budget; choices are made on
    validation data, test data are reported. What is measured is kept, so the same command goes on
    where it was stopped, and more seeds, budgets or methods are added to what is there. Writes
    comparison.html, comparison.csv and pictures.
    """
    given = read(spec)
    given = replace(given, task=absolute(given.task))
    if address is not None and engine is not Where.RAY:
        raise typer.BadParameter("is for --engine ray.", param_hint="--address")
    task = resolve(given.task)  # whose file may register methods
    given = replace(given, methods=chosen(given.methods, spec))
    if given.examples is not None:
        loaded(given.task, given.examples)  # refuses more than there are before anything is written
    again = f"widthwise compare {shlex.quote(str(spec))} --out {shlex.quote(str(out))}"
    with (
        computing_on(device),
        interruptible(again),
        hold(out),
        _engine(engine, address, workers) as where,
        _progress() as told_of,
    ):
        outcomes = run(given, out, where, told_of)
    found = publish(out, outcomes, task.metric, title=task.name, facts=facts(given, task))
    if as_json:
        best = [_document(winner) for winner in winners(found)]
        about = {"task": task.name, "metric": task.metric.name}
        print_json({**about, "winners": best, "files": [out / "comparison.html"]})
        return
    won = tables.won(found)
    made = table(*won.heads, text=tuple(won.words))
    for row in won.rows:
        made.add_row(*row)
    console.print(made)
    line(words.lead(found))
    line(f"Wrote {out / 'comparison.html'}")


def _document(winner: Winner) -> dict[str, Any]:
    """The best method at a budget as --json prints it; its numbers are means over seeds."""
    best = winner.standing
    return {
        "budget": winner.budget,
        "method": best.method.name,
        "family": best.method.family,
        "bytes": best.bytes,
        "results": {split: best.mean(split) for split in ("valid", "test")},
        "spread": best.spread(),
        "verdict": winner.verdict,
        "seconds": best.seconds,
    }


def _engine(engine: Where, address: str | None, workers: int | None) -> Engine:
    return Ray(address, workers) if engine is Where.RAY else Local(workers)


@contextmanager
def _progress() -> Iterator[Told]:
    """A bar on a terminal, else a line for everything that is done."""
    if not watched():
        yield lambda done, of, what: notes.print(
            f"{done} of {of}: {what}", markup=False, soft_wrap=True
        )
        return
    columns = (
        TextColumn("comparing"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=notes) as bar:
        line = bar.add_task("", total=None)
        yield lambda done, of, what: bar.update(line, completed=done, total=of, description=what)


def facts(spec: Spec, task: Task) -> dict[str, str]:
    """What the page says about a comparison."""
    recipe, tuning = spec.recipe(task), spec.tuning(task)
    left_out = len(METHODS) - len(spec.methods)
    data = "all" if spec.examples is None else f"{spec.examples:,}, drawn once"
    return {
        "task": task.name,
        "training examples": data,
        "seeds": ", ".join(map(str, range(spec.seeds))),
        "every training": f"{recipe.epochs} epochs, batches of {recipe.batch_size}, AdamW with a "
        f"peak rate of {recipe.lr:g}",
        "weights judged by magnitude": "compete in the whole network"
        + (" by their share of the larger ones of their tensor" if spec.scope == "lamp" else ""),
        "every fine-tuning": f"{tuning.epochs} epochs at the same rate; of quantized weights of a "
        "network that is whole, a tenth of it",
        "every search": f"{spec.trials} variants, each trained for a moment; the full network "
        f"and, taught by it, the best three for {recipe.epochs} epochs",
        "methods": f"{len(spec.methods)}" + (f", {left_out} left out" if left_out else ""),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, "
        f"torch {torch.__version__}, widthwise {VERSION}",
    }
