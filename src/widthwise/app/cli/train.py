"""`widthwise train TASK`: one training from which every width can be cut."""

import shlex
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer

from widthwise.app.cli.common import (
    AsJson,
    BatchSize,
    Competing,
    Epochs,
    Keep,
    MultipleOf,
    OnDevice,
    PruneEnd,
    PruneStart,
    Rate,
    Seed,
    TaskName,
    absolute,
    cli_errors,
    constrained,
    interruptible,
    recorded,
    share,
)
from widthwise.app.cli.documents import of_run
from widthwise.app.cli.output import hint, line, notes, print_json
from widthwise.app.report import text
from widthwise.app.runs import training
from widthwise.app.runs.device import computing_on
from widthwise.app.runs.folder import Run, hold
from widthwise.app.runs.record import Settings, State
from widthwise.app.runs.sources import Source, find
from widthwise.app.tasks.resolve import resolve
from widthwise.common.messages import one_line
from widthwise.errors import RunError
from widthwise.pruning.gradual import Gradual
from widthwise.pruning.gradual.compete import Scope
from widthwise.pruning.scores.registry import is_comparable
from widthwise.task import Recipe
from widthwise.train.ranks import is_first
from widthwise.train.tracking import Tracker

EXAMPLES = (
    "widthwise train digits --out runs/digits",
    "widthwise train mine.py:task --out runs/mine --epochs 30 --seeds 3",
    "widthwise train digits --from runs/ordered --out runs/elastic --epochs 10 --lr 0.001",
    "widthwise train digits --out runs/sparse --sparsity 80%",
    "widthwise train digits --out runs/logged --log csv --log tensorboard",
)
Method = Literal["default", "published", "plain"]
Distillation = Literal["auto", "outputs", "none"]


@cli_errors
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
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    lr: Rate = None,
    seed: Seed = 0,
    seeds: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, help="Train this many seeds, each in a folder inside RUN."
        ),
    ] = 1,
    method: Annotated[
        Method,
        typer.Option(
            help="default: the full width first, then levels that its scores choose, taught by the "
            "full width. published: structural dropout (Knodt 2022). plain: full width only."
        ),
    ] = "default",
    sparsity: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            parser=share,
            help="Prune gradually while training, to this share of zeros, such as 0.8 or 80%: of "
            "the full width and of narrower ones alike. Files of the run are stored without zeros.",
        ),
    ] = None,
    prune_start: PruneStart = Gradual.begin,
    prune_end: PruneEnd = Gradual.end,
    scope: Competing = Gradual.scope,
    dpf: Annotated[
        bool,
        typer.Option(
            "--dpf",
            help="Let weights come back that were pruned wrongly (DPF, Lin 2020): masks are remade "
            "every 4 steps.",
        ),
    ] = False,
    sam: Annotated[
        float | None,
        typer.Option(
            metavar="RHO",
            help="Look for flat minima, which compress better (SAM, Foret 2021), such as 0.05; "
            "takes twice as long.",
        ),
    ] = None,
    keep: Keep = None,
    multiple_of: MultipleOf = None,
    distillation: Annotated[
        Distillation,
        typer.Option(
            help="What narrow widths learn from the full one. auto: as the task says, else what "
            "follows from its loss. outputs: to give the same outputs (mean squared difference). "
            "none: nothing, they have the loss alone."
        ),
    ] = "auto",
    log: Annotated[
        list[Tracker] | None,
        typer.Option(
            help="Also write what every epoch came to, into the run folder. csv: history.csv. "
            "tensorboard: events for TensorBoard, which must be installed. May be repeated."
        ),
    ] = None,
    device: OnDevice = "auto",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the run that is in the folder.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train a task so that every width can be cut from it.

    The same command continues a run that was interrupted. Started by torchrun or accelerate launch,
    the processes share each batch.

    What is not given is as the task's recipe says.
    """
    given = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "sam": sam}
    changed = {name: value for name, value in given.items() if value is not None}
    found = resolve(task)
    recipe = _recipe(found.recipe, changed)
    constraints = recorded(constrained(found.constraints, keep, multiple_of))
    if distillation != "auto" and method != "default":
        raise typer.BadParameter("--distillation is for --method default; leave one of them out.")
    pruning = _pruning(sparsity, prune_start, prune_end, scope, dpf)
    more: dict[str, Any] = {"method": method, "distillation": distillation, "seed": seed}
    more |= {"seeds": seeds, "log": log or [], "device": device}
    more |= {**pruning, "keep": keep or [], "multiple_of": multiple_of}
    command = _command(task, out, source, changed, more)
    start = None if source is None else find(found, source)
    if seeds > 1 and Run(out).record_file.exists():
        raise RunError(f"{out} holds a run of one seed; give another --out for several.")
    done: list[tuple[Run, State]] = []
    with computing_on(device):
        first = is_first()
        for s in range(seed, seed + seeds):
            digest = start.sha256 if start else ""
            order = start.order if start and method == "default" else {}
            comparable = order if is_comparable(order.get("score")) else {}
            settings = Settings(
                absolute(task), method, s, asdict(recipe), digest, comparable, pruning
            )
            settings = replace(settings, constraints=constraints, distillation=distillation)
            folder = out if seeds == 1 else out / f"seed-{s}"
            done.append(_one(settings, start, folder, command, overwrite, tuple(log or ())))
            if first and not as_json:
                _say(*done[-1])
    if as_json and first:
        print_json({"task": found.name, "runs": [of_run(*each) for each in done]})
    elif first:
        hint(f"Next: widthwise sweep {shlex.quote(str(out))}")


def _one(
    settings: Settings,
    start: Source | None,
    folder: Path,
    command: str,
    overwrite: bool,
    log: Sequence[Tracker],
) -> tuple[Run, State]:
    with interruptible(command), hold(folder) if is_first() else nullcontext():
        return training.train(
            settings,
            folder,
            command=command,
            source=start,
            overwrite=overwrite,
            log=log,
            progress=not notes.quiet,
        )


_STATES: Final[Mapping[State, str]] = {
    "new": "Trained",
    "continued": "Continued and finished",
    "longer": "Trained on",
    "finished": "Finished before",
}


def _say(run: Run, state: State) -> None:
    record = run.record()
    values = ", ".join(
        f"{split} {text.value(record.metric, value)}" for split, value in record.results.items()
    )
    values += "".join(f", test {name} {v:.4g}" for name, v in record.extra_metrics.items())
    line(f"{_STATES[state]}: {run.folder}, {record.metric} at full width: {values}")


def _recipe(recipe: Recipe, changed: dict[str, int | float]) -> Recipe:
    try:
        return replace(recipe, **changed)  # type: ignore[arg-type]  # the options' types fit
    except ValueError as error:
        raise typer.BadParameter(one_line(error)) from error


def _pruning(
    sparsity: float | None, begin: float, end: float, scope: Scope, dpf: bool
) -> dict[str, Any]:
    """The fields of `Gradual`, none for a dense training."""
    others = (begin, end, scope, dpf)
    if sparsity is None:
        if others != (Gradual.begin, Gradual.end, Gradual.scope, Gradual.dpf):
            raise typer.BadParameter(
                "--prune-start, --prune-end, --scope and --dpf say how to prune; give "
                "--sparsity too."
            )
        return {}
    try:
        return asdict(Gradual(sparsity, begin, end, scope=scope, dpf=dpf))
    except ValueError as error:
        raise typer.BadParameter(one_line(error)) from error


_USUAL: dict[str, Any] = {"method": "default", "distillation": "auto", "seed": 0, "seeds": 1}
_USUAL |= asdict(Gradual(0.5)) | {"keep": [], "multiple_of": None, "log": [], "device": "auto"}


def _command(
    task: str,
    out: Path,
    source: Path | None,
    changed: Mapping[str, Any],
    more: Mapping[str, Any],
) -> str:
    """The command that makes this run, without what it leaves as it is by itself."""
    words = ["widthwise", "train", task, "--out", str(out)]
    words += [] if source is None else ["--from", str(source)]
    said = {name: v for name, v in more.items() if name == "sparsity" or v != _USUAL[name]}
    for name, value in {**changed, **said}.items():
        for each in value if isinstance(value, list) else [value]:
            words += [f"--{name.replace('_', '-')}"] + ([] if each is True else [str(each)])
    return shlex.join(words)
