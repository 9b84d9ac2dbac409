"""Training into a run folder: a function that neither parses nor prints.

run, state = train(Settings("digits", "default", 0, asdict(recipe)), Path("runs/x"), command="...")
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import torch

from widthwise.app.runs.folder import Run, begin, claim, clear
from widthwise.app.runs.opening import LEVELS, scores_of
from widthwise.app.runs.record import Record, Settings, State, constraints_of, now
from widthwise.app.runs.sources import Source, apart, model_of
from widthwise.app.runs.storing import store_checked
from widthwise.app.tasks.objectives import DISTILLATIONS, elastic_loss, family_loss
from widthwise.app.tasks.preflight import try_out
from widthwise.app.tasks.resolve import resolve
from widthwise.elastic.network import Elastic
from widthwise.elastic.zeros import meant
from widthwise.measure.data import adapt
from widthwise.measure.even_levels import even_levels
from widthwise.pruning import allocated_levels
from widthwise.pruning.gradual import Gradual, GradualPruner
from widthwise.sampling.draws import PUBLISHED, Draw
from widthwise.store import scorefile
from widthwise.store.packed.tensors import Pack
from widthwise.task import Splits, Task
from widthwise.train.batches import own_randomness, planned
from widthwise.train.config import RunConfig
from widthwise.train.fit import fit
from widthwise.train.identity import configured, described, sampled
from widthwise.train.losses import Objective, SingleDraw
from widthwise.train.ranks import processes, told
from widthwise.train.recipe import Recipe
from widthwise.train.tracking import Tracker, check_trackers
from widthwise.variant import Widths

METHODS: Final[Mapping[str, Draw]] = {
    "default": Draw(),  # along levels, with distillation; a pruned run in sandwich passes
    "published": PUBLISHED,
    "plain": Draw(p=0),  # full width only, for comparison
}
_STATES: Final[tuple[State, ...]] = ("new", "continued", "longer", "finished")
_SHELLS = 8  # levels that are each as sparse as the whole, from a sixteenth of every axis


def train(
    settings: Settings,
    folder: Path,
    *,
    command: str,
    source: Source | None = None,
    overwrite: bool = False,
    log: Sequence[Tracker] = (),
    progress: bool = True,
) -> tuple[Run, State]:
    """Train into `folder`, which must be held (`folder.hold`), or continue there.

    Of several processes (torchrun, accelerate launch) all call this, and the first holds the folder
    and alone writes there; for the others, the run may not be stored yet when it returns.

    source: the weights to start from, of which `settings` has the SHA-256; None for new ones. Where
    `settings` has its order too, widths are drawn from those that its scores allocate, and the run
    keeps the scores. log: as `fit` takes it; the folder is the run's.

    Returns the run and how it was found: "new", "continued", "longer" when it was done for fewer
    epochs, or "finished" when it was done before. Raises RunError, TaskError, DataError,
    CaptureError, TrainingError, FileError.
    """
    check_trackers(log, folder)  # before a run that is to be replaced is lost
    task = DISTILLATIONS[settings.distillation](resolve(settings.task))
    apart(source, folder)
    ranks = processes()
    main = ranks is None or ranks.is_main_process
    with nullcontext() if ranks is None else ranks.main_process_first():
        data = task.splits()
    net = _new_network(task, settings, source)
    settings = replace(settings, parts=_parts(task, net, data))
    run, state = claim(folder, settings, overwrite=overwrite) if main else (Run(folder), _STATES[0])
    state = _STATES[told(ranks, _STATES.index(state))]
    if state == "finished":
        return run, state
    try_out(task, net.model, data)
    record = Record(settings, command, asdict(net.draw), "running", now(), metric=task.metric.name)
    file = source.scores if source is not None and settings.order else None
    scores = {} if file is None else scores_of(net, file)
    along = [] if file is None else allocated_levels(net, scores, LEVELS, drawn=False)
    if main:
        record = begin(run, state, replace(record, source=str(source.file) if source else ""))
        if scores:
            scorefile.write(run.scores, scores)
    # What a run before this one left is cleared before the others look for a checkpoint.
    told(ranks, 0)
    try:
        history = fit(
            net,
            data.train,
            _objective(net, task, settings, along),
            recipe=Recipe(**settings.recipe),
            valid=data.valid,
            metric=task.metric,
            compress=_pruner(net, settings, along, data),
            run=RunConfig(folder=folder, seed=settings.seed, progress=progress, log=log),
        )
        if not main:
            return run, state
        net.cpu()
        pack: Pack = "zeros" if meant(net.model) else "none"
        module = net.cut(net.full())
        results = store_checked(net, net.full(), module, run.model, task, data, pack)
        extra = {} if task.extra_metrics is None else dict(task.extra_metrics(module, "test"))
    except BaseException as error:
        if main:
            _failed(run, record, error)
        raise
    levels = tuple(dict(w) for w in net.levels)
    epochs = tuple(asdict(epoch) for epoch in history.epochs)
    record = replace(record, status="finished", finished=now(), results=results)
    run.write(replace(record, levels=levels, history=epochs, extra_metrics=extra))
    return run, state


def _failed(run: Run, record: Record, error: BaseException) -> None:
    if not isinstance(error, KeyboardInterrupt) and not run.checkpoint.exists():
        clear(run)  # nothing was learned that another try could go on from
    else:
        run.write(replace(record, status="interrupted"))


def _parts(task: Task, net: Elastic, data: Splits) -> dict[str, Any]:
    """What a task is, beyond its name, as far as the trained weights depend on it."""
    return {
        "data": sampled(adapt(data.train)),
        "loss": described(task.loss, net.model),
        "model": configured(net),
    }


def _new_network(task: Task, settings: Settings, source: Source | None) -> Elastic:
    with own_randomness():
        torch.manual_seed(settings.seed)
        model = task.model() if source is None else model_of(task, source).train()
    return Elastic(
        model,
        task.example(),
        draw=METHODS[settings.method],
        seed=settings.seed,
        constraints=constraints_of(settings),
    )


def _objective(net: Elastic, task: Task, settings: Settings, along: Sequence[Widths]) -> Objective:
    if settings.method != "default":
        return SingleDraw(net, task.loss)
    if settings.pruning:
        return elastic_loss(net, task, along)  # whose masks follow widths that are known before
    loss = family_loss(net, task, trained=bool(settings.source))
    if along:
        loss.train_along(along)
    return loss


def _pruner(
    net: Elastic, settings: Settings, along: Sequence[Widths], data: Splits
) -> GradualPruner | None:
    """What prunes a training, so that every width is as sparse; None where nothing does."""
    if not settings.pruning:
        return None
    how = Gradual(**settings.pruning)
    recipe = Recipe(**settings.recipe)
    ranks = processes()
    count = 1 if ranks is None else ranks.num_processes
    plan = planned(data.train, recipe.batch_size, settings.seed, count)
    steps = plan.steps * recipe.epochs
    if not along and settings.method != "plain":
        along = even_levels(net, _SHELLS)
    return how.pruner(net, steps, along)
