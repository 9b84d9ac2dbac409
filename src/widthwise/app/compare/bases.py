"""The trainings that many methods start from: one of each kind for each seed.

base = train(spec, "elastic", seed=0, folder=Path("work/elastic-0"))
net = network(task, base)                   # the trained network, as an Elastic
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import torch

from widthwise.app.compare.data import loaded
from widthwise.app.compare.layout import channels_last
from widthwise.app.compare.spec import Spec
from widthwise.app.tasks.objectives import elastic_loss, family_loss
from widthwise.elastic.network import Elastic
from widthwise.measure.even_levels import even_levels
from widthwise.pruning.gradual import Gradual, GradualPruner
from widthwise.sampling.draws import PUBLISHED, Draw
from widthwise.store.file import load, save
from widthwise.task import Splits, Task
from widthwise.train.batches import own_randomness, planned
from widthwise.train.config import RunConfig
from widthwise.train.fit import fit
from widthwise.train.losses import Objective, SingleDraw
from widthwise.variant import Widths

Kind = Literal["plain", "elastic", "elastic-sparse", "published", "family"]
"""plain: full width only. elastic: sandwich passes and distillation. elastic-sparse: the same,
pruned gradually at every width. published: one drawn width a step (Knodt, 2022). family: the full
width first, then levels that its scores choose."""

SPARSITY: Final = 0.8  # the share of zeros of every width of an elastic-sparse training
_WIDTHS: Final = 8  # that are each as sparse as the whole

_DRAWS: Final = {
    "plain": Draw(p=0),
    "elastic": Draw(),
    "elastic-sparse": Draw(),
    "published": PUBLISHED,
    "family": Draw(),
}

_LOSSES: Final[Mapping[str, Callable[[Elastic, Task], Objective]]] = {
    "elastic": elastic_loss,
    "elastic-sparse": elastic_loss,
    "family": family_loss,
}


@dataclass(frozen=True)
class Base:
    """One shared training, done.

    weights: its file, or the bytes of it. seconds: of processor. levels: that it went along.
    """

    kind: Kind
    seed: int
    weights: Path | bytes
    seconds: float
    levels: tuple[Widths, ...] = ()


def train(spec: Spec, kind: Kind, seed: int, folder: Path | None) -> Base:
    """Train one base; returns it with its file's bytes.

    folder: for checkpoints, from which the same call goes on; None keeps none. Raises TaskError,
    DataError, CaptureError, TrainingError, FileError.
    """
    torch.set_num_threads(1)
    task, data = loaded(spec.task, spec.examples)
    with own_randomness():
        torch.manual_seed(seed)
        model = channels_last(task.model().train())
    net = Elastic(model, task.example(), draw=_DRAWS[kind], seed=seed, constraints=task.constraints)
    loss = _LOSSES.get(kind, lambda net, task: SingleDraw(net, task.loss))(net, task)
    recipe = spec.recipe(task)
    history = fit(
        net,
        data.train,
        loss,
        recipe=recipe,
        compress=_pruner(spec, net, task, data, seed) if kind == "elastic-sparse" else None,
        run=RunConfig(folder=folder, seed=seed, progress=False),
    )
    net.cpu()
    with tempfile.TemporaryDirectory() as place:
        path = save(net.model.eval(), Path(place) / "base.safetensors")
        return Base(kind, seed, path.read_bytes(), history.processor, net.levels)


def _pruner(spec: Spec, net: Elastic, task: Task, data: Splits, seed: int) -> GradualPruner:
    recipe = spec.recipe(task)
    steps = planned(data.train, recipe.batch_size, seed).steps * recipe.epochs
    return Gradual(SPARSITY, scope=spec.scope).pruner(net, steps, even_levels(net, _WIDTHS))


def network(task: Task, base: Base) -> Elastic:
    """A network of its own with the base's weights. Raises FileError, CaptureError."""
    with _file(base.weights) as path:
        model = channels_last(load(path, build=task.model))
    net = Elastic(
        model, task.example(), draw=_DRAWS[base.kind], seed=base.seed, constraints=task.constraints
    ).eval()
    net.levels = tuple(net.complete(level) for level in base.levels)
    return net


@contextmanager
def _file(weights: Path | bytes) -> Iterator[Path]:
    if isinstance(weights, Path):
        yield weights
        return
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "base.safetensors"
        path.write_bytes(weights)
        yield path
