"""A comparison in words: what its page, its Markdown and its pictures say alike.

size(20_000)                  # "20 kB"
score(comparison, standing)   # "98.31 ± 0.07 %"
lead(comparison)              # two sentences: who wins where, and how sure that is
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from widthwise.app.compare.report.paired import Interval
from widthwise.app.compare.report.summary import Comparison, Standing, Winner, winners
from widthwise.app.report import text
from widthwise.measure.metric import Metric

COSTS: Final = (
    "What each family took, in time of the processor: the trainings that its networks share, once, "
    "and what was done for each network alone, of all its methods; and what 1, 4 and 12 networks "
    "of its best methods take. Networks that begin with new weights share no training."
)


def size(count: float) -> str:
    """Bytes in at most three figures, as short as that allows."""
    return text.tick(round(float(f"{count:.3g}")))


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    for unit, scale, most in (("s", 1, 100), ("min", 60, 100), ("h", 3600, math.inf)):
        if seconds < most * scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds} s"


def several(count: int, one: str) -> str:
    """ "1 seed", "3 seeds"."""
    many = f"{one[:-1]}ies" if one.endswith("y") else f"{one}s"
    return f"{count:,} {one if count == 1 else many}"


def listed(words: Sequence[str], joint: str = "and") -> str:
    """ "a", "a and b", "a, b and c"."""
    return f" {joint} ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def score(comparison: Comparison, standing: Standing, split: str = "test") -> str:
    """The mean over seeds with its standard deviation, and how many seeds where some are missing.

    "-" where no seed has a network.
    """
    if not standing.reached:
        return "-"
    name = comparison.metric.name
    said = text.value(name, standing.mean(split), standing.spread(split))
    have, all_of = len(standing.reached), len(comparison.seeds)
    return said if have == all_of else f"{said} ({have} of {several(all_of, 'seed')})"


def ahead(difference: Interval | None, metric: Metric) -> str:
    """By how much one is better, in points of 1 % for shares, and the 95 % interval."""
    if difference is None:
        return "no seed in common"
    scale = 100 if text.is_share(metric.name) else 1
    mean, low, high = (scale * v for v in (difference.mean, difference.low, difference.high))
    if not math.isfinite(mean):
        return "not a number"
    if not math.isfinite(low):
        return f"{_signed(mean)} (one pair)"
    return f"{_signed(mean)} ({_signed(low)} to {_signed(high)})"


def unit(metric: Metric) -> str:
    """What `ahead` counts in."""
    return "percentage points" if text.is_share(metric.name) else metric.name


def direction(metric: Metric) -> str:
    """The metric, and which way is better."""
    return f"{metric.name}, {'higher' if metric.higher_is_better else 'lower'} is better"


def lead(comparison: Comparison) -> str:
    """Two sentences: who wins where, and how sure that is."""
    found = winners(comparison)
    where: dict[str, list[Winner]] = {}
    for winner in found:
        where.setdefault(winner.standing.method.family, []).append(winner)
    order = sorted(where, key=lambda family: -len(where[family]))
    every = [w.budget for w in found]
    said = listed([f"{family} at {_places(where[family], every)}" for family in order])
    measured = (
        f"{several(len(comparison.methods), 'method')} of "
        f"{several(len(comparison.families), 'family')}, "
        f"{several(len(comparison.seeds), 'seed')}"
    )
    return f"The best network for its bytes comes from {said} ({measured}). {_sure(found)}"


def _sure(found: Sequence[Winner]) -> str:
    every = [w.budget for w in found]
    by = {
        verdict: [w for w in found if w.verdict == verdict]
        for verdict in ("ahead", "not decided", "behind", "alone")
    }
    at = {verdict: _places(some, every) for verdict, some in by.items()}
    said = []
    if by["ahead"]:
        said.append(
            "on test data it is ahead of the best of every other family, each with 95 % "
            f"confidence, at {at['ahead']}"
        )
    if by["not decided"]:
        said.append(
            f"whether it is ahead of {_rivals(by['not decided'], 'not decided')} is not decided, "
            f"within the noise between seeds, at {at['not decided']}"
        )
    if by["behind"]:
        said.append(
            f"on test data it is behind {_rivals(by['behind'], 'behind')} at {at['behind']}"
        )
    if by["alone"]:
        said.append(f"no other family has a network so small at {at['alone']}")
    whole = "; ".join(said)
    return f"{whole[0].upper()}{whole[1:]}."


def _rivals(found: Sequence[Winner], verdict: str) -> str:
    names = [r.standing.method.family for w in found for r in w.rivals if r.verdict == verdict]
    return listed(list(dict.fromkeys(names)), "or")


def _places(found: Sequence[Winner], every: Sequence[int]) -> str:
    """Budgets, three or more that follow each other as a range."""
    runs: list[list[int]] = []
    for at in (every.index(w.budget) for w in found):
        if runs and runs[-1][-1] == at - 1:
            runs[-1].append(at)
        else:
            runs.append([at])
    if runs and len(runs[0]) == len(every) > 1:
        return "every budget"
    said = []
    for run in runs:
        sizes = [size(every[at]) for at in run]
        said += [f"{sizes[0]} to {sizes[-1]}"] if len(run) > 2 else sizes
    return listed(said)


def _signed(number: float) -> str:
    shown = f"{number:+,.0f}" if abs(number) >= 1000 else f"{number:+.2f}"
    return shown.replace("-", "\N{MINUS SIGN}")
