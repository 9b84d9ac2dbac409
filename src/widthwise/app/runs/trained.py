"""What the commands do to a network already trained: functions that neither parse nor print.

    source = find(task, Path("runs/x"))             # or None, for the weights of the task itself
    settings = Settings("digits", ORDERED, 0, {}, source.sha256, {"score": "obd", "samples": 2000})
    run, state = order(settings, source, Path("runs/ordered"), command="...")
    done = prune(task, source, Path("sparse.safetensors"), Pruning(sparsity=0.9))

An ordered run is a run folder like any other: its widths are prefixes, without a training.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from torch import Tensor, nn

from widthwise import pruning
from widthwise.app.report.picks import Pick
from widthwise.app.runs.folder import (
    Record,
    Run,
    Settings,
    State,
    begin,
    claim,
    clear,
    constraints_of,
    now,
)
from widthwise.app.runs.sources import Source, apart, model_of
from widthwise.app.runs.steps import evaluation, note, sample, store_checked, writable
from widthwise.app.runs.touchups import fine_tuning
from widthwise.app.tasks.resolve import resolve
from widthwise.app.tasks.task import Task
from widthwise.elastic.network import Elastic, NothingToCutWarning
from widthwise.errors import FileError, ScoreError
from widthwise.pruning.gradual.compete import Scope
from widthwise.pruning.scores import registry
from widthwise.pruning.scores.registry import WeightScore
from widthwise.store import scorefile
from widthwise.store.packed.forms import accounting
from widthwise.store.packed.tensors import Pack, check
from widthwise.train.fit import fit

SAMPLES: Final = 2000  # of the training data, that scores are computed on


@dataclass(frozen=True)
class Pruning:
    """How single weights are pruned.

    sparsity: the share of the weights that become zero. scope: how they compete, as `keep` takes
    it; None for what suits the score. rounds: of scoring and removing.
    fine_tune: epochs of training, in which zeros stay, after each round. samples, seed: of the
    training data for the scores; the seed is that of the fine-tuning too.
    """

    sparsity: float
    score: WeightScore = "magnitude"
    scope: Scope | None = None
    rounds: int = 1
    fine_tune: int = 0
    samples: int = SAMPLES
    seed: int = 0


@dataclass(frozen=True)
class Pruned:
    """What a pruning did.

    before, after: split -> metric. zeros, weights: numbers of them, in the tensors that were
    pruned. params, nonzero: numbers of parameters of the whole network, and of those not zero.
    bytes: of the file. accounted: the bytes of the same by the formula of Zhu & Gupta (2017).
    """

    before: Mapping[str, float]
    after: Mapping[str, float]
    zeros: int
    weights: int
    params: int
    nonzero: int
    bytes: int
    accounted: int


def order(
    settings: Settings,
    source: Source,
    folder: Path,
    *,
    command: str,
    overwrite: bool = False,
    progress: bool = False,
) -> tuple[Run, State]:
    """Score and order a trained network into `folder`, which must be held (`runs.hold`).

    Nothing is written before the scores are there. Returns the run and how it was found, as
    `training.train` does; one that was interrupted is begun again. Raises RunError, DataError,
    FileError, CaptureError, ScoreError.
    """
    task = resolve(settings.task)
    apart(source, folder)
    run, state = claim(folder, settings, overwrite=overwrite)
    if state == "finished":
        return run, state
    net = Elastic(
        model_of(task, source),
        task.example(),
        seed=settings.seed,
        constraints=constraints_of(settings),
    )
    if not net.free:
        raise ScoreError(
            f"Nothing in the network can be cut, so there is nothing to order; see why with: "
            f"widthwise inspect {settings.task}"
        )
    data = task.splits()
    batches = sample(task, data, settings.order["samples"], settings.seed)
    scores = registry.features(
        net, settings.order["score"], batches, task.loss, seed=settings.seed, progress=progress
    )
    ranked = pruning.order(net, scores)
    scores = {name: value[ranked[name]] for name, value in scores.items()}
    record = Record(
        settings, command, {}, "running", now(), metric=task.metric.name, source=str(source.file)
    )
    record = begin(run, state, record)
    try:
        results = store_checked(net, net.full(), net.cut(net.full()), run.model, task, data)
        scorefile.write(run.scores, scores)
    except KeyboardInterrupt:
        run.write(replace(record, status="interrupted"))
        raise
    except BaseException:
        clear(run)  # so that the folder stands in nobody's way
        raise
    run.write(replace(record, status="finished", finished=now(), results=results))
    return run, state


def prune(
    task: Task,
    source: Source,
    out: Path,
    how: Pruning,
    *,
    pack: Pack = "zeros",
    progress: bool = False,
) -> Pruned:
    """Make single weights zero and store the network in `out`, packed as `save` takes it.

    A run whose own network it is notes the file among its picks, where that goes into its folder
    (`home`), which must be held then.

    Raises DataError, FileError, CaptureError, ScoreError, TrainingError.
    """
    if not 0 <= how.sparsity < 1:
        raise ScoreError(f"The sparsity is {how.sparsity}; give a share from 0 to below 1.")
    writable(out)
    check(pack)
    if out.resolve() == source.file.resolve():
        raise FileError(f"The weights are read from {out} itself; give another file with --out.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NothingToCutWarning)  # nor is anything cut here
        net = Elastic(model_of(task, source), task.example(), seed=how.seed)
    data = task.splits()
    before = {split: evaluation(task, data, split)(net.model) for split in ("valid", "test")}
    batches = sample(task, data, how.samples, how.seed)

    def score(module: nn.Module) -> Mapping[str, Tensor]:
        return registry.weights(
            net, how.score, batches, task.loss, seed=how.seed, progress=progress
        )

    def train(module: nn.Module) -> None:
        recipe = fine_tuning(task.recipe, how.fine_tune)
        fit(module, data.train, task.loss, recipe=recipe, seed=how.seed, progress=progress)
        module.cpu()

    masks = pruning.prune(
        net.model,
        score,
        how.sparsity,
        rounds=how.rounds,
        between=train if how.fine_tune else None,
        scope=how.scope or registry.competing(how.score),
    )
    net.eval()
    after = store_checked(net, net.full(), net.cut(net.full()), out, task, data, pack)
    if (run := home(source, out)) is not None:
        note(run, _picked(net, out, how, after))
    found = dict(net.model.named_parameters())
    return Pruned(
        before,
        after,
        zeros=sum(int((found[name] == 0).sum()) for name in masks),
        weights=sum(mask.numel() for mask in masks.values()),
        params=sum(p.numel() for p in found.values()),
        nonzero=sum(int((p != 0).sum()) for p in found.values()),
        bytes=out.stat().st_size,
        accounted=accounting([*found.values(), *net.model.buffers()]),
    )


def home(source: Source, out: Path) -> Run | None:
    """The run whose own network is read, where the file goes into its folder: it notes the file."""
    run = Run(out.resolve().parent)
    own = source.file.resolve() == run.model.resolve() and run.record_file.exists()
    return run if own else None


def _picked(net: Elastic, out: Path, how: Pruning, after: Mapping[str, float]) -> Pick:
    touched = "zeros, fine-tune" if how.fine_tune else "zeros"
    widths, size = dict(net.full()), out.stat().st_size
    return Pick(out.stem, widths, size, after["valid"], after["test"], out.name, touched)
