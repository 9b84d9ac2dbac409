"""Single weights of a trained network set to zero, and the network stored.

    source = find(task, Path("runs/x"))
    done = prune(task, source, Path("sparse.safetensors"), Pruning(sparsity=0.9))

The zeros are meant: whatever goes on with the file keeps them.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from torch import Tensor, nn

from widthwise import pruning
from widthwise.app.report.picks import Pick
from widthwise.app.runs.folder import (
    Run,
)
from widthwise.app.runs.measuring import evaluation, sample
from widthwise.app.runs.postprocessing import fine_tuning
from widthwise.app.runs.reports import note
from widthwise.app.runs.sources import Source, model_of
from widthwise.app.runs.storing import store_checked, writable
from widthwise.elastic.network import Elastic, NothingToCutWarning
from widthwise.errors import FileError, ScoreError
from widthwise.pruning.gradual.compete import Scope
from widthwise.pruning.scores import registry
from widthwise.store.packed.forms import published_accounting
from widthwise.store.packed.tensors import Pack, check
from widthwise.task import Task
from widthwise.train.config import RunConfig
from widthwise.train.fit import fit

SAMPLES: Final = 2000  # of the training data, that scores are computed on


@dataclass(frozen=True)
class Pruning:
    """How single weights are pruned.

    sparsity: the share of the weights that become zero. scope: how they compete, as `keep` takes
    it; None for what suits the score. rounds: of scoring and removing.
    fine_tune: epochs of training, in which zeros stay, after each round. samples, seed: of the
    training data for the scores; the seed serves the fine-tuning too.
    """

    sparsity: float
    score: str = "magnitude"
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
    published_bytes: int


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
    kind = registry.find(how.score, "weights")
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
        return registry.score(
            net, how.score, batches, task.loss, of="weights", seed=how.seed, progress=progress
        )

    def train(module: nn.Module) -> None:
        recipe = fine_tuning(task.recipe, how.fine_tune)
        fit(
            module,
            data.train,
            task.loss,
            recipe=recipe,
            run=RunConfig(seed=how.seed, progress=progress),
        )
        module.cpu()

    masks = pruning.prune_(
        net.model,
        score,
        how.sparsity,
        rounds=how.rounds,
        between=train if how.fine_tune else None,
        scope=how.scope or kind.scope,
    )
    net.eval()
    after = store_checked(net, net.full(), net.cut(net.full()), out, task, data, pack)
    if (run := home(source, out)) is not None:
        note(run, _picked(net, out, how, after))
    return _counted(net.model, masks, out, before, after)


def _counted(
    model: nn.Module,
    masks: Mapping[str, Tensor],
    out: Path,
    before: Mapping[str, float],
    after: Mapping[str, float],
) -> Pruned:
    found = dict(model.named_parameters())
    return Pruned(
        before,
        after,
        zeros=sum(int((found[name] == 0).sum()) for name in masks),
        weights=sum(mask.numel() for mask in masks.values()),
        params=sum(p.numel() for p in found.values()),
        nonzero=sum(int((p != 0).sum()) for p in found.values()),
        bytes=out.stat().st_size,
        published_bytes=published_accounting([*found.values(), *model.buffers()]),
    )


def home(source: Source, out: Path) -> Run | None:
    """The run whose own network is read, where the file goes into its folder: it notes the file."""
    run = Run(out.resolve().parent)
    own = source.file.resolve() == run.model.resolve() and run.record_file.exists()
    return run if own else None


def _picked(net: Elastic, out: Path, how: Pruning, after: Mapping[str, float]) -> Pick:
    post_processed = "zeros, fine-tune" if how.fine_tune else "zeros"
    widths, size = dict(net.full()), out.stat().st_size
    return Pick(out.stem, widths, size, after["valid"], after["test"], out.name, post_processed)
