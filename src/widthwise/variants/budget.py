"""A variant moved onto its budget: as wide as the limits let it be.

ratio(Budget(max_bytes="10kB"), Costs(bytes=9_000, macs=200))     # 0.9
place = largest(ratio, low, high, guess)      # the last place whose ratio is at most 1
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final

from widthwise.common.units import format_size
from widthwise.errors import BudgetError
from widthwise.measure.budget import Budget

STEPS: Final = 128  # places in an octave of widths
_FULL: Final = 0.995  # of a limit: what is left is not worth another look
_AIM: Final = math.log2(_FULL) / 2  # octaves: a little within the limit
_SLOPE: Final = 1.5  # octaves of cost in an octave of width, before it is known better


@dataclass(frozen=True)
class VariantCosts:
    """What a variant takes.

    bytes: of its file. macs: multiply-accumulates for one example. latency_ms: milliseconds for
    one call; None where there is no limit on it.
    """

    bytes: int
    macs: int
    latency_ms: float | None = None


_COUNTED: Final = {"max_bytes": "bytes", "max_macs": "macs", "max_latency_ms": "latency_ms"}


def check(budget: Budget) -> None:
    """Raise BudgetError for a budget without limits, and for limits that a search cannot meet."""
    given = budget.limits
    if not given:
        raise BudgetError("Give a budget: max_bytes, max_macs or max_latency_ms.")
    for name, value in given.items():
        if name not in _COUNTED:
            raise BudgetError(
                f"A search does not count {name}; limit {', '.join(_COUNTED)}, or one of them."
            )
        if value <= 0:
            raise BudgetError(f"The limit {name} is {value!r}; give a number above 0.")


def ratio(budget: Budget, costs: VariantCosts) -> float:
    """The largest share of a limit that is taken: at most 1 where all limits are met."""
    taken = asdict(costs)
    return max(float(taken[_COUNTED[name]] / most) for name, most in budget.limits.items())


def allowed(budget: Budget) -> str:
    """The limits, for a message."""
    return _shown(budget.limits)


def taken(budget: Budget, costs: VariantCosts) -> str:
    """What is taken of everything that is limited, for a message."""
    spent = asdict(costs)
    return _shown({name: spent[_COUNTED[name]] for name in budget.limits})


def _shown(amounts: dict[str, Any]) -> str:
    show: dict[str, Callable[[Any], str]] = {
        "max_bytes": lambda v: f"{v} bytes" + (f" ({format_size(v)})" if v >= 1000 else ""),
        "max_macs": lambda v: f"{v:,} MACs",
        "max_latency_ms": lambda v: f"{v:.3g} ms",
    }
    return " and ".join(show[name](amount) for name, amount in amounts.items())


def largest(ratio: Callable[[int], float], low: int, high: int, guess: int) -> int | None:
    """The largest place from low to high whose ratio is at most 1; None where low is above it.

    ratio: grows with the place, and is dear. A place that takes 99.5 % will do. guess: where to
    look first. The next place is where a straight line, through logarithms of the nearest on either
    side, meets 1; every third halves what is left, so that it ends soon whatever the ratio does.
    """
    met: tuple[int, float] | None = None
    over: tuple[int, float] | None = None
    place, turn = min(max(guess, low), high), 0
    while True:
        turn += 1
        octaves = math.log2(max(ratio(place), 1e-9))
        if octaves <= 0:
            met = (place, octaves)
            if place == high or octaves >= math.log2(_FULL):
                return place
        else:
            over = (place, octaves)
            if place == low:
                return None
        first = low if met is None else met[0] + 1
        last = high if over is None else over[0] - 1
        if first > last:
            return None if met is None else met[0]
        if met is None or over is None:
            # Further each time, until the other side is found.
            there = place + math.floor((_AIM - octaves) / _SLOPE * STEPS * 2 ** (turn - 1))
        elif turn % 3 == 0:
            there = (first + last) // 2
        else:
            slope = (over[1] - met[1]) / (over[0] - met[0])
            there = math.floor(met[0] + (_AIM - met[1]) / slope)
        place = min(max(there, first), last)
