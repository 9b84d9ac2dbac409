"""Large-sparse against small-dense: ladders of networks, trained, stored and measured.

    cells = run(plan, folder, kinds=list(Kind), fractions=(1, 0.5, 0.25), sparsities=(0.8, 0.9))

Every network is stored packed, read back, and measured as it was read. What is done is kept in the
folder: `ladders.json` after every network, and the checkpoint of the training at hand.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import torch
from torch import nn

from widthwise.app.compare.layout import channels_last
from widthwise.app.compare.plan import Cell, Kind, Plan, load, save
from widthwise.app.runs.measuring import sample
from widthwise.app.runs.postprocessing import initialise
from widthwise.app.runs.storing import store_checked
from widthwise.app.tasks.objectives import elastic_loss
from widthwise.app.tasks.resolve import resolve
from widthwise.elastic.network import Elastic
from widthwise.measure.cost import params
from widthwise.pruning.gradual import GradualPruner
from widthwise.store.packed.forms import published_accounting
from widthwise.task import Splits, Task
from widthwise.train.batches import own_randomness, planned
from widthwise.train.config import RunConfig
from widthwise.train.fit import fit
from widthwise.variant import Widths

NAME: Final = "ladders.json"
_STATISTICS: Final = 10_000  # samples on which batch-norm statistics are estimated


@dataclass(frozen=True)
class _Training:
    """One training, and the networks that come from it. fractions: of the cuts to measure."""

    kind: Kind
    amount: float
    seed: int
    fractions: tuple[float, ...]

    @property
    def keys(self) -> list[tuple[str, float, int]]:
        """The cells that it gives."""
        amounts = (self.amount,) if self.kind is Kind.SPARSE else self.fractions
        return [(self.kind.value, amount, self.seed) for amount in amounts]


def run(
    plan: Plan,
    folder: Path,
    *,
    kinds: Sequence[Kind],
    fractions: Sequence[float],
    sparsities: Sequence[float],
    seeds: int = 1,
    progress: bool = True,
    cli_errors: Callable[[str], object] = lambda text: None,
) -> list[Cell]:
    """Train and measure what is missing in `folder`, which must be held (`folder.hold`).

    fractions: of every axis, for all ladders but the sparse one. sparsities: for that one.
    told: is given a line after every training.

    Returns all cells of the plan in the folder, earlier calls' too. Raises RunError when
    the folder holds another plan; TaskError, DataError, CaptureError, WidthError, ScoreError,
    TrainingError, FileError.
    """
    cells = load(folder / NAME, plan)
    task = resolve(plan.task)
    wanted = list(_trainings(plan, kinds, fractions, sparsities, seeds))
    missing = [t for t in wanted if not {*t.keys} <= {c.key for c in cells}]
    if not missing:
        return cells
    data = task.splits()
    began = time.monotonic()
    for number, training in enumerate(missing, 1):
        place = folder / f"{training.kind.value}-{training.amount:g}-seed-{training.seed}"
        found = _Bench(plan, task, data, training, place).cells(progress)
        cells = [c for c in cells if c.key not in training.keys] + found
        save(folder / NAME, plan, cells)
        shutil.rmtree(place)
        left = (time.monotonic() - began) / number * (len(missing) - number)
        cli_errors(_line(training, found, task, number, len(missing), left))
    return cells


def _trainings(
    plan: Plan,
    kinds: Sequence[Kind],
    fractions: Sequence[float],
    sparsities: Sequence[float],
    seeds: int,
) -> Iterator[_Training]:
    every = tuple(fractions)
    for seed in range(seeds):
        for kind in kinds:
            if kind is Kind.DENSE:
                yield from (_Training(kind, f, seed, (f,)) for f in every)
            elif kind is Kind.SPARSE:
                yield from (_Training(kind, s, seed, (1.0,)) for s in sparsities)
            else:
                sparsity = plan.pruning.sparsity if kind is Kind.ELASTIC_SPARSE else 0.0
                yield _Training(kind, sparsity, seed, every)


class _Bench:
    """One training under way."""

    def __init__(
        self, plan: Plan, task: Task, data: Splits, training: _Training, place: Path
    ) -> None:
        self.plan, self.task, self.data = plan, task, data
        self.training, self.place = training, place
        place.mkdir(exist_ok=True)
        with own_randomness():
            torch.manual_seed(training.seed)
            model = channels_last(task.model().train())
        net = Elastic(model, task.example(), seed=training.seed, constraints=task.constraints)
        widest = max((a.size for a in net.free.values() if a.inner_of is None), default=1)
        net.draw = replace(net.draw, lowest=max(1, round(plan.lowest * widest)))
        self.net = net

    def cells(self, progress: bool) -> list[Cell]:
        """Train, and measure every network that comes of it."""
        module, spent = self._trained(progress)
        return [
            self._measured(amount, fraction, module, spent)
            for (_, amount, _), fraction in zip(
                self.training.keys, self.training.fractions, strict=True
            )
        ]

    def _trained(self, progress: bool) -> tuple[nn.Module | None, float]:
        """Train, or train on; returns the module of a small-dense network and the seconds it took.

        None in the place of the module where the net itself is trained.
        """
        plan, training, net = self.plan, self.training, self.net
        elastic = training.kind in (Kind.ELASTIC, Kind.ELASTIC_SPARSE)
        module = None
        if training.kind is Kind.DENSE and training.amount < 1:
            # New weights of its own size: a cut's are drawn for the full one.
            small = initialise(
                net.cut(net.widths(training.amount), recalibrate=False), training.seed
            )
            module = channels_last(small)
        target = net if elastic else module or net.model
        history = fit(
            target,
            self.data.train,
            elastic_loss(net, self.task) if elastic else self.task.loss,
            recipe=plan.recipe,
            compress=self._pruner(),
            run=RunConfig(folder=self.place, seed=training.seed, progress=progress),
        )
        net.cpu()
        return None if module is None else module.cpu(), history.processor

    def _pruner(self) -> GradualPruner | None:
        training, plan = self.training, self.plan
        if training.kind not in (Kind.SPARSE, Kind.ELASTIC_SPARSE):
            return None
        batches = planned(self.data.train, plan.recipe.batch_size, 0)
        steps = batches.steps * plan.recipe.epochs
        pruning = replace(plan.pruning, sparsity=training.amount)
        levels: list[Widths] = []
        if training.kind is Kind.ELASTIC_SPARSE:
            some = (self.net.raised(f) for f in sorted(training.fractions) if f < 1)
            levels = list(dict.fromkeys(some))
        return pruning.pruner(self.net, steps, levels)

    def _measured(
        self, amount: float, fraction: float, trained: nn.Module | None, spent: float
    ) -> Cell:
        training, net, task, data = self.training, self.net, self.task, self.data
        # A small-dense network has what widths it has, an elastic one none that was never drawn.
        widths = net.complete(fraction) if training.kind is Kind.DENSE else net.raised(fraction)
        if trained is None:
            batches = sample(task, data, _STATISTICS, training.seed)
            module = net.cut(widths, recalibrate=batches)
        else:
            module = trained
        path = self.place.with_name(f"{training.kind.value}-{amount:g}-{training.seed}.safetensors")
        metric = store_checked(net, widths, module, path, task, data, pack="zeros")
        extra_metrics = {} if task.extra_metrics is None else task.extra_metrics(module, "test")
        tensors = dict(module.named_parameters())
        return Cell(
            kind=training.kind.value,
            amount=amount,
            seed=training.seed,
            bytes=path.stat().st_size,
            published_bytes=published_accounting(tensors.values()),
            nonzero=sum(int((p != 0).sum()) for p in tensors.values()),
            params=params(module),
            metric=metric,
            extra_metrics=dict(extra_metrics),
            seconds=round(spent, 1),
        )


def _line(
    training: _Training, found: Sequence[Cell], task: Task, number: int, total: int, left: float
) -> str:
    values = ", ".join(f"{c.bytes / 1e3:,.0f} kB {c.metric['valid']:.4g}" for c in found)
    name = f"{training.kind.value} {training.amount:g}, seed {training.seed}"
    return (
        f"{number} of {total}: {name}: {task.metric.name} on validation data {values}; about "
        f"{left / 60:.0f} min left"
    )
