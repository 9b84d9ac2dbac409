"""`widthwise search RUN`: the best widths, zeros and bits within a budget, as a file."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from widthwise.app.cli.common import (
    AsJson,
    MaxBytes,
    MaxLatency,
    MaxMacs,
    OnDevice,
    RunFolder,
    Seed,
    cli_errors,
    interruptible,
)
from widthwise.app.cli.documents import of_pick
from widthwise.app.cli.output import hint, line, print_json, watched
from widthwise.app.report import text
from widthwise.app.runs import opening, storing
from widthwise.app.runs.device import computing_on
from widthwise.app.runs.folder import hold, single
from widthwise.app.runs.searches import RunSearch
from widthwise.common.units import format_size
from widthwise.measure.budget import Budget
from widthwise.quantization import Format, Uniform
from widthwise.variants import CompressedModel

EXAMPLES = (
    "widthwise search runs/digits --max-bytes 3kB --out small.safetensors",
    "widthwise search runs/digits --max-bytes 3kB --trials 100 --epochs 5 --out small.safetensors",
    "widthwise search runs/digits --max-bytes 5kB --max-macs 3000 --out small.safetensors",
)


@cli_errors
def search(
    run: RunFolder,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The safetensors file to write.")],
    max_bytes: MaxBytes = None,
    max_macs: MaxMacs = None,
    max_latency_ms: MaxLatency = None,
    trials: Annotated[
        int, typer.Option(metavar="N", min=1, help="How many variants to make and measure.")
    ] = 200,
    epochs: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Train every variant for a moment, and the best few for so many epochs, taught by "
            "the full network, which is first trained on as long; zeros stay zeros, weights "
            "quantized.",
        ),
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(metavar="X", help="Of that training; by default the recipe's."),
    ] = None,
    seed: Seed = 0,
    device: OnDevice = "auto",
    as_json: AsJson = False,
) -> None:
    """Search for the best variant of a run's network within a budget, and store it.

    A variant has a width for every axis, a share of zeros and a number of bits for every tensor.
    Those that are tried are measured on the validation split and kept in the run's folder: the same
    command goes on where it was stopped. The file is read back and measured on the test split
    before it is put in its place. This needs the package optuna.
    """
    if lr is not None and epochs is None:
        raise typer.BadParameter("--lr is of a training; give its --epochs too.")
    source = single(run)
    budget = Budget(max_bytes, max_macs=max_macs, max_latency_ms=max_latency_ms)
    options = {
        "--max-bytes": max_bytes,
        "--max-macs": max_macs,
        "--max-latency-ms": max_latency_ms,
        "--trials": trials,
        "--epochs": epochs,
        "--lr": lr,
        "--seed": seed,
    }
    command = _command(run, out, options)
    with computing_on(device), interruptible(command), hold(source.folder):
        storing.writable(out)
        opened = opening.open_run(source)
        searching = RunSearch(opened, budget, epochs, lr, watched())
        found = searching.run(trials=trials, seed=seed)
        pick, made = searching.store(found, out)
    metric = opened.record.metric
    if as_json:
        network = of_pick(out, pick, metric) | {
            "sparsity": made.variant.sparsity,
            "bits": {name: _form(form) for name, form in made.variant.bits.items()},
        }
        about = {"task": opened.task.name, "run": source.folder, "tried": len(found.tried)}
        print_json({**about, "networks": [network]})
        return
    rows = "".join(f"\n  {name}: {said}" for name, said in _tensors(made).items())
    line(
        f"Wrote {out}: {format_size(pick.bytes)}, {text.widths(pick.widths)}{rows}\n"
        f"Best of {len(found.tried)} within the budget: valid "
        f"{text.value(metric, found.best.metric)}\n"
        f"{metric} of the file read back: valid {text.value(metric, pick.valid)}, "
        f"test {text.value(metric, pick.test)}"
    )
    here = "" if out.resolve().parent == source.folder.resolve() else f" --task {_task(opened)}"
    target = shlex.quote(str(out.with_suffix(".onnx")))
    hint(f"Next: widthwise export {shlex.quote(str(out))}{here} --format onnx --out {target}")


def _command(run: Path, out: Path, options: Mapping[str, object]) -> str:
    """The command as it can be given again."""
    given = {**options, "--out": out}
    words = [str(w) for pair in given.items() if pair[1] is not None for w in pair]
    return shlex.join(["widthwise", "search", str(run), *words])


def _tensors(made: CompressedModel) -> dict[str, str]:
    """What became of every tensor with zeros or bits."""
    said: dict[str, list[str]] = {}
    for name, share in made.variant.sparsity.items():
        said.setdefault(name, []).append(f"{100 * share:.0f} % zeros")
    for name, form in made.variant.bits.items():
        said.setdefault(name, []).append(_form(form))
    return {name: ", ".join(words) for name, words in sorted(said.items())}


def _form(form: Format) -> str:
    return f"{form.bits} bits" if isinstance(form, Uniform) else f"{form.values} values"


def _task(opened: opening.Opened) -> str:
    return shlex.quote(opened.record.settings.task)
