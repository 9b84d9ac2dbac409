"""Searches of a run: the best variant within a budget, found, stored and read back.

searching = RunSearch(open_run(run), Limits(max_bytes="10kB"))
found = searching.run(trials=200)
pick, made = searching.store(found, Path("small.safetensors"), epochs=5)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

from torch import nn

from widthwise.bits import StraightThrough
from widthwise.errors import BudgetError
from widthwise.importance import allocated_ladder
from widthwise.measure.frontier import Frontier
from widthwise.measure.recalibrate import has_statistics, recalibrate
from widthwise.measure.size import format_size, parse_size
from widthwise.report.picks import Pick, load_picks
from widthwise.steps import (
    RUNGS,
    SAMPLES,
    Opened,
    evaluation,
    inside,
    note,
    sample,
    scores_of,
    statistics_batches,
    store_checked,
    usual_touch_ups,
    widths_by,
    writable,
)
from widthwise.tasks.task import Splits
from widthwise.touchups import TouchUp, compensation, fine_tuning
from widthwise.train.fit import fit
from widthwise.vary import Applied, Found, Tried, apply, search
from widthwise.vary.apply import Prepare, Train


@dataclass(frozen=True)
class Limits:
    """As `search` takes them."""

    max_bytes: int | str | None = None
    max_macs: int | None = None
    max_latency_ms: float | None = None


@dataclass(frozen=True)
class RunSearch:
    """A search of a run's network, on its validation split."""

    opened: Opened
    limits: Limits
    progress: bool = False

    @cached_property
    def data(self) -> Splits:
        """The task's data. Raises DataError."""
        return self.opened.task.splits()

    @cached_property
    def prepare(self) -> Prepare | None:
        """What is done to every cut before its zeros and bits: what a sweep would do to it."""
        opened, seed = self.opened, self.opened.record.settings.seed
        # Asked of widths that are cut: at full ones there is nothing to make up for.
        cut = {name: axis.near(1) for name, axis in opened.net.free.items()}
        if TouchUp.COMPENSATE in usual_touch_ups(opened, cut).names:
            return compensation(opened.net, sample(opened.task, self.data, SAMPLES, seed))
        if not has_statistics(opened.net.model):
            return None
        batches = statistics_batches(opened.task, self.data)
        return lambda module, widths: recalibrate(module, batches)

    def run(self, *, trials: int, seed: int = 0) -> Found:
        """Search, or go on with the same search, whose trials the run's folder keeps.

        Along the best widths of the run's frontier, where it has one; else along those that its
        scores allocate, or equal fractions. Raises BudgetError, DataError, FileError, RunError,
        ScoreError, TrainingError, and ModuleNotFoundError without optuna.
        """
        opened = self.opened
        return search(
            opened.net,
            evaluation(opened.task, self.data, "valid"),
            **asdict(self.limits),
            ladder=self._ladder(),
            prepare=self.prepare,
            trials=trials,
            seed=seed,
            journal=opened.run.trials,
            progress=self.progress,
        )

    def store(
        self, found: Found, out: Path, *, epochs: int | None = None, lr: float | None = None
    ) -> tuple[Pick, Applied]:
        """Store the best that fits once it is made, and note it among the picks of the run.

        epochs: of a training in which zeros stay zero and weights quantized; None for none.
        lr: its rate, a tenth of the recipe's by default.

        Raises BudgetError where training makes all that was found too large; DataError, FileError,
        TrainingError.
        """
        opened = self.opened
        writable(out)
        load_picks(opened.run.picks)  # damaged ones are found before the work is done
        train = None if epochs is None else self._training(epochs, lr)
        made = self._fitting(found.tried, train)
        results = store_checked(
            opened.net,
            made.variant.widths,
            made.module,
            out,
            opened.task,
            self.data,
            made.pack,
            made.record,
        )
        done = {"zeros": made.masks, "bits": made.record, TouchUp.FINE_TUNE.value: epochs}
        pick = Pick(
            name=out.stem,
            widths=dict(made.variant.widths),
            bytes=out.stat().st_size,
            valid=results["valid"],
            test=results["test"],
            file=inside(out, opened.run.folder),
            touch_up=", ".join(name for name, there in done.items() if there),
        )
        note(opened.run, pick)
        return pick, made

    def _fitting(self, tried: Sequence[Tried], train: Train | None) -> Applied:
        """The best variant whose file, once it is trained, is within the limit."""
        most = self.limits.max_bytes
        left = list(tried)
        while left:
            made = apply(self.opened.net, left[0].variant, prepare=self.prepare, train=train)
            if most is None or made.bytes <= parse_size(most):
                return made
            # Others will grow by as much.
            room = parse_size(most) / made.bytes * left[0].bytes
            left = [one for one in left[1:] if one.bytes <= room]
        raise BudgetError(
            "Training made every variant that was found larger than the budget; search within less "
            f"than {format_size(parse_size(most or 0))}, or train for no epochs."
        )

    def _training(self, epochs: int, lr: float | None) -> Train:
        """Training as `apply` takes it."""
        task, data = self.opened.task, self.data
        # Averages of quantized weights are not quantized.
        recipe = replace(fine_tuning(task.recipe, epochs, lr), ema=None)
        seed = self.opened.record.settings.seed

        def train(module: nn.Module, quantizer: StraightThrough | None) -> None:
            fit(
                module,
                data.train,
                task.loss,
                recipe=recipe,
                quantizer=quantizer,
                seed=seed,
                progress=self.progress,
            )

        return train

    def _ladder(self) -> Sequence[Mapping[str, int]]:
        opened = self.opened
        if opened.run.frontier.exists():
            return [point.widths for point in Frontier.load(opened.run.frontier).best()]
        if widths_by(opened.record) == "scores":
            return allocated_ladder(opened.net, scores_of(opened.net, opened.run.scores), RUNGS)
        return ()
