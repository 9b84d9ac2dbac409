"""What every method works with: the task, its data, the shared training, and how to train.

bench = Bench(spec, 0, base)
net = bench.net()                                      # a copy of one's own
made = apply(net, variant, train=bench.tuned())        # fine-tuned; zeros and bits are held
outcome = bench.outcome("weights obd", 10_000, made, seconds=3.0)
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from widthwise.app.compare.bases import Base, network
from widthwise.app.compare.data import loaded
from widthwise.app.compare.layout import channels_last
from widthwise.app.compare.outcome import Outcome
from widthwise.app.compare.spec import Spec
from widthwise.app.runs.measuring import evaluation, sample
from widthwise.app.tasks.objectives import taught_by
from widthwise.elastic.network import Elastic
from widthwise.measure.cost import latency_ms, macs, one_example, params
from widthwise.measure.evaluation import Evaluation
from widthwise.measure.recalibrate import has_statistics, recalibrate_
from widthwise.pruning.gradual import GradualPruner
from widthwise.quantization import StraightThrough
from widthwise.store.file import load
from widthwise.store.parts import parts_of
from widthwise.train.config import RunConfig
from widthwise.train.fit import fit
from widthwise.train.recipe import Recipe
from widthwise.variant import Widths
from widthwise.variants import CompressedModel

_SAMPLES: Final = 2_000  # of the training data, for scores and reconstruction
_STATISTICS: Final = 10_000  # for batch-norm statistics


class Bench:
    """One seed of a comparison. base: the training that the methods at hand start from."""

    def __init__(self, spec: Spec, seed: int, base: Base) -> None:
        torch.set_num_threads(1)
        self.spec, self.seed, self.base = spec, seed, base
        self.task, self.data = loaded(spec.task, spec.examples)

    @cached_property
    def batches(self) -> list[Any]:
        """Training data for scores."""
        return sample(self.task, self.data, _SAMPLES, self.seed)

    @cached_property
    def statistics(self) -> list[Any]:
        """Training data for batch-norm statistics."""
        return sample(self.task, self.data, _STATISTICS, self.seed)

    def net(self) -> Elastic:
        """The trained network, which may be changed."""
        return network(self.task, self.base)

    def valid(self, module: nn.Module) -> float:
        """The metric on validation data."""
        return self.evaluation("valid")(module)

    def evaluation(self, split: str) -> Evaluation:
        """How networks are measured on a split."""
        return evaluation(self.task, self.data, split)

    def calibrated(self, module: nn.Module, widths: Widths) -> nn.Module:
        """A cut with statistics of its own: what `apply` takes as prepare."""
        module = channels_last(module)
        return recalibrate_(module, self.statistics) if has_statistics(module) else module

    def better(self, a: float, b: float) -> bool:
        """Whether metric a is better than b."""
        return a > b if self.task.metric.higher_is_better else a < b

    def train(
        self,
        module: nn.Module,
        *,
        recipe: Recipe | None = None,
        quantizer: StraightThrough | None = None,
        pruner: GradualPruner | None = None,
        teacher: nn.Module | None = None,
    ) -> nn.Module:
        """Train in place, by default with the recipe of every training.

        teacher: whose outputs are half of what is learned.
        """
        loss: Any = self.task.loss
        if teacher is not None:
            loss = taught_by(teacher.eval(), module, self.task)
        fit(
            channels_last(module),
            self.data.train,
            loss,
            recipe=recipe or self.spec.recipe(self.task),
            compress=pruner or quantizer,
            run=RunConfig(seed=self.seed, progress=False),
        )
        return module.cpu()

    def tuned(
        self, recipe: Recipe | None = None, teacher: nn.Module | None = None
    ) -> Callable[[nn.Module, StraightThrough | None], object]:
        """Fine-tuning, as `apply` takes it. recipe: by default `spec.tuning`."""
        how = recipe or self.spec.tuning(self.task)
        return lambda module, quantizer: self.train(
            module, recipe=how, quantizer=quantizer, teacher=teacher
        )

    def settled(self) -> Callable[[nn.Module, StraightThrough | None], object]:
        """Training of quantized weights, as `apply` takes it."""
        return self.tuned(self.spec.settling(self.task))

    def outcome(
        self, method: str, budget: int, made: CompressedModel, note: str, seconds: float
    ) -> Outcome:
        """Store a network, read it back and measure what was read. Raises FileError."""
        with tempfile.TemporaryDirectory() as place:
            path = made.save(Path(place) / "network.safetensors")
            read = channels_last(load(path, build=self.task.model))
            size, parts = path.stat().st_size, parts_of(path)
        args, kwargs = one_example(self.task.example())
        return Outcome(
            method=method,
            budget=budget,
            seed=self.seed,
            reached=True,
            note=note,
            bytes=size,
            parts=parts,
            metric={split: self.evaluation(split)(read) for split in ("valid", "test")},
            params=params(read),
            nonzero=sum(int((p != 0).sum()) for p in read.parameters()),
            macs=macs(read, self.task.example()),
            latency_ms=latency_ms(read, args, kwargs),
            base=self.base.kind,
            shared_seconds=round(self.base.seconds, 1),
            own_seconds=round(seconds, 1),
        )
