"""Cuts of a run's network, post-processed and stored: functions that neither parse nor print.

    opened = open_run(run)
    picks = cut(opened, [point.widths], [Path("small.safetensors")])
    picks = cut(opened, several, paths)          # all taught in one go

What is stored has been read back, and the numbers of a pick are of the network that was read.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from torch import nn

from widthwise.app.report.picks import Pick, load_picks
from widthwise.app.runs.measuring import SAMPLES, evaluation, sample, statistics_of
from widthwise.app.runs.opening import Opened
from widthwise.app.runs.postprocessing import (
    LARGE,
    PostProcess,
    PostProcessing,
    begun,
    macs_kept,
    post_process,
    usual,
)
from widthwise.app.runs.reports import note
from widthwise.app.runs.storing import inside, store_checked, writable
from widthwise.app.runs.sweeps import reconstructs
from widthwise.common.calling import outputs_for
from widthwise.common.modes import evaluating
from widthwise.common.units import parse_size
from widthwise.measure.frontier import Frontier, Point
from widthwise.pruning import held_at_zero, zeros_of
from widthwise.sampling.levels import along
from widthwise.store.shapes import Shapes
from widthwise.task import Splits
from widthwise.train.batches import drawn
from widthwise.variant import Widths

_TAUGHT: Final = (PostProcess.DISTILL,)
_BETWEEN: Final = 12  # networks from one measured width to the next


def cut(
    opened: Opened,
    widths: Sequence[Mapping[str, int]],
    outs: Sequence[Path],
    *,
    post_processing: PostProcessing | None = None,
    recalibrate: bool = True,
    progress: bool = False,
) -> list[Pick]:
    """Cut a run's network, store the cuts in `outs`, and note them among the picks of the run.

    post_processing: what is done to the cut networks before they are stored; None as
    `shipped_post_processing` says. A distillation is kept for networks that are no worse with it
    on validation data.
    recalibrate: estimate batch-norm statistics on training data, as `sweep_run` does.

    Raises WidthError, DataError, FileError, ScoreError, TrainingError.
    """
    kept = [opened.net.complete(w) for w in widths]
    how = (
        shipped_post_processing(opened, kept)
        if post_processing is None
        else [post_processing] * len(kept)
    )
    for out in outs:
        writable(out)
    load_picks(opened.run.picks)  # damaged ones are found before the work is done
    data = opened.task.splits()
    if post_processing is None and not judges_evaluation(opened, data):
        how = [usual_post_processing(opened, w) for w in kept]
    swept = _swept(opened, how) if recalibrate else {}
    made = make(opened, kept, data, how, swept=swept, recalibrate=recalibrate, progress=progress)
    return [
        _store(opened, data, w, each, out) for w, each, out in zip(kept, made, outs, strict=True)
    ]


def make(
    opened: Opened,
    widths: Sequence[Widths],
    data: Splits,
    how: Sequence[PostProcessing],
    *,
    swept: Mapping[Widths, float] = MappingProxyType({}),
    recalibrate: bool = True,
    progress: bool = False,
) -> list[MadeCut]:
    """The cut networks that `cut` stores, each with its post-processing; the run is left as it is.

    swept: what is known of them on validation data before their last distillation.

    Raises WidthError, ScoreError, TrainingError.
    """
    task, net, seed = opened.task, opened.net, opened.record.settings.seed
    samples: list[Any] = []

    def batches() -> list[Any]:
        if not samples:
            samples.extend(sample(task, data, SAMPLES, seed))
        return samples

    statistics = statistics_of(net, task, data) if recalibrate else False
    modules = [begun(net, w, h, batches, statistics) for w, h in zip(widths, how, strict=True)]
    judge = evaluation(task, data, "valid")

    def post_processed(places: Sequence[int], steps: PostProcessing) -> None:
        with ExitStack() as stack:
            for i in places:
                zeros = zeros_of(modules[i]) if opened.pack == "zeros" else {}
                stack.enter_context(held_at_zero(modules[i], zeros))
            post_process(
                [modules[i] for i in places],
                net,
                [widths[i] for i in places],
                task,
                data.train,
                steps,
                batches,
                statistics=recalibrate,
                seed=seed,
                progress=progress,
            )

    last = {i: h for i, h in enumerate(how) if h.names[-1:] == _TAUGHT}
    for i, each in enumerate(how):
        post_processed([i], each.without_last() if i in last else each)
    made = [MadeCut(m, h.names) for m, h in zip(modules, how, strict=True)]
    if last:
        before = {i: copy.deepcopy(modules[i]) for i in last}
        post_processed([*last], replace(next(iter(last.values())), names=(PostProcess.DISTILL,)))
        for i, module in before.items():
            first = swept[widths[i]] if widths[i] in swept else judge(module)
            value, names = judge(modules[i]), how[i].names
            if task.metric.better(first, value):
                made[i] = MadeCut(module, names[:-1], first)
            else:
                made[i] = MadeCut(modules[i], names, value)
    return [replace(each, module=each.module.cpu()) for each in made]


@dataclass(frozen=True)
class MadeCut:
    """A cut network on the CPU, its post-processing, and its metric on validation data where
    these were chosen by it.
    """

    module: nn.Module
    post_processing: tuple[PostProcess, ...]
    valid: float | None = None


def filled(opened: Opened, frontier: Frontier, point: Point, max_bytes: int | str) -> Widths:
    """The widest network of a run along levels between a measured one and the next that still fits.

    The next larger one is at least as wide in every axis. Where it fits, too, it is no better, and
    the measured network is left as it is; and so it is where only graph modules lie between and it
    is of the user's class, or where files tell of zeros, which are counted in made networks alone.

    Args:
        opened: a run.
        frontier: what was measured of it.
        point: as the frontier picked it for `max_bytes`.
        max_bytes: bytes of the file that `save` writes, or a text such as '300kB'.

    Raises:
        WidthError, FileError: when the frontier is of another network.
        BudgetError: when `max_bytes` is no size.
    """
    net, most = opened.net, parse_size(max_bytes)
    low = net.complete(point.widths)
    points = {net.complete(p.widths): p.bytes for p in frontier.points if p.bytes > point.bytes}
    wider = [w for w in points if all(w[name] >= n for name, n in low.items())]
    above = min(wider, key=points.__getitem__, default=low)
    if not opened.record.levels or opened.pack != "none" or points.get(above, 0) <= most:
        return low
    between = along(net.free, (low, above), _BETWEEN)[1:-1]
    shapes = Shapes(net, between)

    def fits(widths: Widths) -> bool:
        stored = shapes.stored(widths)
        return stored.bytes <= most and (stored.reason is None or not point.own_class)

    return next((w for w in reversed(between) if fits(w)), low)


def shipped_post_processing(
    opened: Opened, widths: Sequence[Mapping[str, int]]
) -> list[PostProcessing]:
    """What `cut` does at each of these widths where nothing is named: the usual, and for
    runs along levels a distillation after them, unless most of the network is left.
    """
    usual_ones = [usual_post_processing(opened, w) for w in widths]
    if not opened.record.levels or opened.task.distill is None:
        return usual_ones
    return [
        how if kept > LARGE else PostProcessing((*how.names, PostProcess.DISTILL))
        for how, kept in zip(usual_ones, macs_kept(opened.net, widths), strict=True)
    ]


def usual_post_processing(opened: Opened, widths: Mapping[str, int]) -> PostProcessing:
    """The post-processing of a cut where none is named: what the points of the frontier had.

    Without a frontier, the ones that a sweep would give it. Raises WidthError, FileError.
    """
    if opened.net.complete(widths) == dict(opened.net.full()):
        return PostProcessing()  # nothing went that could be made up for
    path = opened.run.frontier
    frontier = Frontier.load(path) if path.exists() else None
    return usual(frontier, reconstructed=reconstructs(opened.record))


def _swept(opened: Opened, how: Sequence[PostProcessing]) -> dict[Widths, float]:
    """What the run's sweep found on validation data, where it did to networks what `how` does
    before a last distillation. Raises FileError.
    """
    before = {h.names[:-1] for h in how if h.names[-1:] == _TAUGHT}
    if not before or not opened.run.frontier.exists():
        return {}
    frontier = Frontier.load(opened.run.frontier)
    same = before == {(frontier.post_process,) if frontier.post_process else ()}
    if frontier.split != "valid" or len(frontier.seeds) > 1 or not same:
        return {}
    return {opened.net.complete(p.widths): p.metric for p in frontier.points}


def _store(opened: Opened, data: Splits, kept: Widths, made: MadeCut, out: Path) -> Pick:
    """Store one cut network and note it."""
    run = opened.run
    results = store_checked(
        opened.net, kept, made.module, out, opened.task, data, opened.pack, valid=made.valid
    )
    pick = Pick(
        name=out.stem,
        widths=dict(kept),
        bytes=out.stat().st_size,
        valid=results["valid"],
        test=results["test"],
        file=inside(out, run.folder),
        post_process=", ".join(
            name for name in made.post_processing if name is not PostProcess.NONE
        ),
    )
    note(run, pick)
    return pick


def judges_evaluation(opened: Opened, data: Splits) -> bool:
    """Whether the task's loss takes what the network gives in evaluation mode.

    Not where a network has outputs for training alone, such as auxiliary heads; then none teaches.
    """
    inputs, target = next(iter(drawn(data.train, 2, 2, 0)))
    with evaluating(opened.net):
        try:
            opened.task.loss(outputs_for(opened.net, inputs), target)
        except Exception:  # noqa: BLE001  a user's function may fail in any way
            return False
    return True
