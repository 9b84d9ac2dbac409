"""What the commands do to a run folder: functions that neither parse nor print.

    opened = open_run(run)                       # that `training.train` or `trained.order` made
    frontier = sweep_run(opened)
    point = frontier.pick(max_bytes="10kB")
    pick = cut(opened, point.widths, Path("small.safetensors"))

A file that any of them writes has been read back, and the numbers they return are those of the
network that was read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

from widthwise.bits import Quantized
from widthwise.choose.draws import Draw, smallest
from widthwise.elastic import Elastic
from widthwise.errors import FileError, RunError, TrainingError
from widthwise.importance import allocated_ladder, held_at_zero, zeros_of
from widthwise.measure.frontier import Frontier
from widthwise.measure.recalibrate import has_statistics
from widthwise.measure.recalibrate import recalibrate as estimate_statistics
from widthwise.measure.sweep import Evaluation, ladder, sweep
from widthwise.report import html, plot
from widthwise.report.picks import Pick, load_picks, save_picks
from widthwise.runs import Record, Run
from widthwise.store import scorefile
from widthwise.store.atomic import beside
from widthwise.store.export import export_onnx, export_program
from widthwise.store.file import load, save
from widthwise.store.manifest import Measured
from widthwise.store.packedfile import Pack
from widthwise.tasks.resolve import resolve
from widthwise.tasks.task import Splits, Task
from widthwise.touchups import TouchUp, TouchUps, begun, compensation, touch_up, usual
from widthwise.train.batches import Plan, length, own_randomness, stream
from widthwise.variant import Widths

By = Literal["scores", "fraction"]
# Scores that estimate a change of the loss can be compared across axes.
COMPARABLE: Final = ("reconstruction", "obd", "obd-sd", "taylor", "damage")
Format = Literal["onnx", "torch"]
_BATCH = 256  # items evaluated at once
_STATISTICS = 100  # batches on which batch-norm statistics are estimated
SAMPLES: Final = 2000  # of the training data, for touch-ups that need no whole training
RUNGS: Final = 16  # widths of a sweep, or of a training, by scores


@dataclass(frozen=True)
class Opened:
    """A finished run and what it is made of: its record, task and trained network."""

    run: Run
    record: Record
    task: Task
    net: Elastic

    @property
    def pack(self) -> Pack:
        """How its networks are stored: without the zeros, where it was pruned."""
        return "zeros" if self.record.settings.pruning else "none"


def open_run(run: Run) -> Opened:
    """The network that a finished run trained or ordered. Raises RunError, FileError, TaskError."""
    record = run.finished_record()
    task = resolve(record.settings.task)
    try:
        draw = Draw(**record.draw)
    except (TypeError, ValueError) as error:
        raise RunError(
            f"{run.record_file} holds a draw that cannot be ({str(error).rstrip('.')}); train "
            "again with --overwrite."
        ) from error
    model = load(run.model, build=task.model)
    return Opened(run, record, task, Elastic(model, task.example(), draw=draw))


def sweep_run(
    opened: Opened,
    *,
    count: int | None = None,
    by: By | None = None,
    split: str = "valid",
    latency: bool = True,
    recalibrate: bool = True,
    compensate: bool | None = None,
    progress: bool = False,
) -> Frontier:
    """Measure widths of a run on one of its splits and keep the frontier in its folder.

    count: how many widths; None is every width of a small network, else 16. Widths below the
    lowest that training draws are left out, where training drew any.
    by: "fraction" keeps the same share of every axis; "scores" gives each axis its own width,
    decided by those of an ordered run, 16 times where no count is given. None as `widths_by` says.
    recalibrate: estimate batch-norm statistics for each width on training data.
    compensate: measure cuts whose weights were fitted to make up for what went, as the frontier
    then says and `cut` then does. None does so for ordered runs and what was trained on from them,
    whose features have not, or not for long, learned to do without the others.

    Raises RunError, DataError, FileError, ScoreError, TrainingError.
    """
    if compensate is None:
        compensate = bool(opened.record.settings.order)
    widths = _widths(opened, count, by or widths_by(opened.record))
    task, net, seed = opened.task, opened.net, opened.record.settings.seed
    data = task.splits()
    fit_anew = None
    if compensate:
        samples = sample(task, data, SAMPLES, seed)
        fit_anew = compensation(net, samples, statistics=recalibrate)
    frontier = sweep(
        net,
        evaluation(task, data, split),
        widths,
        latency=latency,
        recalibrate=statistics_batches(task, data) if recalibrate else None,
        touch_up=fit_anew,
        pack=opened.pack,
        progress=progress,
        seed=seed,
    )
    frontier = replace(frontier, touch_up=TouchUp.COMPENSATE.value if compensate else "")
    frontier.save(opened.run.frontier)
    return frontier


def widths_by(record: Record) -> By:
    """How a run is swept by itself: by scores, where it has some that compare across axes."""
    return "scores" if record.settings.order.get("score") in COMPARABLE else "fraction"


def cut(
    opened: Opened,
    widths: Mapping[str, int],
    out: Path,
    *,
    touch_ups: TouchUps | None = None,
    recalibrate: bool = True,
    progress: bool = False,
) -> Pick:
    """Cut a run's network, store it in `out`, and note it among the picks of the run.

    touch_ups: what is done to the cut network before it is stored; None as `usual_touch_ups` says.
    recalibrate: estimate batch-norm statistics on training data, as `sweep_run` does.

    Raises WidthError, DataError, FileError, ScoreError, TrainingError.
    """
    kept = opened.net.complete(widths)
    how = usual_touch_ups(opened, kept) if touch_ups is None else touch_ups
    task, run = opened.task, opened.run
    writable(out)
    load_picks(run.picks)  # damaged ones are found before the work is done
    data = task.splits()
    module = made(opened, kept, data, how, recalibrate=recalibrate, progress=progress)
    results = store_checked(opened.net, kept, module, out, task, data, opened.pack)
    pick = Pick(
        name=out.stem,
        widths=dict(kept),
        bytes=out.stat().st_size,
        valid=results["valid"],
        test=results["test"],
        file=inside(out, run.folder),
        touch_up=", ".join(name for name in how.names if name is not TouchUp.NONE),
    )
    note(run, pick)
    return pick


def made(
    opened: Opened,
    widths: Mapping[str, int],
    data: Splits,
    how: TouchUps,
    *,
    recalibrate: bool = True,
    progress: bool = False,
) -> nn.Module:
    """The cut network that `cut` stores, on the CPU; the run is left as it is.

    Raises WidthError, ScoreError, TrainingError.
    """
    task, seed = opened.task, opened.record.settings.seed

    def batches() -> list[Any]:
        return sample(task, data, SAMPLES, seed)

    module = begun(opened.net, widths, how, batches)
    if recalibrate and has_statistics(module):
        estimate_statistics(module, statistics_batches(task, data))
    with held_at_zero(module, zeros_of(module) if opened.pack == "zeros" else {}):
        touch_up(
            module,
            opened.net,
            widths,
            task,
            data.train,
            how,
            batches,
            statistics=recalibrate,
            seed=seed,
            progress=progress,
        )
    return module.cpu()


def note(run: Run, pick: Pick) -> None:
    """Keep a pick among those of a run, in the place of one of its name. Raises FileError."""
    others = [p for p in load_picks(run.picks) if p.name != pick.name]
    save_picks(run.picks, sorted([*others, pick], key=lambda p: -p.bytes))


def usual_touch_ups(opened: Opened, widths: Mapping[str, int]) -> TouchUps:
    """Those of a cut where none are named: what the points of the run's frontier had.

    Without a frontier, those that a sweep would give it. Raises WidthError, FileError.
    """
    if opened.net.complete(widths) == dict(opened.net.full()):
        return TouchUps()  # nothing went that could be made up for
    path = opened.run.frontier
    frontier = Frontier.load(path) if path.exists() else None
    return usual(frontier, ordered=bool(opened.record.settings.order))


def export(module: nn.Module, task: Task, path: Path, form: Format) -> None:
    """Write a network for another runtime, where it has been run and compared.

    Raises ExportError, FileError.
    """
    write = export_onnx if form == "onnx" else export_program
    write(module, task.example(), path)


def onnx_metric(path: Path, task: Task, data: Splits) -> float:
    """The metric on the test split of an ONNX file, run by ONNX Runtime."""
    return evaluation(task, data, "test")(_Served(path))


class _Served(nn.Module):
    """An ONNX file as a module; its inputs are tensors by position."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        import onnxruntime

        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        self.names = [given.name for given in self.session.get_inputs()]

    def forward(self, *inputs: Tensor) -> Any:
        feed = {name: x.numpy() for name, x in zip(self.names, inputs, strict=True)}
        outputs = [torch.from_numpy(out) for out in self.session.run(None, feed)]
        return outputs[0] if len(outputs) == 1 else tuple(outputs)


def store_checked(
    net: Elastic,
    widths: Mapping[str, int],
    module: nn.Module,
    path: Path,
    task: Task,
    data: Splits,
    pack: Pack = "none",
    bits: Mapping[str, Quantized] | None = None,
) -> dict[str, float]:
    """Store a cut network, read it back, and measure what was read: split -> metric.

    module: the cut of `net` at `widths`, with weights that may have been changed since. pack, bits:
    as `save` takes them. Raises FileError, leaving what was at `path` before, when the network that
    is read back is not as good as the stored one, and TrainingError for a metric that is no number.
    """
    name = task.metric.name
    value = evaluation(task, data, "test")(module)
    if not math.isfinite(value):
        raise TrainingError(
            f"The {name} on the test split is {value}; look for classes or values that these data "
            "or the network's outputs lack, or give the task another metric."
        )
    with beside(path) as made:
        noted = Measured(name, value, "test")
        save(net, made, widths=widths, module=module, metric=noted, pack=pack, bits=bits)
        read = load(made, build=task.model)
        results = {split: evaluation(task, data, split)(read) for split in ("valid", "test")}
        if not same(results["test"], value):
            raise FileError(
                f"The network read back from {path.name} has {name} {results['test']:.6g} and not "
                f"{value:.6g}; its model's class may keep state that is no parameter or buffer."
            )
    return results


def writable(out: Path) -> None:
    """Raise FileError, before the work is done, where no file can be put or a run has its own."""
    if out.is_dir():
        raise FileError(f"{out} is a folder; give the file to write.")
    if not out.parent.is_dir():
        raise FileError(f"There is no folder {out.parent}; make it, or give another file.")
    run = Run(out.resolve().parent)
    if run.record_file.exists() and out.resolve() in run.files:
        raise FileError(f"{out} belongs to the run in that folder; give another file.")


def same(a: float, b: float) -> bool:
    """Whether two measured values agree to rounding; one more item classified wrongly does not."""
    return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9)


def publish(
    folder: Path, frontier: Frontier, *, title: str, facts: Mapping[str, str]
) -> tuple[Path, Path]:
    """Write the picture and the page of a run folder; returns their paths. Raises FileError."""
    place = Run(folder)
    picks = load_picks(place.picks)
    plot.draw(frontier, place.picture, title=title, picks=picks)
    html.write(frontier, place.page, title=title, picks=picks, facts=facts)
    return place.picture, place.page


def evaluation(task: Task, data: Splits, split: str) -> Evaluation:
    """How a network of this task is measured on one of its splits."""
    items = {"train": data.train, "valid": data.valid, "test": data.test}[split]
    return Evaluation(_in_order(items), task.metric, split)


def sample(task: Task, data: Splits, count: int, seed: int) -> list[Any]:
    """Batches of so many training samples, or of all, drawn at random."""
    order = torch.cat(list(Plan(length(data.train), task.recipe.batch_size, seed).epoch(0)))[:count]
    # Parts of about the same size: batches are compared with each other, and none is of a few.
    parts = order.tensor_split(-(-len(order) // task.recipe.batch_size))
    with own_randomness():
        return list(stream(data.train, parts, seed, 0))


def _widths(opened: Opened, count: int | None, by: By) -> list[Widths]:
    """The widths to sweep. Raises RunError when there are no scores to go by, FileError."""
    net, run = opened.net, opened.run
    if by == "fraction":
        found = ladder(net, count)
        return _prepared(net, found) if opened.record.draw else found
    if not opened.record.settings.order:
        raise RunError(
            f"{run.folder} has no scores, which widthwise order writes; sweep it with --by "
            "fraction."
        )
    return allocated_ladder(net, scores_of(net, run.scores), count or RUNGS)


def scores_of(net: Elastic, path: Path) -> dict[str, Tensor]:
    """The scores of a run. Raises FileError, and RunError when they are of another network."""
    scores = scorefile.read(path)
    if any(name not in net.free or t.shape != (net.free[name].size,) for name, t in scores.items()):
        raise RunError(f"{path} is of another network; order again with --overwrite.")
    return scores


def _prepared(net: Elastic, widths: list[Widths]) -> list[Widths]:
    """These widths, none of them narrower than training draws: those would be noise."""

    def wide(axis: str, width: int) -> int:
        return max(width, smallest(net.free[axis].size, net.draw))

    raised = [Widths({a: wide(a, w) for a, w in some.items()}) for some in widths]
    return list(dict.fromkeys(raised))


def _in_order(data: Any) -> Callable[[], Iterator[Any]]:
    """The data as batches of (inputs, target), the same at every call."""

    def again() -> Iterator[Any]:
        with own_randomness():
            yield from stream(data, torch.arange(length(data)).split(_BATCH), 0, 0)

    return again


def statistics_batches(task: Task, data: Splits) -> list[Any]:
    """Batches of training data in random order, always the same ones."""
    plan = Plan(length(data.train), task.recipe.batch_size, seed=0)
    with own_randomness():
        return list(stream(data.train, plan.epoch(0)[:_STATISTICS], 0, 0))


def inside(path: Path, folder: Path) -> str:
    """The name of a file, relative to the run folder when it lies in it; never a whole path."""
    path, folder = path.resolve(), folder.resolve()
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else path.name
