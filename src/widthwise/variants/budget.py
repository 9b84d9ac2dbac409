"""A variant moved onto its budget: as wide as the limits let it be.

limits = Limits.of(max_bytes="10kB", max_macs=None, max_latency_ms=None)
place = largest(ratio, low, high, guess)      # the last place whose ratio is at most 1
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final

from widthwise.common.units import format_size, parse_size
from widthwise.errors import BudgetError

STEPS: Final = 128  # places in an octave of widths
_FULL: Final = 0.995  # of a limit: what is left is not worth another look
_AIM: Final = math.log2(_FULL) / 2  # octaves: a little within the limit
_SLOPE: Final = 1.5  # octaves of cost in an octave of width, before it is known better


@dataclass(frozen=True)
class Costs:
    """What a variant takes.

    bytes: of its file. macs: multiply-accumulates for one example. latency_ms: milliseconds for
    one call; None where there is no limit on it.
    """

    bytes: int
    macs: int
    latency_ms: float | None = None


@dataclass(frozen=True)
class Limits:
    """The most that a variant may take; None where anything goes. bytes: of its file."""

    bytes: int | None = None
    macs: int | None = None
    latency_ms: float | None = None

    @classmethod
    def of(
        cls, max_bytes: int | str | None, max_macs: int | None, max_latency_ms: float | None
    ) -> Limits:
        """Limits as they are given. Raises BudgetError for none, and for those nothing meets."""
        size = None if max_bytes is None else parse_size(max_bytes)
        limits = cls(size, max_macs, max_latency_ms)
        given = {name: value for name, value in asdict(limits).items() if value is not None}
        if not given:
            raise BudgetError("Give a budget: max_bytes, max_macs or max_latency_ms.")
        for name, value in given.items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not 0 < value < math.inf:
                raise BudgetError(f"The limit on {name} is {value!r}; give a number above 0.")
        return limits

    def ratio(self, costs: Costs) -> float:
        """The largest share of a limit that is taken: at most 1 where all are met."""
        taken = asdict(costs)
        limits = {name: most for name, most in asdict(self).items() if most is not None}
        return max(float(taken[name] / most) for name, most in limits.items())

    def asked(self) -> str:
        """For a message: what is allowed."""
        return " and ".join(self._shown(asdict(self)))

    def has(self, costs: Costs) -> str:
        """For a message: what is taken of that which is limited."""
        return " and ".join(self._shown(asdict(costs)))

    def _shown(self, amounts: dict[str, Any]) -> list[str]:
        show: dict[str, Callable[[Any], str]] = {
            "bytes": lambda v: f"{v} bytes" + (f" ({format_size(v)})" if v >= 1000 else ""),
            "macs": lambda v: f"{v:,} MACs",
            "latency_ms": lambda v: f"{v:.3g} ms",
        }
        return [show[n](amounts[n]) for n, most in asdict(self).items() if most is not None]


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
