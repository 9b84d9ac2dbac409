"""`widthwise order TASK`: a trained network with its best features first, as a run folder."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from widthwise.app.cli.common import (
    AsJson,
    From,
    Keep,
    MultipleOf,
    Samples,
    Seed,
    TaskName,
    absolute,
    all_or_nothing,
    cli_errors,
    constrained,
    recorded,
)
from widthwise.app.cli.documents import of_run
from widthwise.app.cli.output import hint, line, print_json, watched
from widthwise.app.report import text
from widthwise.app.runs import orders, prunings
from widthwise.app.runs.folder import hold
from widthwise.app.runs.record import ORDERED, Settings
from widthwise.app.runs.sources import find
from widthwise.app.tasks.resolve import resolve
from widthwise.pruning.scores import registry

EXAMPLES = (
    "widthwise order digits --from runs/digits --out runs/ordered",
    "widthwise order mine.py:task --from mine.safetensors --out runs/mine --score obd",
    "widthwise order cifar10-resnet20 --out runs/resnet20 --samples 1000",
)


@cli_errors
def order(
    task: TaskName,
    out: Annotated[Path, typer.Option(metavar="RUN", help="The run folder to make.")],
    source: From = None,
    score: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            autocompletion=lambda: registry.names("features"),
            help="How features are judged. output-error: the loss that a feature costs when the "
            "others make up for it. obd, obd-sd, taylor, dropout-ablation: other estimates of that "
            "loss. magnitude: its weights. activation: how varied its values are. random: at "
            "random, for comparison. Or your own, which the task's file registers "
            "(register_score).",
        ),
    ] = "output-error",
    samples: Samples = prunings.SAMPLES,
    seed: Seed = 0,
    keep: Keep = None,
    multiple_of: MultipleOf = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the run that is in the folder.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Order a trained network by importance, so that every width can be cut from it.

    What it computes at full width stays the same. sweep, pick, cut and export take the run as one
    that was trained; train --from goes on from it.
    """
    found = resolve(task)
    start = find(found, source)
    constraints = recorded(constrained(found.constraints, keep, multiple_of))
    chosen = {"score": score, "samples": samples}
    settings = Settings(absolute(task), ORDERED, seed, {}, start.sha256, chosen)
    settings = replace(settings, constraints=constraints)
    command = _command(task, out, source, score, samples, seed)
    command += "".join(f" --keep {shlex.quote(axis)}" for axis in keep or ())
    command += f" --multiple-of {multiple_of}" if multiple_of else ""
    with all_or_nothing(), hold(out):
        run, state = orders.order(
            settings,
            start,
            out,
            command=command,
            overwrite=overwrite,
            progress=watched(),
        )
    if as_json:
        print_json({"task": found.name, "runs": [of_run(run, state)], "score": score})
        return
    record = run.record()
    values = ", ".join(
        f"{split} {text.value(record.metric, value)}" for split, value in record.results.items()
    )
    line(
        f"{'Finished before' if state == 'finished' else 'Ordered'}: {out}, by {score} scores, "
        f"{record.metric} at full width: {values}"
    )
    hint(f"Next: widthwise sweep {shlex.quote(str(out))}")


def _command(task: str, out: Path, source: Path | None, score: str, samples: int, seed: int) -> str:
    """The command that makes this run, without what it leaves as it is by itself."""
    words = ["widthwise", "order", task, "--out", str(out)]
    words += [] if source is None else ["--from", str(source)]
    given = {"--score": score, "--samples": samples, "--seed": seed}
    usual = {"--score": "output-error", "--samples": prunings.SAMPLES, "--seed": 0}
    for name, value in given.items():
        words += [] if value == usual[name] else [name, str(value)]
    return shlex.join(words)
