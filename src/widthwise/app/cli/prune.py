"""`widthwise prune TASK`: single weights of a trained network set to zero."""

import shlex
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from widthwise.app.cli.common import (
    COMPETING,
    AsJson,
    From,
    OnDevice,
    Samples,
    Seed,
    TaskName,
    all_or_nothing,
    cli_errors,
    share,
)
from widthwise.app.cli.output import hint, line, note, print_json, watched
from widthwise.app.report import text
from widthwise.app.runs import prunings
from widthwise.app.runs.device import computing_on
from widthwise.app.runs.folder import hold
from widthwise.app.runs.postprocessing import SLOWER
from widthwise.app.runs.sources import find
from widthwise.app.tasks.resolve import resolve
from widthwise.common.units import format_size
from widthwise.pruning.gradual.compete import Scope
from widthwise.pruning.scores import registry
from widthwise.store.packed.tensors import Pack

EXAMPLES = (
    "widthwise prune digits --from runs/digits --sparsity 0.9 --out sparse.safetensors",
    "widthwise prune digits --from runs/digits --sparsity 0.95 --score obd --rounds 4 "
    "--fine-tune 3 --out sparse.safetensors",
    "widthwise prune digits --from runs/digits --sparsity 0.9 --out sparse.safetensors "
    "--compress zstd",
)

Compress = Literal["none", "zstd"]


@cli_errors
def prune(
    task: TaskName,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The safetensors file to write.")],
    sparsity: Annotated[
        float,
        typer.Option(
            metavar="X",
            parser=share,
            help="Share of the weights that become zero, such as 0.9 or 90%.",
        ),
    ],
    source: From = None,
    score: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            autocompletion=lambda: registry.names("weights"),
            help="How weights are judged. magnitude: by their absolute value. obd, obd-sd, taylor: "
            "by estimates of what the loss would lose. chance: at random, for comparison. Or your "
            "own, which the task's file registers (register_score).",
        ),
    ] = "magnitude",
    scope: Annotated[
        Scope | None,
        typer.Option(
            help=COMPETING,
            show_default="lamp for magnitude, global for the other built-in scores",
        ),
    ] = None,
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
    samples: Samples = prunings.SAMPLES,
    seed: Seed = 0,
    dense: Annotated[
        bool,
        typer.Option(
            "--dense", help="Store zeros like any other number, for readers other than widthwise."
        ),
    ] = False,
    compress: Annotated[
        Compress, typer.Option(help="Compress what is stored; zstd needs the package zstandard.")
    ] = "none",
    device: OnDevice = "auto",
    as_json: AsJson = False,
) -> None:
    """Set single weights of a trained network to zero and store it without them.

    Matrices and kernels are pruned; biases and norms stay. Each tensor is stored in the form that
    takes the fewest bytes: all numbers, or those that are not zero and where they belong. The
    network that is read back has every weight as it was. It runs no faster for its zeros, nor with
    less memory.
    """
    if dense and compress != "none":
        raise typer.BadParameter("give --dense or --compress, not both.")
    found = resolve(task)
    how = prunings.Pruning(sparsity, score, scope, rounds, fine_tune, samples, seed)
    with computing_on(device), all_or_nothing(), ExitStack() as held:
        weights = find(found, source)
        if (run := prunings.home(weights, out)) is not None:
            held.enter_context(hold(run.folder))
        done = prunings.prune(
            found, weights, out, how, pack=_pack(dense, compress), progress=watched()
        )
    name = found.metric.name
    if not done.zeros:
        note("nothing was pruned, for no weight is zero.")
    if as_json:
        numbers = asdict(done)
        before, after = numbers.pop("before"), numbers.pop("after")
        network = {"file": out, "metric": name, "results": after, "results_before": before}
        print_json({"task": found.name, "networks": [network | numbers]})
        return
    changes = ", ".join(
        f"{split} {text.value(name, done.before[split])} before, {text.value(name, value)} after"
        for split, value in done.after.items()
    )
    line(
        f"Wrote {out}: {format_size(done.bytes)}{', with its zeros' if dense else ''}; "
        f"{format_size(done.published_bytes)} by the formula of Zhu & Gupta (what is not zero, "
        "and the cheaper of 1 bit a weight and 4 bits a non-zero)\n"
        f"{done.zeros:,} of {done.weights:,} weights are zero "
        f"({100 * done.zeros / max(1, done.weights):.2f} %); of all {done.params:,} parameters "
        f"{100 * done.nonzero / max(1, done.params):.2f} % are not zero\n"
        f"{name} of the file read back: {changes}"
    )
    target = shlex.quote(str(out.with_suffix(".onnx")))
    hint(
        f"Next: widthwise export {shlex.quote(str(out))} --task {shlex.quote(task)} "
        f"--format onnx --out {target}"
    )


def _pack(dense: bool, compress: Compress) -> Pack:
    if dense:
        return "none"
    return "zstd" if compress == "zstd" else "zeros"
