"""`widthwise train TASK`: one training from which every width can be cut."""

import shlex
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from widthwise import steps
from widthwise.commands.common import (
    TaskName,
    absolute,
    console,
    interruptible,
    one_line,
    told,
)
from widthwise.errors import RunError
from widthwise.report import text
from widthwise.runs import Run, Settings, hold
from widthwise.sources import Source, find
from widthwise.tasks.resolve import resolve
from widthwise.tasks.task import Recipe

EXAMPLES = (
    "widthwise train digits --out runs/digits",
    "widthwise train mine.py:task --out runs/mine --epochs 30 --seeds 3",
    "widthwise train digits --from runs/ordered --out runs/elastic --epochs 10 --lr 0.001",
)
Method = Literal["default", "published", "plain"]


@told
def train(
    task: TaskName,
    out: Annotated[Path, typer.Option(metavar="RUN", help="The folder to make and to train in.")],
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="FILE_OR_RUN",
            help="Start from these trained weights: a run (one that order wrote, best of all), or "
            "a safetensors file.",
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Passes over the data.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Items in a step.")
    ] = None,
    lr: Annotated[float | None, typer.Option(metavar="X", help="Peak learning rate.")] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Of everything random.")] = 0,
    seeds: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, help="Train this many seeds, each in a folder inside RUN."
        ),
    ] = 1,
    method: Annotated[
        Method,
        typer.Option(
            help="default: sandwich passes with distillation. published: structural dropout "
            "(Knodt 2022). plain: full width only."
        ),
    ] = "default",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the run that is in the folder.")
    ] = False,
) -> None:
    """Train a task so that every width can be cut from it.

    The same command continues a run that was interrupted.

    What is not given is as the task's recipe says.
    """
    given = {"epochs": epochs, "batch_size": batch_size, "lr": lr}
    changed = {name: value for name, value in given.items() if value is not None}
    found = resolve(task)
    recipe = _recipe(found.recipe, changed)
    command = _command(task, out, source, method, seed, seeds, changed)
    start = None if source is None else find(found, source)
    if seeds > 1 and Run(out).record_file.exists():
        raise RunError(f"{out} holds a run of one seed; give another --out for several.")
    for s in range(seed, seed + seeds):
        digest = start.sha256 if start else ""
        order = start.order if start and method == "default" else {}
        comparable = order if order.get("score") in steps.COMPARABLE else {}
        settings = Settings(absolute(task), method, s, asdict(recipe), digest, comparable)
        folder = out if seeds == 1 else out / f"seed-{s}"
        _one(settings, start, folder, command, overwrite)
    console.print(f"Next: widthwise sweep {shlex.quote(str(out))}", markup=False, soft_wrap=True)


def _one(
    settings: Settings, start: Source | None, folder: Path, command: str, overwrite: bool
) -> None:
    with interruptible(command), hold(folder):
        run, state = steps.train(
            settings, folder, command=command, source=start, overwrite=overwrite
        )
    record = run.record()
    done = {"new": "Trained", "continued": "Continued and finished", "finished": "Finished before"}
    values = ", ".join(
        f"{split} {text.value(record.metric, value)}" for split, value in record.results.items()
    )
    console.print(
        f"{done[state]}: {folder}, {record.metric} at full width: {values}",
        markup=False,
        soft_wrap=True,
    )


def _recipe(recipe: Recipe, changed: dict[str, int | float]) -> Recipe:
    try:
        return replace(recipe, **changed)  # type: ignore[arg-type]  # the options' types fit
    except ValueError as error:
        raise typer.BadParameter(one_line(error)) from error


def _command(
    task: str,
    out: Path,
    source: Path | None,
    method: str,
    seed: int,
    seeds: int,
    changed: dict[str, int | float],
) -> str:
    """The command that makes this run, without what it leaves as it is by itself."""
    words = ["widthwise", "train", task, "--out", str(out)]
    words += [] if source is None else ["--from", str(source)]
    options: dict[str, str | int | float] = {**changed}
    usual: dict[str, str | int | float] = {"method": "default", "seed": 0, "seeds": 1}
    given: dict[str, str | int | float] = {"method": method, "seed": seed, "seeds": seeds}
    options |= {name: value for name, value in given.items() if value != usual[name]}
    for name, value in options.items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join(words)
