"""A finished run, opened: its record, task and trained network.

    opened = open_run(run)                       # that `train` or `order` made
    frontier = sweep_run(opened)
    point = frontier.pick(max_bytes="10kB")      # and then `cut`

A run that is not finished, or whose files are another network's, is refused in one sentence.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from torch import Tensor

from widthwise.app.runs.folder import Run
from widthwise.app.runs.record import Record, constraints_of
from widthwise.app.tasks.resolve import resolve
from widthwise.elastic.network import Elastic
from widthwise.elastic.zeros import meant
from widthwise.errors import RunError, WidthError
from widthwise.pruning import allocated_levels
from widthwise.sampling.draws import Draw
from widthwise.store import scorefile
from widthwise.store.file import load
from widthwise.store.packed.tensors import Pack
from widthwise.task import Task
from widthwise.train.recipe import Recipe

LEVELS: Final = 16  # widths of a sweep, or of a training, by scores


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

    The task's recipe is the training's where that was along levels: what cuts still gain from
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


def know_levels(opened: Opened) -> None:
    """Let the network of a run know the levels that its training drew, where it has no levels."""
    record, net = opened.record, opened.net
    if record.draw and record.settings.order and not record.levels:
        scores = scores_of(net, opened.run.scores)
        net.drawn_levels = tuple(allocated_levels(net, scores, LEVELS, drawn=False))


def scores_of(net: Elastic, path: Path) -> dict[str, Tensor]:
    """The scores of a run. Raises FileError, and RunError when they are of another network."""
    scores = scorefile.read(path)
    if any(name not in net.free or t.shape != (net.free[name].size,) for name, t in scores.items()):
        raise RunError(f"{path} is of another network; order again with --overwrite.")
    return scores
