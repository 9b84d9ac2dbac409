"""What the commands share: errors in one sentence, options that several take."""

import errno
import functools
import json
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Final, Literal, ParamSpec, TypeVar

import typer
from rich.table import Table

from widthwise.app.cli.output import fail, note, noting_warnings, table
from widthwise.app.report import text
from widthwise.app.report.curve import what_fits
from widthwise.app.runs.device import Device
from widthwise.app.runs.exports import shipped_size
from widthwise.app.runs.folder import Run
from widthwise.app.runs.opening import Opened
from widthwise.app.runs.record import ORDERED, Record
from widthwise.app.tasks import BUILT_IN, blame
from widthwise.app.tasks.blame import users_place
from widthwise.common.messages import EXTRAS, lacking
from widthwise.common.units import format_size, parse_share
from widthwise.errors import BudgetError, ExportError, WidthwiseError
from widthwise.graph.constraints import Constraints
from widthwise.measure.budget import Budget
from widthwise.measure.frontier import Frontier, Point
from widthwise.pruning.gradual.compete import Scope
from widthwise.train.recipe import Recipe

P = ParamSpec("P")
T = TypeVar("T")

AsJson = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print the result as one JSON document; all else goes to standard error.",
    ),
]


OnDevice = Annotated[
    Device,
    typer.Option(
        "--device",
        help="The device to train on; sweep also measures on it. auto: train on a GPU where there "
        "is one, and measure on the CPU.",
    ),
]


def share(given: str | float) -> float:
    """A share as an option takes it: 0.9 or 90%."""
    try:
        return parse_share(given)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


TaskName = Annotated[
    str,
    typer.Argument(
        metavar="TASK",
        help="A built-in task, or your own as file.py:function or package.module:function.",
    ),
]
RunFolder = Annotated[
    Path, typer.Argument(metavar="RUN", help="The folder that train or order wrote.")
]
From = Annotated[
    Path | None,
    typer.Option(
        "--from",
        metavar="FILE_OR_RUN",
        help="Trained weights: a run folder, or a safetensors file with the full network's state "
        "dict; by default those that the task comes with.",
    ),
]
Samples = Annotated[
    int, typer.Option(metavar="N", min=1, help="Most training samples to compute scores on.")
]
MaxBytes = Annotated[
    str | None,
    typer.Option(metavar="SIZE", help="Most bytes of the stored file, such as 300kB or 1.2MB."),
]
SeveralMaxBytes = Annotated[
    list[str] | None,
    typer.Option(
        metavar="SIZE",
        help="Most bytes of the stored file, such as 300kB or 1.2MB; may be repeated, for several "
        "networks that are post-processed in one go.",
    ),
]
Keep = Annotated[
    list[str] | None,
    typer.Option(
        metavar="AXIS",
        help="Keep this axis whole, or all that match a pattern such as 'embed*'; may be repeated.",
    ),
]
MultipleOf = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Only widths that are multiples of N, or full."),
]
AnyClass = Annotated[
    bool,
    typer.Option(
        "--any-class",
        help="Also take widths at which the network is a graph module rather than of its class.",
    ),
]
Shipped = Annotated[
    Literal["safetensors", "onnx", "torch"],
    typer.Option(
        "--format", help="Of the file whose bytes --max-bytes counts: the one that is shipped."
    ),
]
Int8 = Annotated[
    bool,
    typer.Option("--int8", help="With --format onnx: count the bytes of the ONNX file in int8."),
]
MaxParams = Annotated[int | None, typer.Option(metavar="N", min=1, help="Most parameters.")]
MaxMacs = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="Most multiply-accumulates per example.")
]
MaxLatency = Annotated[
    float | None,
    typer.Option("--max-latency-ms", metavar="MS", help="Longest time of one call, in ms."),
]
MinMetric = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        parser=share,
        help="Worst metric allowed, such as 0.97 or 97%; the most, where lower is better.",
    ),
]

Seed = Annotated[int, typer.Option(metavar="N", min=0, max=2**31 - 1, help="Random seed.")]
Epochs = Annotated[int | None, typer.Option(metavar="N", min=1, help="Passes over the data.")]
BatchSize = Annotated[int | None, typer.Option(metavar="N", min=1, help="Items in a step.")]
Rate = Annotated[float | None, typer.Option(metavar="X", help="Peak learning rate.")]
PruneStart = Annotated[
    float,
    typer.Option(
        metavar="SHARE", parser=share, help="Fraction of training at which pruning starts."
    ),
]
PruneEnd = Annotated[
    float,
    typer.Option(
        metavar="SHARE", parser=share, help="Fraction of training at which pruning stops."
    ),
]
COMPETING = (
    "Whether weights compete in each tensor, in the whole network (global), or there by their "
    "share of the larger ones of their tensor (lamp)."
)
Competing = Annotated[
    Scope,
    typer.Option(help=COMPETING),
]


def pick_within(
    budget: Budget,
    frontier: Frontier,
    size_of: Callable[[Point], int] | None = None,
    *,
    any_class: bool = False,
) -> Point:
    """The best point within a budget; `size_of` as `Frontier.pick` takes it.

    Of the user's class, where there is one, unless `any_class` or where a file for another runtime
    is counted, which has no class; what that costs is told on stderr. Raises BudgetError.
    """
    if not budget.limits:
        raise BudgetError(
            "There is no budget; give for example --max-bytes 300kB or --min-metric 0.97."
        )
    if budget.max_latency_ms is not None and all(p.latency_ms is None for p in frontier.points):
        raise BudgetError("Latency was not measured; sweep again without --no-latency.")
    best = frontier.within(budget, size_of=size_of)
    if any_class or size_of is not None or best.own_class is not False:
        return best
    try:
        own = frontier.within(budget, size_of=size_of, keep_class=True)
    except BudgetError:
        own = best
    note(_cost_of_class(frontier, own, best))
    return own


def _cost_of_class(frontier: Frontier, own: Point, best: Point) -> str:
    """What keeping the user's class costs, in one line."""
    if own.own_class is False:
        return (
            "no measured network within the budget is of the model's class, so this one is a graph "
            "module."
        )
    values = [text.value(frontier.metric, point.metric) for point in (own, best)]
    return (
        f"keeping the model's class gives {frontier.metric} {values[0]} in "
        f"{format_size(own.bytes)}; a graph module has {values[1]} in {format_size(best.bytes)} "
        "(--any-class)."
    )


def constrained(
    constraints: Constraints, keep: list[str] | None, multiple_of: int | None
) -> Constraints:
    """The constraints of a task, with the command line's on top."""
    multiples = dict(constraints.multiple_of) | ({"*": multiple_of} if multiple_of else {})
    return replace(constraints, keep=(*constraints.keep, *(keep or ())), multiple_of=multiples)


def recorded(constraints: Constraints) -> dict[str, Any]:
    """Constraints as a run's settings hold them."""
    return {} if constraints == Constraints() else dict(constraints.to_dict())


def size_of(
    opened: Opened, form: Literal["safetensors", "onnx", "torch"], int8: bool
) -> Callable[[Point], int] | None:
    """What `pick_within` counts; None for the bytes of `save`. Raises ExportError."""
    if int8 and form != "onnx":
        raise ExportError("--int8 is for ONNX files; give --format onnx with it.")
    return None if form == "safetensors" else shipped_size(opened, form, int8=int8)


def shipped_words(form: str, int8: bool) -> str:
    """What a format is called."""
    return {"onnx": "ONNX", "torch": "torch.export"}.get(form, form) + (" in int8" if int8 else "")


def cli_errors(command: Callable[P, T]) -> Callable[P, T]:
    """A command whose errors are one sentence on stderr, with exit code 1."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        with noting_warnings():
            try:
                return command(*args, **kwargs)
            except (typer.Exit, typer.Abort, typer.BadParameter):
                raise  # the command has said what there is to say
            except Exception as error:
                said = _sentence(error)
                if said is None:
                    raise
                fail(said, error)
            except KeyboardInterrupt as stopped:  # where there is nothing to say about going on
                typer.echo("Interrupted.", err=True)
                raise typer.Exit(130) from stopped

    return run


def _sentence(error: Exception) -> str | None:
    """What an error means to a user; None for a mistake in widthwise."""
    if isinstance(error, WidthwiseError):
        return str(error)
    if isinstance(error, ModuleNotFoundError):
        package = (error.name or "").partition(".")[0]
        return lacking(package) if package in EXTRAS else _blamed(error)
    return _refused(error) or _blamed(error)


_REFUSALS: Final = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO,
    errno.ENOMEM, errno.EMFILE, errno.ENFILE,
)  # fmt: skip


def _refused(error: Exception) -> str | None:
    """What the machine refused, as a sentence; None for what is a mistake of a program."""
    if isinstance(error, OSError) and error.errno in _REFUSALS:
        place = f" for {error.filename}" if error.filename else ""
        return (
            f"The system refused what was to be done{place} ({error.strerror}); make room or give "
            "the right to it, and run the same command again."
        )
    if _short_of_memory(error):
        return (
            "There is too little memory; free some, or ask for smaller batches or fewer workers, "
            "and run the same command again."
        )
    return None


def _blamed(error: Exception) -> str | None:
    """An error of the user's own code as a sentence; None for what did not come from there."""
    if users_place(error) is None:
        return None
    return f"{blame.described(error)}; correct that and run the same command again."


def _short_of_memory(error: BaseException | None) -> bool:
    """Whether it is that, or came of that: what is in want of memory fails in strange ways."""
    if error is None:
        return False
    # torch says so in a RuntimeError, the loader of compiled modules in an ImportError.
    words = ("out of memory", "allocate memory", "bad_alloc", "failed to map segment")
    if isinstance(error, MemoryError):
        return True
    told_so = isinstance(error, RuntimeError | ImportError)
    if told_so and any(word in str(error) for word in words):
        return True
    return _short_of_memory(error.__cause__) or _short_of_memory(error.__context__)


# Packages that not everyone needs -> the extra that brings them.


@contextmanager
def interruptible(command: str) -> Iterator[None]:
    """Ctrl-C or SIGTERM in a training says how to continue, with exit code 130."""
    with _as_interrupt():
        try:
            yield
        except KeyboardInterrupt as stopped:
            typer.echo(f"Interrupted; continue with the same command: {command}", err=True)
            raise typer.Exit(130) from stopped


@contextmanager
def all_or_nothing() -> Iterator[None]:
    """Ctrl-C or SIGTERM during work that keeps nothing says so, with exit code 130."""
    with _as_interrupt():
        try:
            yield
        except KeyboardInterrupt as stopped:
            typer.echo("Interrupted; the same command begins again.", err=True)
            raise typer.Exit(130) from stopped


@contextmanager
def _as_interrupt() -> Iterator[None]:
    """SIGTERM, with which machines are cleared, is Ctrl-C inside."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are not for other threads to handle
        return

    def hear(number: int, frame: FrameType | None) -> None:
        if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as shells begin what has an "&"
            signal.default_int_handler(number, frame)
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGTERM, hear)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def absolute(task: str) -> str:
    """The task's name, with the whole path of its file, so that it is found from any folder."""
    source, colon, function = task.rpartition(":")
    if task in BUILT_IN or not source.endswith(".py"):
        return task
    return f"{Path(source).expanduser().resolve()}{colon}{function}"


def facts(runs: list[Run], frontier: Frontier) -> Mapping[str, str]:
    """What the report says of the runs behind it."""
    records = [run.record() for run in runs]
    first = records[0]
    return {
        "task": first.settings.task,
        **_made(first),
        **({"started from": first.source} if first.source else {}),
        "seeds": ", ".join(str(record.settings.seed) for record in records),
        "command": first.command,
        "made": f"{first.started} to {first.finished}",
        **(
            {"post-processing": f"{frontier.post_process}, at every width"}
            if frontier.post_process
            else {}
        ),
        "latency": f"{frontier.runtime}, batch of {frontier.batch}",
        "versions": ", ".join(f"{name} {v}" for name, v in first.versions.items()),
    }


def _made(record: Record) -> Mapping[str, str]:
    """How a run's weights came about."""
    if record.settings.method == ORDERED:
        order = record.settings.order
        return {
            "order": f"{order['score']} scores on at most {order['samples']:,} training samples"
        }
    usual = json.loads(json.dumps(asdict(Recipe())))
    always = ("epochs", "batch_size", "lr")
    recipe = {
        name.replace("_", " "): value
        for name, value in record.settings.recipe.items()
        if name in always or value != usual.get(name)
    }
    return {
        "training": f"{record.settings.method} method, "
        + ", ".join(f"{name} {value}" for name, value in recipe.items())
    }


def fits_table(frontier: Frontier) -> Table:
    """The best network within some shares of the largest one's bytes."""
    made = table(
        "budget", "size", frontier.metric, "params", "MACs", "ms", "widths", text=("widths",)
    )
    for share, point in what_fits(frontier):
        made.add_row(
            f"{100 * share:g} %",
            format_size(point.bytes),
            text.value(frontier.metric, point.metric, point.spread),
            text.count(point.params),
            text.count(point.macs),
            text.milliseconds(point.latency_ms),
            text.widths(point.widths, 4),
        )
    return made
