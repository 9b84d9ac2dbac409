"""How long calls take beside each other, and what can be said of it.

    full_ms, small_ms = in_turns([full_call, small_call], repeats=15)
    gain = spread(f / s for f, s in zip(full_ms, small_ms))      # Spread(1.9, 1.8, 2.0)
    judged(gain, least=0.05)                                     # "above"

Others use the machine too, at varying times, so calls are timed in rounds, each once in every
round: what slows a round down slows all of them, and drops out of ratios taken within it.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Literal

import torch
from rich.console import Console
from rich.progress import Progress

Verdict = Literal["above", "below", "alike", "unclear"]
_BLOCK: Final = 3e-4  # seconds that calls timed together take: short beside a time slice
_PASSES: Final = (2, 20)  # through all calls in a round: of long calls, of short ones
_WARM: Final = 5e-3  # seconds; calls longer than that need not find their weights in a cache
_LONG: Final = 0.02  # seconds of calls in a round, where they are short enough
_TAIL: Final = 0.025  # of the chance that the true median lies beyond one end of the interval


@dataclass(frozen=True)
class Spread:
    """The median of rounds. low, high: an interval that holds the true one in 95 % of cases."""

    median: float
    low: float
    high: float


def spread(values: Iterable[float]) -> Spread:
    """The median of some numbers, and the interval between two of them, in order of size.

    The interval holds the true median in at least 95 % of cases whatever the numbers are like, if
    they are independent, because each lies above it as often as below (order statistics; Conover,
    Practical Nonparametric Statistics, 1999). It takes six numbers; of fewer it is the whole range.
    """
    ranked = sorted(values)
    number, cut, tail = len(ranked), 0, 1.0
    while tail <= _TAIL * 2**number:
        cut += 1
        tail += math.comb(number, cut)
    cut = max(1, cut)
    return Spread(statistics.median(ranked), ranked[cut - 1], ranked[number - cut])


def judged(ratio: Spread, least: float) -> Verdict:
    """What a ratio is, by one rule for all that is claimed of speed.

    "above" (or "below"): its interval lies above 1 (below), and its median above 1 + least (below
    1 / (1 + least)), for less than that is of no use. "unclear": the interval holds 1 and reaches
    twice as far, so the rounds differ too much to tell. "alike": anything else.
    """
    if ratio.low > 1 and ratio.median >= 1 + least:
        return "above"
    if ratio.high < 1 and ratio.median <= 1 / (1 + least):
        return "below"
    wide = 1 + 2 * least
    if ratio.low <= 1 <= ratio.high and (ratio.high > wide or ratio.low < 1 / wide):
        return "unclear"
    return "alike"


def in_turns(
    calls: Sequence[Callable[[], object]], repeats: int, shown: str = ""
) -> list[list[float]]:
    """Milliseconds of one call, of each of some calls in each of so many rounds.

    shown: what a bar on standard error says; "" for none.
    """
    times: list[list[float]] = [[] for _ in calls]
    rounds = _rounds(calls)
    with bar(bool(shown)) as progress:
        for _ in progress.track(range(repeats), description=shown):
            for rounds_of, ms in zip(times, next(rounds), strict=True):
                rounds_of.append(ms)
    return times


def fastest(calls: Sequence[Callable[[], object]], seconds: float) -> list[float]:
    """Milliseconds of one call, of each: its shortest time within about so many seconds of it."""
    end = time.perf_counter() + seconds * len(calls)
    shortest = [math.inf for _ in calls]
    for times in _rounds(calls):
        shortest = list(map(min, shortest, times))
        if time.perf_counter() >= end:
            break
    return shortest


def _rounds(calls: Sequence[Callable[[], object]]) -> Iterator[list[float]]:
    """Milliseconds of one call of each, round after round.

    A round goes through all of them several times, every second time backwards, and keeps the
    shortest time of each: what else runs on the machine can only add to it. Short calls are made
    several times in a row, after one that is not counted.
    """
    once = [min(_seconds(call, 1) for _ in range(3)) for call in calls]
    counts = [1 + int(_BLOCK / max(seconds, 1e-7)) for seconds in once]
    passes = max(_PASSES[0], min(_PASSES[1], int(_LONG / max(once))))
    while True:
        shortest = [math.inf for _ in calls]
        for number in range(passes):
            order = range(len(calls))
            for i in reversed(order) if number % 2 else order:
                if once[i] < _WARM:
                    calls[i]()
                shortest[i] = min(shortest[i], 1e3 * _seconds(calls[i], counts[i]))
        yield shortest


@contextmanager
def using_threads(count: int) -> Iterator[None]:
    """Let torch use so many threads inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def bar(shown: bool) -> Progress:
    """A bar on standard error, which goes when it is done; one that moves takes time from calls."""
    console = Console(stderr=True)
    return Progress(console=console, transient=True, disable=not shown, auto_refresh=False)


def _seconds(call: Callable[[], object], count: int) -> float:
    """Seconds of one of so many calls, in a row."""
    began = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - began) / count
