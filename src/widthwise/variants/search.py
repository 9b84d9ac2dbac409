"""Search for the best variant within a budget: widths, zeros and bits of every part at once.

    found = search(net, Evaluation(valid, ACCURACY), Budget(max_bytes="10kB"), trials=200)
    found.best.variant, found.best.metric, found.best.bytes
    small = apply(net, found.best.variant)

    search(net, evaluation, Budget(max_macs=100_000))      # any of the limits, or several
    search(..., journal="search.jsonl")                    # the same call goes on where it stopped
    search(..., candidates=Candidates(formats=(None,)))    # widths and zeros, no bits
    Candidates(levels=allocated_levels(net, scores))       # along these widths, not fractions
    Candidates(prepare=lambda m, w: reconstruct_(m, net, w, data))    # as `apply` takes it

A trial chooses how wide each axis is relative to the others, and the zeros and the bits of each
tensor; then it is made as wide as the budget lets it be. The first trials treat all alike, so that
the search begins with what a sweep would find.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch

from widthwise.elastic.network import Elastic, GraphModuleWarning
from widthwise.errors import BudgetError, FileError, TrainingError, WidthError
from widthwise.formats import Format, Uniform
from widthwise.measure.budget import Budget
from widthwise.measure.evaluation import Evaluation, Judged, judged
from widthwise.measure.shape_costs import sizes
from widthwise.measure.sweep import Meter
from widthwise.pruning.scores.progress import shown
from widthwise.quantization.quantize import Calibration
from widthwise.variant import AnyWidths, Variant
from widthwise.variants.apply import CompressedModel, Prepare, Score, Train, apply, magnitudes
from widthwise.variants.budget import VariantCosts, allowed, check, largest, ratio, taken
from widthwise.variants.journal import Study, Trial, end_trial, finished, kept, next_trial, opened
from widthwise.variants.space import Choice, Space

FORMATS: Final = (None, Uniform(8), Uniform(4), Uniform(3), Uniform(2))
_VERSION: Final = 4  # of what a trial does: another one is another search


@dataclass(frozen=True)
class MeasuredVariant:
    """A variant that was made and measured.

    metric: its value. bytes: of its file. macs: multiply-accumulates for one example.
    latency_ms: milliseconds for one call, None where that has no limit.
    """

    variant: Variant
    metric: float
    bytes: int
    macs: int
    latency_ms: float | None


@dataclass(frozen=True)
class SearchResult:
    """What a search found. tried: every variant within the limits, the best first."""

    tried: tuple[MeasuredVariant, ...]

    @property
    def best(self) -> MeasuredVariant:
        """The best; of equals, the smallest."""
        return self.tried[0]


@dataclass(frozen=True)
class Candidates:
    """Which variants a search tries, and what is done to each of them.

    Args:
        formats: how tensors may be written, None for floats. Networks of more than 8 axes, or
            tensors, have those that follow each other tied, in 8 groups of about equally many
            weights.
        levels: widths, such as `pruning.allocated_levels`'s or a frontier's, that take the place of
            equal fractions of all axes where a network as a whole is made wider or narrower.
        prepare: as `apply` takes it.
        score: as `apply` takes it.
        train: as `apply` takes it; a short training, if any.
    """

    formats: Sequence[Format | None] = FORMATS
    levels: Sequence[AnyWidths] = ()
    prepare: Prepare | None = None
    score: Score = magnitudes
    train: Train | None = None

    @property
    def calibration(self) -> Calibration:
        """How ranges of weights that are not trained yet are chosen, as `apply` takes it."""
        return "mse" if self.train is None else "minmax"

    @property
    def plain(self) -> bool:
        """Whether nothing is done: then what the budget was found with is the variant itself."""
        return (self.prepare, self.score, self.train) == (None, magnitudes, None)


def search(
    net: Elastic,
    evaluation: Evaluation | Judged,
    budget: Budget,
    *,
    candidates: Candidates | None = None,
    trials: int = 200,
    seed: int = 0,
    journal: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> SearchResult:
    """The best variants of a network within a budget, by tree-structured Parzen estimation.

    Takes about four cuts a trial, and an evaluation. Limits on bytes and multiply-accumulates give
    the same result each time.

    Args:
        net: the network, left as it is.
        evaluation: on validation data, or `Evaluation.by` a function of a module. The best of many
            looks better there than it is, so measure it once more on data that the search has not
            seen.
        budget: limits on bytes, multiply-accumulates, latency (with which results vary), or
            several of them.
        candidates: which variants are tried, and how; by default `Candidates()`.
        trials: how many variants. The first give all tensors the same format and share of zeros.
        journal: a file that keeps the trials. The same search goes on from there, to the very
            result of one that was not stopped; whether functions and data are the same is not
            looked at.
        progress: a bar on standard error.

    Raises:
        BudgetError: Where no trial meets the limits, saying what the smallest takes.
        WidthError: For levels of another network.
        ValueError: For formats or numbers of trials that cannot be.
        FileError: When the journal cannot be read or written.
        RunError: When the journal is in use, or another search's.
        TrainingError: Where no metric is a number.
        ModuleNotFoundError: Without optuna. What `apply` raises is raised, too.
    """
    if trials < 1:
        raise ValueError(f"trials is {trials}; give at least 1.")
    judged(evaluation)
    check(budget)
    how = candidates or Candidates()
    space = Space.of(net, how.formats, how.levels)
    work = _Work(space, budget, how, evaluation)
    better = evaluation.metric.higher_is_better
    path = None if journal is None else Path(journal)
    with opened(path, _name(space, budget, how, evaluation, seed), maximize=better) as study:
        beginning = space.uniform()
        left = range(finished(study), trials)
        for number in shown(left, left, "searching", progress):
            trial = next_trial(study, number, beginning, seed)
            end_trial(study, trial, **work.outcome(trial))
        return _found(study, budget, trials, path)


def tried(journal: str | os.PathLike[str]) -> tuple[MeasuredVariant, ...]:
    """What all searches of a file have tried within their limits, even while one goes on.

    Raises FileError, and ModuleNotFoundError without optuna.
    """
    path = Path(journal)
    try:
        return tuple(_told(trial) for trial in kept(path) if trial.value is not None)
    except (KeyError, TypeError, ValueError, WidthError) as error:
        raise FileError(f"{path} is damaged; delete it, or give another journal.") from error


class _Work:
    """What is done in a trial."""

    def __init__(
        self, space: Space, budget: Budget, how: Candidates, evaluation: Evaluation | Judged
    ) -> None:
        self.space, self.budget, self.how, self.evaluation = space, budget, how, evaluation
        self.meter = Meter(space.net)

    def outcome(self, trial: Trial) -> dict[str, Any]:
        """Make and measure what a trial suggests: what to end it with."""
        params = {n: trial.suggest_float(n, *ends) for n, ends in self.space.floats.items()}
        params |= {n: trial.suggest_categorical(n, ts) for n, ts in self.space.names.items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", GraphModuleWarning)  # once for each trial would be many
            made, costs = self.made(self.space.choice(params))
            excess = ratio(self.budget, costs) - 1
            metric = math.nan if excess > 0 else self.evaluation(made.module)
        notes = {"costs": asdict(costs), "variant": made.variant.to_dict()}
        value = metric if math.isfinite(metric) else None
        return {"value": value, "excess": excess, "notes": notes}

    def made(self, choice: Choice) -> tuple[CompressedModel, VariantCosts]:
        """The widest network of a choice within the limits; the smallest, where none is."""
        line = self.space.line
        sized: dict[Variant, tuple[CompressedModel, VariantCosts]] = {}

        def at(place: int) -> tuple[CompressedModel, VariantCosts]:
            variant = self.space.variant(choice, place)
            if variant not in sized:
                made = apply(
                    self.space.net,
                    variant,
                    calibration=self.how.calibration,
                    recalibrate=self.how.plain,  # else only its size is looked at
                )
                sized[variant] = made, self.costs(made)
            return sized[variant]

        place = largest(
            lambda p: ratio(self.budget, at(p)[1]), line.lowest, line.highest, self.guess(choice)
        )
        if place is None or self.how.plain:
            return at(line.lowest if place is None else place)
        return self.changed(choice, place)

    def changed(self, choice: Choice, place: int) -> tuple[CompressedModel, VariantCosts]:
        """The same, prepared, scored and trained, whose codes may take a few bytes more."""
        how, step, lowest = self.how, 1, self.space.line.lowest
        while True:
            variant = self.space.variant(choice, place)
            made = apply(
                self.space.net, variant, prepare=how.prepare, score=how.score, train=how.train
            )
            costs = self.costs(made)
            if ratio(self.budget, costs) <= 1 or place <= lowest:
                return made, costs
            while place > lowest and self.space.variant(choice, place) == variant:
                place = max(lowest, place - step)
            step *= 2

    def costs(self, made: CompressedModel) -> VariantCosts:
        """What a variant takes, measured."""
        timed = self.budget.max_latency_ms is not None
        latency = self.meter.latency_ms(made.module) if timed else None
        return VariantCosts(made.bytes, self.meter.macs(made.variant.widths), latency)

    def guess(self, choice: Choice) -> int:
        """About where on the line the limit on bytes is met."""
        line, most = self.space.line, self.budget.bytes
        if most is None:
            return 0
        sized = largest(
            lambda p: self.space.bytes(self.space.variant(choice, p)) / most,
            line.lowest,
            line.highest,
            0,
        )
        return line.lowest if sized is None else sized


def _found(study: Study, budget: Budget, trials: int, path: Path | None) -> SearchResult:
    """What the trials came to. Raises BudgetError, TrainingError, FileError."""
    try:
        told = [_told(trial) for trial in study.get_trials(deepcopy=False)[:trials]]
    except (KeyError, TypeError, ValueError, WidthError) as error:
        raise FileError(f"{path} is damaged; delete it, or give another journal.") from error
    within = [one for one in told if ratio(budget, _costs(one)) <= 1]
    if not within:
        least = min(map(_costs, told), key=lambda costs: ratio(budget, costs))
        few = ", or give formats of fewer bits" if budget.bytes is not None else ""
        raise BudgetError(
            f"No variant that was tried has at most {allowed(budget)}; the nearest has "
            f"{taken(budget, least)}, so allow that{few}."
        )
    numbers = [one for one in within if math.isfinite(one.metric)]
    if not numbers:
        raise TrainingError(
            "The metric is not a number for any variant; train the network again, or allow more."
        )
    sign = -1 if study.direction.name == "MAXIMIZE" else 1
    return SearchResult(tuple(sorted(numbers, key=lambda one: (sign * one.metric, one.bytes))))


def _told(trial: Any) -> MeasuredVariant:
    costs, variant = VariantCosts(**trial.user_attrs["costs"]), trial.user_attrs["variant"]
    metric = math.nan if trial.value is None else float(trial.value)
    return MeasuredVariant(Variant.from_dict(variant), metric, **asdict(costs))


def _costs(one: MeasuredVariant) -> VariantCosts:
    return VariantCosts(one.bytes, one.macs, one.latency_ms)


def _name(
    space: Space, budget: Budget, how: Candidates, evaluation: Evaluation | Judged, seed: int
) -> str:
    """The name of a search: another one for everything that decides its trials."""
    net = space.net
    decides = {
        "version": _VERSION,
        "limits": budget.limits,
        "formats": [repr(f) for f in space.formats],
        "seed": seed,
        "axes": {n: [a.size, a.grid.multiple_of, a.grid.at_least] for n, a in net.free.items()},
        "groups": [space.axes, space.pruned, space.quantized],
        "levels": [dict(widths) for _, widths in space.line.levels],
        "drawn": dict(space.line.drawn),
        "metric": [evaluation.metric.name, evaluation.split],
        "plain": [how.prepare is None, how.score is magnitudes, how.train is None],
        "tensors": sizes(net, net.full()),
        "weights": _digest(net),
    }
    text = json.dumps(decides, sort_keys=True)
    return f"widthwise {hashlib.sha256(text.encode()).hexdigest()[:32]}"


def _digest(net: Elastic) -> str:
    """A digest of all values of the network."""
    digest = hashlib.sha256()
    for name, tensor in net.engine.state().items():
        digest.update(f"{name} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
