"""Sweeps of a run: its frontier, measured and kept in its folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from widthwise.app.runs.measuring import SAMPLES, evaluation, sample, statistics_of
from widthwise.app.runs.opening import LEVELS, Opened, know_levels, scores_of
from widthwise.app.runs.postprocessing import PostProcess, reconstruction_of
from widthwise.app.runs.record import Record
from widthwise.elastic.network import Elastic
from widthwise.errors import RunError
from widthwise.measure.even_levels import even_levels, usual_widths
from widthwise.measure.frontier import Frontier
from widthwise.measure.sweep import sweep
from widthwise.pruning import allocated_levels
from widthwise.pruning.scores.registry import is_comparable
from widthwise.variant import Widths

Allocation = Literal["levels", "scores", "fraction"]


def sweep_run(
    opened: Opened,
    *,
    count: int | None = None,
    allocation: Allocation | None = None,
    split: str = "valid",
    latency: bool = True,
    recalibrate: bool = True,
    reconstruct: bool | None = None,
    progress: bool = False,
) -> Frontier:
    """Measure widths of a run on one of its splits and keep the frontier in its folder.

    count: how many widths; None is every width of a small network, else 16. No axis is narrower
    than training drew it (`net.lowest`).
    allocation: "fraction" keeps the same share of every axis; "scores" gives each axis its own
    width, decided by an ordered run's scores, 16 times where no count is given. None as
    `allocation_of` says.
    recalibrate: estimate batch-norm statistics for each width on training data.
    reconstruct: measure cuts whose weights were fitted to make up for what went, as the frontier
    then says and `cut` then does. None does so for ordered runs alone:
    in runs along levels, features have learned to do without the others.

    Beside widths at which a cut is a graph module, near ones are measured at which it is of the
    user's class, where there are any.

    Raises RunError, DataError, FileError, ScoreError, TrainingError.
    """
    task, net, seed = opened.task, opened.net, opened.record.settings.seed
    widths = with_own_class(net, _widths(opened, count, allocation or allocation_of(opened.record)))
    data = task.splits()
    statistics = statistics_of(net, task, data) if recalibrate else False
    if reconstruct is None:
        reconstruct = reconstructs(opened.record)
    fitted = None
    if reconstruct:
        samples = sample(task, data, SAMPLES, seed)
        fitted = reconstruction_of(net, samples, statistics=recalibrate)
    frontier = sweep(
        net,
        evaluation(task, data, split),
        widths,
        latency=latency,
        recalibrate=statistics,
        post_process=fitted,
        pack=opened.pack,
        progress=progress,
    )
    done = PostProcess.RECONSTRUCT.value if reconstruct else ""
    frontier = replace(frontier, seeds=(seed,), post_process=done)
    frontier.save(opened.run.frontier)
    return frontier


def reconstructs(record: Record) -> bool:
    """Whether cuts of a run are reconstructed where nothing is said of it."""
    return bool(record.settings.order) and not record.levels


def allocation_of(record: Record) -> Allocation:
    """How a run is swept: along its levels, else by scores that compare across axes."""
    if record.levels:
        return "levels"
    return "scores" if is_comparable(record.settings.order.get("score")) else "fraction"


def _widths(opened: Opened, count: int | None, allocation: Allocation) -> list[Widths]:
    """The widths to sweep. Raises RunError when there are no scores to go by, FileError."""
    net, run = opened.net, opened.run
    if allocation == "levels":
        if not net.levels:
            raise RunError(
                f"{run.folder} was not trained along levels; sweep it with --allocation fraction."
            )
        return usual_widths(net, count)
    know_levels(opened)
    if allocation == "fraction":
        return even_levels(net, count)
    if not opened.record.settings.order:
        raise RunError(
            f"{run.folder} has no scores, which widthwise order writes; sweep it with --allocation "
            "fraction."
        )
    return allocated_levels(net, scores_of(net, run.scores), count or LEVELS)


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
    near = {w: net.realizable(w) for w in [next(iter(probes))]}
    if dict(near[next(iter(probes))]) == full:
        return list(widths)
    near |= {w: net.realizable(w) for w in probes if w not in near}
    if all(net.complete(w) == dict(n) for w, n in near.items()):
        return list(widths)
    found: dict[Widths, None] = {}
    for w in widths:
        other = net.complete(near.get(w) or (net.realizable(w) if w in smaller else w))
        apart = dict(other) != full and net.raised(other) == other
        found |= {w: None, other: None} if apart else {w: None}
    # Equal widths may be written with and without the axes that stay full.
    return list({net.complete(w): w for w in reversed(found)}.values())[::-1]
