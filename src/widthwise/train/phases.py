"""The two phases of a training along levels (`FamilyLoss`), each a training of its own.

Both keep their checkpoints in one place. One of the second phase names the levels and the epochs
of the first, so that nothing of the first is needed to go on from it.
"""

from __future__ import annotations

import warnings
from dataclasses import asdict, replace
from typing import Any

from widthwise.elastic.recalibration import caller
from widthwise.errors import ScoreError
from widthwise.measure.even_levels import even_levels
from widthwise.measure.pairs import placed
from widthwise.train import checkpoint
from widthwise.train.batches import drawn
from widthwise.train.clock import Clock
from widthwise.train.family import FamilyLoss
from widthwise.train.history import Epoch, History
from widthwise.train.job import Job, module_of
from widthwise.train.run import TrainingRun

SAMPLES = 2000  # of the training data, that levels are chosen on


class LevelsWarning(UserWarning):
    """Levels keep equal shares of all axes, for want of scores."""


def train_family(job: Job, loss: FamilyLoss, progress: bool) -> History:
    """Train the full width, choose the levels, and train these; `fit` says what is raised."""
    before = _second_phase(job, loss)
    fresh = before is None
    if before is None:
        before = () if loss.levels else _warm_up(job, loss, progress)
    epochs = job.recipe.epochs - len(before)
    if epochs < 1:
        raise ValueError(
            f"The warm-up alone took {len(before)} epochs; give a recipe of more epochs than that."
        )
    rest = replace(job, recipe=replace(job.recipe, epochs=epochs))
    notes = {"warm_up": [asdict(epoch) for epoch in before]}
    done = TrainingRun(rest, notes, fresh=fresh, before=len(before)).go(progress)
    return History((*before, *done.epochs), done.steps + len(before) * _steps(done))


def _steps(done: History) -> int:
    return done.steps // max(1, len(done.epochs))


def _second_phase(job: Job, loss: FamilyLoss) -> tuple[Epoch, ...] | None:
    """The epochs of the warm-up, where a checkpoint of the second phase is to be gone on from."""
    found = None if job.run.place is None else checkpoint.load(job.run.place)
    if found is None or "warm_up" not in found.run:
        return None
    levels: Any = found.run["loss"]["levels"]
    if not loss.levels:
        loss.train_along(levels)
    return tuple(Epoch(**epoch) for epoch in found.run["warm_up"])


def _warm_up(job: Job, loss: FamilyLoss, progress: bool) -> tuple[Epoch, ...]:
    """Train the full width alone and choose the levels; the epochs that took."""
    epochs = loss.warm_up_epochs(job.recipe.epochs)
    if not loss.net.free:
        return ()  # there is one width to train
    if epochs == 0 and loss.warm_up:
        # Scores of an untrained network say nothing.
        loss.train_along(even_levels(loss.net, loss.count, drawn=False))
        return ()
    done = History()
    if epochs:
        recipe = replace(job.recipe, epochs=epochs)
        alone = replace(job, recipe=recipe, pruner=None, quantizer=None)
        done = TrainingRun(alone, after=job.recipe.epochs - epochs).go(progress)
    device = next(module_of(loss.net).parameters()).device
    clock = Clock()
    batches = drawn(job.train, SAMPLES, job.recipe.batch_size, job.run.seed)
    try:
        loss.choose_levels([(placed(x, device), placed(y, device)) for x, y in batches])
    except ScoreError as error:
        warnings.warn(
            f"The levels keep equal shares of all axes, because the features cannot be scored: "
            f"{error}",
            LevelsWarning,
            stacklevel=caller(),
        )
        loss.train_along(even_levels(loss.net, loss.count, drawn=False))
    if not done.epochs:
        return ()
    *others, last = done.epochs  # whose time takes in the choosing
    seconds, processor = last.seconds + clock.wall, last.processor + clock.processor
    return (*others, replace(last, seconds=seconds, processor=processor))
