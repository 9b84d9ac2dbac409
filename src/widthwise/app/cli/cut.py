"""`widthwise cut RUN`: one smaller network as a file, checked by reading it back."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from widthwise.app.cli.common import (
    AnyClass,
    AsJson,
    Int8,
    MaxLatency,
    MaxMacs,
    MaxParams,
    MinMetric,
    OnDevice,
    RunFolder,
    SeveralMaxBytes,
    Shipped,
    all_or_nothing,
    cli_errors,
    facts,
    pick_within,
    share,
    shipped_words,
    size_of,
)
from widthwise.app.cli.documents import of_pick
from widthwise.app.cli.output import hint, line, note, print_json, watched
from widthwise.app.cli.several import files
from widthwise.app.report import text
from widthwise.app.report.picks import Pick
from widthwise.app.runs import cuts, cuts_in_bits, opening, reports
from widthwise.app.runs.device import computing_on
from widthwise.app.runs.folder import hold, read_frontier, single
from widthwise.app.runs.postprocessing import (
    EPOCHS,
    LARGE,
    SMALL,
    TAUGHT,
    TAUGHT_SMALL,
    PostProcess,
    PostProcessing,
)
from widthwise.app.tasks.noted import task_of
from widthwise.common.messages import one_line
from widthwise.common.units import format_size
from widthwise.elastic.network import Elastic
from widthwise.errors import TaskError
from widthwise.measure.budget import Budget
from widthwise.measure.frontier import Frontier, Point
from widthwise.store.file import prepare, read_manifest
from widthwise.variant import Widths

EXAMPLES = (
    "widthwise cut runs/digits --max-bytes 10kB --out small.safetensors",
    "widthwise cut runs/digits --max-bytes 10kB --out small.safetensors --json",
    "widthwise cut runs/digits --max-bytes 5kB --max-bytes 10kB --out small",
    "widthwise cut runs/digits --max-bytes 20kB --format onnx --out small.safetensors",
    "widthwise cut runs/digits --max-bytes 2kB --bits 4 --bits 3 --out coded.safetensors",
    "widthwise cut runs/digits --fraction 25% --out quarter.safetensors --post-process distill",
    "widthwise cut runs/digits --width fc1=16 --width fc2=8 --out own.safetensors",
    "widthwise cut runs/ordered --max-bytes 10kB --out small.safetensors",
    "widthwise cut runs/ordered --max-bytes 10kB --out small.safetensors "
    "--post-process reconstruct --post-process fine-tune --epochs 3",
)

_ALONE = (
    "--bits has a training of its own and writes safetensors files; leave out --post-process, "
    "--epochs, --lr, --format and --no-recalibrate."
)


@cli_errors
def cut(
    run: RunFolder,
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="The safetensors file to write; with several --max-bytes, a folder of them.",
        ),
    ],
    max_bytes: SeveralMaxBytes = None,
    max_params: MaxParams = None,
    max_macs: MaxMacs = None,
    max_latency_ms: MaxLatency = None,
    min_metric: MinMetric = None,
    form: Shipped = "safetensors",
    int8: Int8 = False,
    any_class: AnyClass = False,
    bits: Annotated[
        list[int] | None,
        typer.Option(
            metavar="N",
            min=2,
            max=8,
            help="Bits of every weight in the file, rather than 32: --max-bytes then takes the "
            "widest network along the levels that fits, and the full network teaches it while its "
            "weights are quantized. With --max-bytes it may be repeated, for the best of several.",
        ),
    ] = None,
    fraction: Annotated[
        float | None,
        typer.Option(
            metavar="X", parser=share, help="Keep this share of every axis, such as 0.5 or 50%."
        ),
    ] = None,
    width: Annotated[
        list[str] | None,
        typer.Option(metavar="AXIS=N", help="Keep N features of an axis; may be repeated."),
    ] = None,
    post_process: Annotated[
        list[PostProcess] | None,
        typer.Option(
            help="May be repeated, in the order wanted; by default what the sweep did to every "
            "width (before any sweep, reconstruct for runs of order) and, for runs trained along "
            f"levels and networks below {LARGE:.0%} of the MACs, distill. distill is kept "
            "where the validation data say so. none: the plain cut. refit: solve the output "
            "layer again. distill: train on what the full network gives. reconstruct: fit every "
            "layer to the full network's, without labels. fine-tune: train on with the task's "
            "loss. merge: add the features that go to those that stay. scratch: the same shape "
            "newly initialised and trained with the task's recipe, for comparison."
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help=f"Of distill (by default {TAUGHT:.0%} of the recipe's, and {TAUGHT_SMALL:.0%} for "
            f"networks below {SMALL:.0%} of the MACs), fine-tune ({EPOCHS}) or scratch (all "
            "of the recipe's).",
        ),
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Of distill (by default the recipe's for the full network, and more for small "
            "ones), fine-tune (a tenth of it) or scratch (the recipe's).",
        ),
    ] = None,
    recalibrate: Annotated[
        bool, typer.Option(help="Re-estimate batch-norm statistics for the cut network.")
    ] = True,
    device: OnDevice = "auto",
    as_json: AsJson = False,
) -> None:
    """Cut a run's network to a budget, a fraction or given widths, and store it.

    For runs trained along levels, a budget of bytes is filled: what is cut may lie between two
    measured widths. The file is read back and measured on the test split before it is put in its
    place.
    """
    sizes: list[str | None] = [*max_bytes] if max_bytes else [None]
    budgets = [Budget(b, max_params, max_macs, max_latency_ms, min_metric) for b in sizes]
    named = Widths(dict(map(_parsed, width or [])))
    wanted = _Wanted(budgets, form, int8, bits or [], fraction, named, any_class)
    wanted.check()
    post_processing = _post_processing(post_process, epochs, lr)
    if bits and (post_processing is not None or not recalibrate):
        raise typer.BadParameter(_ALONE)
    source = single(run)
    outs = files(out, max_bytes or (), ".safetensors")
    with computing_on(device), all_or_nothing(), hold(source.folder):
        # Read before anything is written: a damaged file must not stop the work half-way.
        swept = wanted.measured or source.frontier.exists()
        frontier = read_frontier(source.folder) if swept else None
        opened = opening.open_run(source)
        widths, shipped = _chosen(opened, wanted, frontier)
        shown = watched()
        if not bits:
            picks = cuts.cut(
                opened,
                widths,
                outs,
                post_processing=post_processing,
                recalibrate=recalibrate,
                progress=shown,
            )
        elif max_bytes:
            picks = cuts_in_bits.cut_to_bytes(opened, bits, max_bytes, outs, progress=shown)
        else:
            picks = cuts_in_bits.cut_at(opened, bits[0], widths, outs, progress=shown)
        if frontier is not None:
            _republish(opened, frontier)
    if not bits:
        for pick in picks:
            _say_when_nothing(opened.net, pick.widths)
    if as_json:
        _print_json(opened, outs, picks, form, shipped)
    else:
        _print(opened, outs, picks, wanted, shipped)


@dataclass(frozen=True)
class _Wanted:
    """How much to keep: budgets, or a share of every axis, or widths by name."""

    budgets: list[Budget]
    form: Literal["safetensors", "onnx", "torch"]
    int8: bool
    bits: list[int]
    fraction: float | None
    widths: Widths
    any_class: bool

    @property
    def limited(self) -> bool:
        return bool(self.budgets[0].limits)

    @property
    def bytes_limited(self) -> bool:
        return self.budgets[0].max_bytes is not None

    @property
    def measured(self) -> bool:
        """Whether a sweep's frontier is chosen from; in bits, files themselves are tried."""
        return self.limited and not (self.bits and self.bytes_limited)

    def check(self) -> None:
        """Refuse what does not go together. Raises typer.BadParameter."""
        if self.limited + (self.fraction is not None) + bool(self.widths) != 1:
            raise typer.BadParameter(
                "say how much to keep in one way: by limits such as --max-bytes 10kB, by "
                "--fraction, or by --width AXIS=N."
            )
        if (self.form != "safetensors" or self.int8) and not self.bytes_limited:
            raise typer.BadParameter(
                "--format says which file --max-bytes counts; give --max-bytes."
            )
        if self.bits:
            self._check_bits()

    def _check_bits(self) -> None:
        if self.form != "safetensors":
            raise typer.BadParameter(_ALONE)
        if self.budgets[0].min_metric is not None:
            raise typer.BadParameter(
                "--min-metric is of networks in floats; leave it out with --bits."
            )
        if len(self.bits) > 1 and not self.bytes_limited:
            raise typer.BadParameter("several --bits are for --max-bytes; name one.")
        if self.bytes_limited and not self.budgets[0].only_bytes:
            raise typer.BadParameter(
                "--bits takes --max-bytes alone, or limits without --max-bytes."
            )


def _chosen(
    opened: opening.Opened, wanted: _Wanted, frontier: Frontier | None
) -> tuple[list[Widths], list[int]]:
    """The widths to cut, and the bytes of what is shipped where that is another file."""
    if wanted.limited and not wanted.measured:
        return [], []
    if not wanted.limited or frontier is None:
        fraction = wanted.fraction
        if fraction is None:
            return [wanted.widths], []
        return [_fraction(opened.net, fraction, wanted.any_class)], []
    counted = size_of(opened, wanted.form, wanted.int8)
    points = [pick_within(b, frontier, counted, any_class=wanted.any_class) for b in wanted.budgets]
    if counted is not None:
        return [point.widths for point in points], [counted(point) for point in points]
    both = zip(wanted.budgets, points, strict=True)
    return [_filled(opened, frontier, b, point) for b, point in both], []


def _print_json(
    opened: opening.Opened, outs: list[Path], picks: list[Pick], form: str, shipped: list[int]
) -> None:
    metric = opened.record.metric
    networks = [of_pick(out, pick, metric) for out, pick in zip(outs, picks, strict=True)]
    for network, size in zip(networks, shipped, strict=False):
        network |= {"format": form, "shipped_bytes": size}
    print_json({"task": opened.task.name, "run": opened.run.folder, "networks": networks})


def _print(
    opened: opening.Opened,
    outs: list[Path],
    picks: list[Pick],
    wanted: _Wanted,
    shipped: list[int],
) -> None:
    for i, pick in enumerate(picks):
        _say(outs[i], pick, opened.record.metric)
        if shipped:
            line(f"As {shipped_words(wanted.form, wanted.int8)}: {format_size(shipped[i])}")
    here = _task(opened, outs[0])
    torch_file = wanted.form == "torch"
    target = shlex.quote(str(outs[0].with_suffix(".pt2" if torch_file else ".onnx")))
    kind = ("torch" if torch_file else "onnx") + (" --int8" if wanted.int8 else "")
    hint(f"Next: widthwise export {shlex.quote(str(outs[0]))}{here} --format {kind} --out {target}")


def _filled(opened: opening.Opened, frontier: Frontier, budget: Budget, point: Point) -> Widths:
    """What to cut: wider than the measured network, where only bytes are limited and leave room."""
    if budget.max_bytes is None or not budget.only_bytes:
        return point.widths
    return cuts.filled(opened, frontier, point, budget.max_bytes)


def _say(out: Path, pick: Pick, metric: str) -> None:
    post_processed = f"; post-processing {pick.post_process}" if pick.post_process else ""
    line(
        f"Wrote {out}: {format_size(pick.bytes)}, {text.widths(pick.widths)}{post_processed}\n"
        f"{metric} of the file read back: valid {text.value(metric, pick.valid)}, "
        f"test {text.value(metric, pick.test)}"
    )


def _post_processing(
    names: list[PostProcess] | None, epochs: int | None, lr: float | None
) -> PostProcessing | None:
    """The post-processing asked for; None where nothing was said of them."""
    if not names and (epochs, lr) == (None, None):
        return None
    try:
        return PostProcessing(tuple(names or ()), epochs, lr)
    except ValueError as error:
        raise typer.BadParameter(one_line(error)) from error


def _fraction(net: Elastic, fraction: float, any_class: bool) -> Widths:
    """The widths of a fraction, or near ones at which the network is of its class."""
    wanted = net.complete(net.widths(fraction))
    if any_class:
        return wanted
    near = net.realizable(wanted)
    if dict(near) in (dict(wanted), dict(net.full())):
        return wanted
    sizes = [format_size(prepare(net, widths).bytes) for widths in (near, wanted)]
    note(
        f"these widths keep the model's class, in {sizes[0]}; a graph module of this "
        f"fraction has {sizes[1]} (--any-class)."
    )
    return near


def _parsed(said: str) -> tuple[str, int]:
    """'fc1=64' as ("fc1", 64)."""
    axis, equals, number = said.rpartition("=")
    try:
        if axis and equals:
            return axis, int(number)
    except ValueError:
        pass
    raise typer.BadParameter(f"{said!r} is not a width; write AXIS=N, such as fc1=64.")


def _republish(opened: opening.Opened, frontier: Frontier) -> None:
    """Mark the pick in the picture and the page."""
    title = f"{opened.task.name}: {frontier.metric} at every size"
    reports.publish(opened.run.folder, frontier, title=title, facts=facts([opened.run], frontier))


def _say_when_nothing(net: Elastic, asked: Mapping[str, int]) -> None:
    if net.complete(asked) == dict(net.full()):
        note("nothing was cut, for these are the full widths.")


def _task(opened: opening.Opened, out: Path) -> str:
    """The option that a file needs because its task is not found by what it notes."""
    task = opened.record.settings.task
    try:
        near = task_of(read_manifest(out).task, out) == task
    except TaskError:
        near = out.resolve().parent == opened.run.folder.resolve()
    return "" if near else f" --task {shlex.quote(task)}"
