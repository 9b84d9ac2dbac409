"""`widthwise prune TASK`: single weights of a trained network set to zero."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from widthwise import trained
from widthwise.commands.common import (
    From,
    Samples,
    TaskName,
    all_or_nothing,
    console,
    notes,
    told,
)
from widthwise.measure.size import format_size
from widthwise.report import text
from widthwise.sources import find
from widthwise.tasks.resolve import resolve
from widthwise.touchups import SLOWER

EXAMPLES = (
    "widthwise prune digits --from runs/digits --sparsity 0.9 --out sparse.safetensors",
    "widthwise prune digits --from runs/digits --sparsity 0.95 --score obd --rounds 4 "
    "--fine-tune 3 --out sparse.safetensors",
)


@told
def prune(
    task: TaskName,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The safetensors file to write.")],
    sparsity: Annotated[
        float, typer.Option(metavar="X", help="Share of the weights that become zero, such as 0.9.")
    ],
    source: From = None,
    score: Annotated[
        trained.WeightScore,
        typer.Option(
            help="How weights are judged: by their absolute value, by estimates of what the loss "
            "would lose, or at random."
        ),
    ] = "magnitude",
    rounds: Annotated[
        int, typer.Option(metavar="N", min=1, help="Rounds of scoring and removing.")
    ] = 1,
    fine_tune: Annotated[
        int,
        typer.Option(
            metavar="EPOCHS",
            min=0,
            help=f"Train on after each round, at a {SLOWER}th of the recipe's learning rate; zeros "
            "stay zeros.",
        ),
    ] = 0,
    samples: Samples = trained.SAMPLES,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Of everything random.")] = 0,
) -> None:
    """Set single weights of a trained network to zero and store it, dense.

    Matrices and kernels are pruned; biases and norms stay. The zeros are stored like any other
    number, so the file is no smaller.
    """
    found = resolve(task)
    how = trained.Pruning(sparsity, score, rounds, fine_tune, samples, seed)
    with all_or_nothing():
        done = trained.prune(found, find(found, source), out, how, progress=notes.is_terminal)
    name = found.metric.name
    changes = ", ".join(
        f"{split} {text.value(name, done.before[split])} before, {text.value(name, value)} after"
        for split, value in done.after.items()
    )
    console.print(
        f"Wrote {out}: {format_size(done.bytes)}, stored dense: zeros take as much room as other "
        "numbers, so the file is no smaller.\n"
        f"{done.zeros:,} of {done.weights:,} weights are zero "
        f"({100 * done.zeros / max(1, done.weights):.2f} %; of all {done.params:,} parameters "
        f"{100 * done.zeros / max(1, done.params):.2f} %)\n"
        f"{name} of the file read back: {changes}",
        markup=False,
        soft_wrap=True,
    )
    if not done.zeros:
        typer.echo("Note: nothing was pruned, for no weight is zero.", err=True)
    target = shlex.quote(str(out.with_suffix(".onnx")))
    console.print(
        f"Next: widthwise export {shlex.quote(str(out))} --task {shlex.quote(task)} "
        f"--format onnx --out {target}",
        markup=False,
        soft_wrap=True,
    )
