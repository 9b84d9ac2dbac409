"""Searches of a run: the best variant within a budget, found, stored and read back.

searching = RunSearch(open_run(run), Budget(max_bytes="10kB"), epochs=5)
found = searching.run(trials=200)
pick, made = searching.store(found, Path("small.safetensors"))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from widthwise.app.report.picks import Pick, load_picks
from widthwise.app.runs.cuts import usual_post_processing
from widthwise.app.runs.finalists import Recovery
from widthwise.app.runs.measuring import SAMPLES, evaluation, sample, statistics_batches
from widthwise.app.runs.opening import LEVELS, Opened, know_levels, scores_of
from widthwise.app.runs.postprocessing import PostProcess, reconstruction_of
from widthwise.app.runs.reports import note
from widthwise.app.runs.storing import inside, store_checked, writable
from widthwise.app.runs.sweeps import allocation_of
from widthwise.common.units import format_size
from widthwise.errors import BudgetError
from widthwise.measure.budget import Budget
from widthwise.measure.frontier import Frontier
from widthwise.measure.recalibrate import has_statistics, recalibrate_
from widthwise.pruning import allocated_levels
from widthwise.task import Splits
from widthwise.variants import Candidates, CompressedModel, SearchResult, apply, search
from widthwise.variants.apply import Prepare


@dataclass(frozen=True)
class RunSearch:
    """A search of a run's network, on its validation split.

    epochs: of the training that the best variants end with, in which zeros stay zero and weights
    quantized; each trial then has a moment of it. None for no training. lr: its rate, by default
    the recipe's.
    """

    opened: Opened
    budget: Budget
    epochs: int | None = None
    lr: float | None = None
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
        if PostProcess.RECONSTRUCT in usual_post_processing(opened, cut).names:
            return reconstruction_of(opened.net, sample(opened.task, self.data, SAMPLES, seed))
        if not has_statistics(opened.net.model):
            return None
        batches = statistics_batches(opened.task, self.data)
        return lambda module, widths: recalibrate_(module, batches)

    def run(self, *, trials: int, seed: int = 0) -> SearchResult:
        """Search, or go on with the same search, whose trials the run's folder keeps.

        Along the best widths of the run's frontier, where it has one; else along those that its
        scores allocate, or equal fractions. Raises BudgetError, DataError, FileError, RunError,
        ScoreError, TrainingError, and ModuleNotFoundError without optuna.
        """
        opened = self.opened
        brief = None if self.epochs is None else self.recovery.brief
        return search(
            opened.net,
            evaluation(opened.task, self.data, "valid"),
            self.budget,
            candidates=Candidates(levels=self._levels(), prepare=self.prepare, train=brief),
            trials=trials,
            seed=seed,
            journal=opened.run.trials,
            progress=self.progress,
        )

    def store(self, found: SearchResult, out: Path) -> tuple[Pick, CompressedModel]:
        """Store the best, or the best once trained, and note it among the picks of the run.

        Raises BudgetError where training makes all that was found too large; DataError, FileError,
        TrainingError.
        """
        opened = self.opened
        writable(out)
        load_picks(opened.run.picks)  # damaged ones are found before the work is done
        made = self._made(found)
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
        done = {"zeros": made.masks, "bits": made.record, PostProcess.FINE_TUNE.value: self.epochs}
        pick = Pick(
            name=out.stem,
            widths=dict(made.variant.widths),
            bytes=out.stat().st_size,
            valid=results["valid"],
            test=results["test"],
            file=inside(out, opened.run.folder),
            post_process=", ".join(name for name, there in done.items() if there),
        )
        note(opened.run, pick)
        return pick, made

    @cached_property
    def recovery(self) -> Recovery:
        """How variants are trained."""
        opened = self.opened
        recipe = opened.task.recipe
        # Averages of quantized weights are not quantized.
        recipe = replace(
            recipe, ema=None, epochs=self.epochs or recipe.epochs, lr=self.lr or recipe.lr
        )
        return Recovery(
            opened.net,
            opened.task,
            self.data.train,
            statistics_batches(opened.task, self.data),
            recipe,
            evaluation(opened.task, self.data, "valid"),
            self.prepare,
            opened.record.settings.seed,
            self.progress,
        )

    def _made(self, found: SearchResult) -> CompressedModel:
        if self.epochs is None:
            return apply(self.opened.net, found.best.variant, prepare=self.prepare)
        most = self.budget.bytes
        made = self.recovery.best(found, max_bytes=most, widen=self.budget.only_bytes)
        if made is None:
            raise BudgetError(
                "Training made the best variants that were found larger than the budget; search "
                f"within less than {format_size(most or 0)}, or train for no epochs."
            )
        return made

    def _levels(self) -> Sequence[Mapping[str, int]]:
        opened = self.opened
        know_levels(opened)
        if opened.run.frontier.exists():
            return [point.widths for point in Frontier.load(opened.run.frontier).best()]
        if allocation_of(opened.record) == "scores":
            return allocated_levels(opened.net, scores_of(opened.net, opened.run.scores), LEVELS)
        return ()
