"""What the outcomes of a comparison say: validation data choose, test data report.

    comparison = compare(outcomes, metric, title="MNIST")
    comparison.standings                  # every method at every budget, over its seeds
    families(comparison, 20_000)          # the best method of each family there
    winners(comparison)                   # the best of all, held against the other families

Pure functions of the data; nothing is drawn or written here.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, get_args

from widthwise.app.compare.method import Family, Method
from widthwise.app.compare.methods import METHODS
from widthwise.app.compare.outcome import Outcome
from widthwise.app.compare.report.paired import Interval, paired
from widthwise.errors import RunError
from widthwise.measure.metric import Metric

FAMILIES: Final[tuple[Family, ...]] = get_args(Family)


@dataclass(frozen=True)
class Standing:
    """One method at one budget.

    reached: its networks, by seed. missed: the seeds with which it has none so small.
    Means are over the networks, nan where there is none.
    """

    method: Method
    budget: int
    reached: tuple[Outcome, ...]
    missed: tuple[Outcome, ...] = ()

    @property
    def seeds(self) -> tuple[int, ...]:
        """The outcomes with which it reaches the budget."""
        return tuple(o.seed for o in self.reached)

    def mean(self, split: str = "test") -> float:
        """The metric on a split."""
        return _mean([o.metric[split] for o in self.reached])

    def spread(self, split: str = "test") -> float | None:
        """The sample standard deviation over seeds; None for one seed or infinite values."""
        values = [o.metric[split] for o in self.reached]
        if len(values) < 2 or not all(map(math.isfinite, values)):
            return None
        return statistics.stdev(values)

    @property
    def bytes(self) -> float:
        """The mean size of its files."""
        return _mean([o.bytes for o in self.reached])

    @property
    def latency_ms(self) -> float | None:
        """None where it was not measured for every network."""
        values = [o.latency_ms for o in self.reached]
        return _mean(values) if values and all(v > 0 for v in values) else None

    @property
    def seconds(self) -> float:
        """By the processor, to make one such network alone: shared and own."""
        return _mean([shared_seconds(o) + o.own_seconds for o in self.reached])

    @property
    def parts(self) -> dict[str, float]:
        """Bytes of its files by what they hold, the largest part first."""
        names = {name for o in self.reached for name in o.parts}
        means = {name: _mean([o.parts.get(name, 0) for o in self.reached]) for name in names}
        return dict(sorted(means.items(), key=lambda part: (-part[1], part[0])))

    @property
    def reasons(self) -> str:
        """Why it has no network so small, where that is so."""
        return "; ".join(dict.fromkeys(o.note or "no reason given" for o in self.missed))


@dataclass(frozen=True)
class Comparison:
    """Outcomes in order.

    standings: in the order of `METHODS`, small budgets first.
    """

    title: str
    metric: Metric
    outcomes: tuple[Outcome, ...]
    standings: tuple[Standing, ...]

    @property
    def budgets(self) -> tuple[int, ...]:
        """All that were asked for, the smallest first."""
        return tuple(sorted({s.budget for s in self.standings}))

    @property
    def seeds(self) -> tuple[int, ...]:
        """All that anything was measured with."""
        return tuple(sorted({o.seed for o in self.outcomes}))

    @property
    def methods(self) -> tuple[Method, ...]:
        """All that were tried."""
        return tuple(dict.fromkeys(s.method for s in self.standings))

    @property
    def families(self) -> tuple[Family, ...]:
        """All that were tried, in the order of `FAMILIES`."""
        tried = {m.family for m in self.methods}
        return tuple(f for f in FAMILIES if f in tried)


@dataclass(frozen=True)
class Rival:
    """The best of another family, and by how much the winner is better on test data.

    difference: never a worse sign for a metric of which less is better; paired over the seeds that
    both have, None where there is none.
    """

    standing: Standing
    difference: Interval | None

    @property
    def verdict(self) -> str:
        """ "ahead", "not decided" or "behind": where the winner is."""
        return self.difference.verdict if self.difference else "not decided"


@dataclass(frozen=True)
class Winner:
    """The best method at a budget, chosen on validation data.

    rivals: the best of every other family that reaches the budget, the best on validation first.
    """

    standing: Standing
    rivals: tuple[Rival, ...]

    @property
    def budget(self) -> int:
        """At which it won."""
        return self.standing.budget

    @property
    def verdict(self) -> str:
        """ "ahead" of every other family, "behind" one on test data, "not decided", or "alone"."""
        verdicts = {r.verdict for r in self.rivals}
        if not verdicts:
            return "alone"
        if verdicts == {"ahead"}:
            return "ahead"
        return "behind" if "behind" in verdicts else "not decided"


@dataclass(frozen=True)
class Cost:
    """What a family's networks took, in seconds by the processor.

    methods, networks: how many were tried, and how many there are. shared: `shared_seconds` of the
    trainings that they begin with, each once. own: `own_seconds` of all its outcomes.
    """

    family: Family
    methods: int
    networks: int
    shared: float
    own: float

    @property
    def total(self) -> float:
        """Shared and own."""
        return self.shared + self.own


def compare(outcomes: Sequence[Outcome], metric: Metric, *, title: str) -> Comparison:
    """Outcomes in order.

    Raises RunError for none that reached its budget, for methods that are not known, for two of one
    method, budget and seed, and for a network without the metric on validation and test data.
    """
    _check(outcomes)
    groups: dict[tuple[str, int], list[Outcome]] = {}
    for outcome in sorted(outcomes, key=lambda o: o.seed):
        groups.setdefault((outcome.method, outcome.budget), []).append(outcome)
    budgets = sorted({o.budget for o in outcomes})
    standings = tuple(
        _standing(method, budget, groups[method.name, budget])
        for method in METHODS.values()
        for budget in budgets
        if (method.name, budget) in groups
    )
    return Comparison(title, metric, tuple(outcomes), standings)


def best(standings: Iterable[Standing], metric: Metric) -> Standing | None:
    """The best on validation data; None where none has a network.

    A method is considered that has more than half as many seeds as the one with the most: a lucky
    seed is not to win, nor a missing one to lose. Equally good: the smaller files.
    """
    some = [s for s in standings if s.reached]
    most = max((len(s.reached) for s in some), default=0)
    some = [s for s in some if 2 * len(s.reached) > most]
    return min(some, key=lambda s: (_badness(s, metric), s.bytes), default=None)


def families(comparison: Comparison, budget: int) -> dict[Family, Standing]:
    """The best of each family at a budget; without those that have no network so small."""
    found = {}
    for family in comparison.families:
        own = [s for s in comparison.standings if s.method.family == family and s.budget == budget]
        first = best(own, comparison.metric)
        if first:
            found[family] = first
    return found


def winners(comparison: Comparison) -> list[Winner]:
    """The best at each budget, small budgets first; without those that nothing reaches."""
    found = []
    for budget in comparison.budgets:
        standings = list(families(comparison, budget).values())
        first = best(standings, comparison.metric)
        if first:
            others = sorted(
                (s for s in standings if s is not first),
                key=lambda s: _badness(s, comparison.metric),
            )
            rivals = tuple(Rival(s, against(first, s, comparison.metric)) for s in others)
            found.append(Winner(first, rivals))
    return found


def against(one: Standing, other: Standing, metric: Metric) -> Interval | None:
    """By how much one is better on test data, over the seeds that both have; None without any."""
    sign = 1 if metric.higher_is_better else -1
    ours, theirs = _by_seed(one), _by_seed(other)
    seeds = [seed for seed in ours if seed in theirs]
    if not seeds:
        return None
    return paired([sign * ours[s] for s in seeds], [sign * theirs[s] for s in seeds])


def costs(comparison: Comparison) -> list[Cost]:
    """What each family took."""
    found = []
    for family in comparison.families:
        some = [o for o in comparison.outcomes if METHODS[o.method].family == family]
        shared: dict[tuple[int, str], float] = {}
        for outcome in (o for o in some if o.reached):
            shared[outcome.seed, outcome.base] = shared_seconds(outcome)
        found.append(
            Cost(
                family,
                methods=len({o.method for o in some}),
                networks=sum(o.reached for o in some),
                shared=sum(shared.values()),
                own=sum(o.own_seconds for o in some),
            )
        )
    return found


def shared_seconds(outcome: Outcome) -> float:
    """Processor seconds of the training that a network begins with, and others too."""
    return 0.0 if METHODS[outcome.method].has_new_weights else outcome.shared_seconds


def together(comparison: Comparison, family: Family, count: int) -> float:
    """Seconds by the processor for so many networks of a family's best methods, means over seeds.

    Every training that networks begin with is counted once. nan where there is no network.
    """
    chosen = [families(comparison, budget).get(family) for budget in comparison.budgets]
    made = [o for standing in chosen if standing for o in standing.reached]
    bases = {o.base: [shared_seconds(p) for p in made if p.base == o.base] for o in made}
    return sum(map(_mean, bases.values())) + count * _mean([o.own_seconds for o in made])


def _check(outcomes: Sequence[Outcome]) -> None:
    seen = set()
    for o in outcomes:
        if o.method not in METHODS:
            raise RunError(
                f"{o.method!r} is not a method of this version of widthwise; leave its outcomes "
                "out, or measure them again."
            )
        if o.key in seen:
            raise RunError(
                f"There are two outcomes of {o.method!r} at {o.budget} bytes with seed {o.seed}; "
                "leave one of them out."
            )
        seen.add(o.key)
        if o.reached and not {"valid", "test"} <= o.metric.keys():
            raise RunError(
                f"The network of {o.method!r} at {o.budget} bytes with seed {o.seed} has no metric "
                "on validation and test data; measure it again."
            )
    if not any(o.reached for o in outcomes):
        raise RunError("No method has a network within its budget; give larger budgets.")


def _standing(method: Method, budget: int, outcomes: Sequence[Outcome]) -> Standing:
    reached = tuple(o for o in outcomes if o.reached)
    return Standing(method, budget, reached, tuple(o for o in outcomes if not o.reached))


def _by_seed(standing: Standing) -> Mapping[int, float]:
    return {o.seed: o.metric["test"] for o in standing.reached}


def _badness(standing: Standing, metric: Metric) -> float:
    """Less is better on validation data; what is not a number is worst."""
    value = standing.mean("valid")
    if math.isnan(value):
        return math.inf
    return -value if metric.higher_is_better else value


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
