"""What the commands do to a run folder: functions that neither parse nor print.

    opened = open_run(run)                       # that `training.train` or `trained.order` made
    frontier = sweep_run(opened)
    point = frontier.pick(max_bytes="10kB")      # and then `cuts.cut`

A file that any of them writes has been read back: it holds the very network that was measured.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from widthwise.app.report import html, plot
from widthwise.app.report.picks import Pick, load_picks, save_picks
from widthwise.app.runs.folder import Record, Run, constraints_of
from widthwise.app.runs.touchups import TouchUp, compensation
from widthwise.app.tasks.noted import without_folder
from widthwise.app.tasks.resolve import resolve
from widthwise.app.tasks.task import Splits, Task
from widthwise.common.atomic import beside
from widthwise.common.calling import outputs_for
from widthwise.elastic.network import Elastic
from widthwise.elastic.recalibration import ITEMS, Recalibrate, has_statistics
from widthwise.elastic.zeros import meant
from widthwise.errors import FileError, RunError, TrainingError, WidthError
from widthwise.export.int8_onnx import export_int8
from widthwise.export.onnx import export_onnx, export_program
from widthwise.measure.frontier import Frontier, Point
from widthwise.measure.sweep import Evaluation, ladder, sweep, usual_widths
from widthwise.pruning import allocated_ladder
from widthwise.quantization import Quantized
from widthwise.sampling.draws import Draw
from widthwise.store import scorefile
from widthwise.store.file import load, save
from widthwise.store.manifest import Measured
from widthwise.store.packed.tensors import Pack
from widthwise.train.batches import drawn, evaluating, in_order, own_randomness
from widthwise.train.recipe import Recipe
from widthwise.variant import Widths

By = Literal["levels", "scores", "fraction"]
# Scores that estimate a change of the loss can be compared across axes.
COMPARABLE: Final = ("reconstruction", "obd", "obd-sd", "taylor", "damage")
Format = Literal["onnx", "torch"]
_BATCH = 256  # items evaluated at once
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
        """How its networks are stored: without the zeros, where some are meant."""
        return "zeros" if self.record.settings.pruning or meant(self.net.model) else "none"


def open_run(run: Run) -> Opened:
    """The network that a finished run trained or ordered. Raises RunError, FileError, TaskError.

    The task's recipe is that of the training where it was along levels: what cuts still gain from
    is a share of it.
    """
    record = run.finished_record()
    task = resolve(record.settings.task)
    if record.levels and record.settings.recipe:
        task = replace(task, recipe=_recipe(run, record))
    try:
        draw = Draw(**record.draw) if record.draw else Draw(p=0)  # of ordered weights
    except (TypeError, ValueError) as error:
        raise RunError(
            f"{run.record_file} holds a draw that cannot be ({str(error).rstrip('.')}); train "
            "again with --overwrite."
        ) from error
    model = load(run.model, build=task.model)
    constraints = constraints_of(record.settings)
    net = Elastic(model, task.example(), draw=draw, constraints=constraints)
    try:
        net.levels = tuple(net.complete(level) for level in record.levels)
    except WidthError as error:
        raise RunError(
            f"{run.record_file} holds levels of another network; train again with --overwrite."
        ) from error
    return Opened(run, record, task, net)


def _recipe(run: Run, record: Record) -> Recipe:
    try:
        return Recipe(**record.settings.recipe)
    except (TypeError, ValueError) as error:
        raise RunError(
            f"{run.record_file} holds a recipe that cannot be ({str(error).rstrip('.')}); train "
            "again with --overwrite."
        ) from error


def sweep_run(
    opened: Opened,
    *,
    count: int | None = None,
    by: By | None = None,
    split: str = "valid",
    latency: bool = True,
    recalibrate: bool = True,
    compensate: bool | None = None,
    keep_class: bool = True,
    progress: bool = False,
) -> Frontier:
    """Measure widths of a run on one of its splits and keep the frontier in its folder.

    count: how many widths; None is every width of a small network, else 16. No axis is narrower
    than training drew it (`net.lowest`).
    by: "fraction" keeps the same share of every axis; "scores" gives each axis its own width,
    decided by those of an ordered run, 16 times where no count is given. None as `widths_by` says.
    recalibrate: estimate batch-norm statistics for each width on training data.
    compensate: measure cuts whose weights were fitted to make up for what went, as the frontier
    then says and `cut` then does. None does so for ordered runs alone:
    in runs along levels, features have learned to do without the others.
    keep_class: beside widths at which a cut is a graph module, measure near ones at which it is of
    the user's class, where there are any.

    Raises RunError, DataError, FileError, ScoreError, TrainingError.
    """
    widths = _widths(opened, count, by or widths_by(opened.record))
    task, net, seed = opened.task, opened.net, opened.record.settings.seed
    if keep_class:
        widths = with_own_class(net, widths)
    data = task.splits()
    statistics = statistics_of(net, task, data) if recalibrate else False
    if compensate is None:
        compensate = compensates(opened.record)
    fit_anew = None
    if compensate:
        samples = sample(task, data, SAMPLES, seed)
        fit_anew = compensation(net, samples, statistics=recalibrate)
    frontier = sweep(
        net,
        evaluation(task, data, split),
        widths,
        latency=latency,
        recalibrate=statistics,
        touch_up=fit_anew,
        pack=opened.pack,
        progress=progress,
        seed=seed,
    )
    frontier = replace(frontier, touch_up=TouchUp.COMPENSATE.value if compensate else "")
    frontier.save(opened.run.frontier)
    return frontier


def compensates(record: Record) -> bool:
    """Whether cuts of a run are compensated where nothing is said of it."""
    return bool(record.settings.order) and not record.levels


def widths_by(record: Record) -> By:
    """How a run is swept: along its levels, else by scores that compare across axes."""
    if record.levels:
        return "levels"
    return "scores" if record.settings.order.get("score") in COMPARABLE else "fraction"


def note(run: Run, pick: Pick) -> None:
    """Keep a pick among those of a run, in the place of one of its name. Raises FileError."""
    others = [p for p in load_picks(run.picks) if p.name != pick.name]
    save_picks(run.picks, sorted([*others, pick], key=lambda p: -p.bytes))


def export(module: nn.Module, task: Task, path: Path, form: Format) -> None:
    """Write a network for another runtime, where it has been run and compared.

    Raises ExportError, FileError.
    """
    write = export_onnx if form == "onnx" else export_program
    write(module, task.example(), path)


def shipped_size(opened: Opened, form: Format, *, int8: bool = False) -> Callable[[Point], int]:
    """For `Frontier.pick`: the bytes of a point's file in another format, exported to see.

    int8: of `export_int8`, with form "onnx". What is returned remembers, and raises ExportError.
    """
    known: dict[Widths, int] = {}

    def size(point: Point) -> int:
        if point.widths not in known:
            module = opened.net.cut_with_patches(point.widths)[0]
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "network"
                if int8:
                    export_int8(module, opened.task.example(), path)
                else:
                    export(module, opened.task, path, form)
                known[point.widths] = path.stat().st_size
        return known[point.widths]

    return size


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
    *,
    valid: float | None = None,
) -> dict[str, float]:
    """Store a cut network, read it back, and measure what was read: split -> metric.

    module: the cut of `net` at `widths`, with weights that may have been changed since. pack, bits:
    as `save` takes them. valid: the metric of `module` on validation data, where it is known.

    Raises FileError, leaving what was at `path` before, when the network that is read back is not
    as good as the stored one, and TrainingError for a metric that is no number.
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
        said = without_folder(task.reference)
        save(net, made, widths=widths, module=module, metric=noted, pack=pack, bits=bits, task=said)
        read = load(made, build=task.model)
        if not _alike(module, read, data):
            found = evaluation(task, data, "test")(read)
            if not same(found, value):
                raise FileError(
                    f"The network read back from {path.name} has {name} {found:.6g} and not "
                    f"{value:.6g}; its model's class may keep state that is no parameter or buffer."
                )
        if valid is None:
            valid = evaluation(task, data, "valid")(read)
    return {"valid": valid, "test": value}


@torch.no_grad()
def _alike(module: nn.Module, read: nn.Module, data: Splits) -> bool:
    """Whether two networks have the same tensors, and give the same outputs for a batch."""
    ours, theirs = module.state_dict(), read.state_dict()
    if ours.keys() != theirs.keys() or not all(torch.equal(ours[k], theirs[k]) for k in ours):
        return False
    inputs, _ = next(_in_order(data.test)())
    with evaluating(module), evaluating(read):
        given, again = (tree_leaves(outputs_for(m, inputs)) for m in (module, read))
    pairs = zip(given, again, strict=True)
    return all(torch.equal(a, b) for a, b in pairs if isinstance(a, Tensor))


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
    return drawn(data.train, count, task.recipe.batch_size, seed)


def _widths(opened: Opened, count: int | None, by: By) -> list[Widths]:
    """The widths to sweep. Raises RunError when there are no scores to go by, FileError."""
    net, run = opened.net, opened.run
    if by == "levels":
        if not net.levels:
            raise RunError(
                f"{run.folder} was not trained along levels; sweep it with --by fraction."
            )
        return usual_widths(net, count)
    know_rungs(opened)
    if by == "fraction":
        return ladder(net, count)
    if not opened.record.settings.order:
        raise RunError(
            f"{run.folder} has no scores, which widthwise order writes; sweep it with --by "
            "fraction."
        )
    return allocated_ladder(net, scores_of(net, run.scores), count or RUNGS)


def know_rungs(opened: Opened) -> None:
    """Let the network of a run know the rungs that its training drew, where it has no levels."""
    record, net = opened.record, opened.net
    if record.draw and record.settings.order and not record.levels:
        scores = scores_of(net, opened.run.scores)
        net.rungs = tuple(allocated_ladder(net, scores, RUNGS, drawn=False))


def with_own_class(net: Elastic, widths: Sequence[Widths]) -> list[Widths]:
    """The widths, and near each one at which a cut is of the user's class, where it is not there.

    Where three of them are of that class as they are, the others are taken to be, too; where none
    near the middle one is, the class is taken not to express any. None that training does not draw
    is among them.
    """
    full = dict(net.full())
    smaller = [w for w in widths if net.complete(w) != full]
    if not smaller:
        return list(widths)
    probes = dict.fromkeys((smaller[len(smaller) // 2], smaller[0], smaller[-1]))
    near = {w: net.expressible(w) for w in [next(iter(probes))]}
    if dict(near[next(iter(probes))]) == full:
        return list(widths)
    near |= {w: net.expressible(w) for w in probes if w not in near}
    if all(net.complete(w) == dict(n) for w, n in near.items()):
        return list(widths)
    found: dict[Widths, None] = {}
    for w in widths:
        other = net.complete(near.get(w) or (net.expressible(w) if w in smaller else w))
        apart = dict(other) != full and net.raised(other) == other
        found |= {w: None, other: None} if apart else {w: None}
    # Equal widths may be written with and without the axes that stay full.
    return list({net.complete(w): w for w in reversed(found)}.values())[::-1]


def scores_of(net: Elastic, path: Path) -> dict[str, Tensor]:
    """The scores of a run. Raises FileError, and RunError when they are of another network."""
    scores = scorefile.read(path)
    if any(name not in net.free or t.shape != (net.free[name].size,) for name, t in scores.items()):
        raise RunError(f"{path} is of another network; order again with --overwrite.")
    return scores


def _in_order(data: Any) -> Callable[[], Iterator[Any]]:
    """The data as batches of (inputs, target), the same at every call."""

    def again() -> Iterator[Any]:
        with own_randomness():
            yield from in_order(data, _BATCH, 0)

    return again


def statistics_batches(task: Task, data: Splits) -> list[Any]:
    """Batches of training data drawn at random, always the same ones."""
    return sample(task, data, ITEMS, seed=0)


def statistics_of(net: Elastic, task: Task, data: Splits) -> Recalibrate:
    """What cuts of a network estimate running statistics on; nothing is read where it has none."""
    return statistics_batches(task, data) if has_statistics(net.model) else False


def inside(path: Path, folder: Path) -> str:
    """The name of a file, relative to the run folder when it lies in it; never a whole path."""
    path, folder = path.resolve(), folder.resolve()
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else path.name
