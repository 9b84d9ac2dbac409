"""The frontier: what every measured width costs and how good it is.

    frontier = sweep(net, evaluation)
    point = frontier.pick(max_bytes="300kB")      # the best network that fits
    point = frontier.pick(min_metric=0.97)        # the best that is at least this good
    small = net.cut(point.widths)
    frontier.save("frontier.json"); Frontier.load("frontier.json")

A frontier is a frozen record of numbers; it does not point back to the network.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from widthwise.common.atomic import write_whole
from widthwise.common.checks import integer, number, only, optional_number, text
from widthwise.common.jsonfile import contents, sealed, unsealed
from widthwise.common.units import format_size
from widthwise.errors import BudgetError, FileError, WidthError
from widthwise.measure.budget import Budget
from widthwise.variant import Widths

FORMAT = "widthwise frontier"
VERSION = 1
# What reading a text that is not a frontier can raise.
_MALFORMED = (ValueError, TypeError, KeyError, OverflowError, WidthError, RecursionError)


@dataclass(frozen=True)
class Point:
    """One width, measured.

    Args:
        widths: what each axis keeps.
        metric: its value.
        spread: sample standard deviation of the metric over seeds, None for one seed.
        bytes: of the file that `save` writes.
        params: numbers in the parameters, tied ones once.
        macs: multiply-accumulates for one example.
        latency_ms: milliseconds for one call, None where not measured.
        own_class: whether the cut is of the user's class rather than a graph module; None where
            unknown.
    """

    widths: Widths
    metric: float
    spread: float | None
    bytes: int
    params: int
    macs: int
    latency_ms: float | None
    own_class: bool | None = None


@dataclass(frozen=True)
class Frontier:
    """Measured points of one network.

    Args:
        points: in the order measured.
        metric: its name.
        higher_is_better: its direction.
        split: the data it was measured on, e.g. "valid".
        runtime: what latency was measured with.
        batch: examples in a call whose latency was measured.
        seeds: of the trainings behind it.
        post_process: what was done to every cut before it was measured, e.g. "reconstruct"; "" for
            nothing.
    """

    points: tuple[Point, ...]
    metric: str
    higher_is_better: bool
    split: str
    runtime: str
    batch: int = 1
    seeds: tuple[int, ...] = ()
    post_process: str = ""

    def pick(
        self,
        *,
        max_bytes: int | str | None = None,
        max_params: int | None = None,
        max_macs: int | None = None,
        max_latency_ms: float | None = None,
        min_metric: float | None = None,
        size_of: Callable[[Point], int] | None = None,
        keep_class: bool = False,
    ) -> Point:
        """The best point within all the limits given; among equals the one with fewest bytes.

        Args:
            max_bytes: bytes, or a text such as '300kB' (1000 bytes a kB).
            min_metric: the point is at least this good: at least the value, or at most where lower
                is better.
            size_of: (point) -> the bytes that `max_bytes` counts, where another file than `save`'s
                is shipped; asked for few points, and for the one that is returned.
            keep_class: only points whose cut is of the user's class, where it is known of any.

        Raises:
            BudgetError: When no limit is given, or when nothing meets them; it then names the
                nearest point.
        """
        budget = Budget(max_bytes, max_params, max_macs, max_latency_ms, min_metric)
        return self.within(budget, size_of=size_of, keep_class=keep_class)

    def within(
        self,
        budget: Budget,
        *,
        size_of: Callable[[Point], int] | None = None,
        keep_class: bool = False,
    ) -> Point:
        """The best point within a budget, as `pick` finds it.

        Args:
            budget: at least one limit.
            size_of: as for `pick`.
            keep_class: as for `pick`.

        Raises:
            BudgetError: As `pick` raises it.
        """
        if not budget.limits:
            raise BudgetError(
                "Give a budget: max_bytes, max_params, max_macs, max_latency_ms or min_metric."
            )
        if keep_class and any(p.own_class for p in self.points):
            own = replace(self, points=tuple(p for p in self.points if p.own_class))
            return own.within(budget, size_of=size_of)
        if size_of is not None and budget.bytes is not None:
            limits = self._limits(replace(budget, max_bytes=None))
            allowed = [p for p in self.points if all(limit.excess(p) <= 0 for limit in limits)]
            if not allowed:
                raise BudgetError(self._unmeetable(limits))
            return _shipped(sorted(allowed, key=self._order), budget.bytes, size_of)
        limits = self._limits(budget)
        if budget.max_latency_ms is not None and all(p.latency_ms is None for p in self.points):
            raise BudgetError("Latency was not measured; sweep again with latency=True.")
        feasible = [p for p in self.points if all(limit.excess(p) <= 0 for limit in limits)]
        if not feasible:
            raise BudgetError(self._unmeetable(limits))
        return min(feasible, key=self._order)

    def _limits(self, budget: Budget) -> list[_Limit]:
        reads: dict[str, tuple[Callable[[Point], Any], Callable[[Any], str]]] = {
            "max_bytes": (lambda p: p.bytes, _exactly),
            "max_params": (lambda p: p.params, lambda v: f"{v:,} parameters"),
            "max_macs": (lambda p: p.macs, lambda v: f"{v:,} MACs"),
            "max_latency_ms": (lambda p: p.latency_ms, lambda v: f"{v:.3g} ms"),
        }
        given = budget.limits
        limits = [_at_most(given[name], *read) for name, read in reads.items() if name in given]
        if budget.min_metric is not None:
            limits.append(self._at_least(budget.min_metric))
        return limits

    def _at_least(self, value: float) -> _Limit:
        sign = -1 if self.higher_is_better else 1
        words = "of at least" if self.higher_is_better else "of at most"
        return _Limit(
            lambda p: sign * (p.metric - value) / max(abs(value), 1e-12),
            f"{self.metric} {words} {value:.6g}",
            lambda p: f"{self.metric} {p.metric:.6g}",
        )

    def _order(self, point: Point) -> tuple[float, int, float]:
        best_first = -point.metric if self.higher_is_better else point.metric
        return best_first, point.bytes, point.latency_ms or 0.0

    def _unmeetable(self, limits: list[_Limit]) -> str:
        asked = " and ".join(limit.asked for limit in limits)
        if not self.points:
            return f"No variant was measured, so none has {asked}; run the sweep first."
        nearest = min(
            self.points, key=lambda p: (max(limit.excess(p) for limit in limits), self._order(p))
        )
        has = list(dict.fromkeys(limit.has(nearest) for limit in limits))
        shown = [_exactly(nearest.bytes), f"{self.metric} {nearest.metric:.6g}"]
        has += [s for s in shown if s not in has]
        return (
            f"No measured variant has {asked}; the nearest has {', '.join(has)}, "
            "so allow that or sweep other widths."
        )

    def best(self) -> tuple[Point, ...]:
        """The points that no other beats in both metric and bytes, fewest bytes first."""
        kept: list[Point] = []
        for point in sorted(self.points, key=lambda p: (p.bytes, self._order(p))):
            if not kept or self._order(point)[0] < self._order(kept[-1])[0]:
                kept.append(point)
        return tuple(kept)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it as JSON, whole or not at all. Raises FileError."""
        return write_whole(path, [sealed({}, self.to_json())])

    def to_json(self) -> str:
        """The frontier as JSON, one point a line. Raises FileError for numbers that JSON lacks."""
        head: dict[str, Any] = {"format": FORMAT, "version": VERSION}
        head |= {f.name: getattr(self, f.name) for f in fields(self) if f.name != "points"}
        try:
            lines = [json.dumps(_plain(p), allow_nan=False) for p in self.points]
            text = json.dumps(head, allow_nan=False, indent=1)
        except ValueError as error:
            raise FileError(
                "The frontier holds a value that is not a number; leave that point out."
            ) from error
        return f'{text[:-2]},\n "points": [\n  ' + ",\n  ".join(lines) + "\n ]\n}\n"

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Frontier:
        """Read what `save` wrote. Raises FileError for anything else."""
        try:
            text = contents(path)
        except ValueError as error:
            raise _foreign(str(path), error) from error
        except OSError as error:
            raise FileError(
                f"{path} cannot be read ({error.strerror or error}); give one that a sweep wrote."
            ) from error
        return Frontier.from_json(text, str(path))

    @staticmethod
    def from_json(text: str | bytes, name: str = "The text") -> Frontier:
        """From JSON; `name` stands in messages. Raises FileError."""
        try:
            return _read(unsealed(text if isinstance(text, bytes) else text.encode()))
        except _NewerError as error:
            raise FileError(
                f"{name} was written by a newer widthwise; update widthwise."
            ) from error
        except _MALFORMED as error:
            raise _foreign(name, error) from error


@dataclass(frozen=True)
class _Limit:
    """excess: by what share of the limit a point misses it (at most 0 where it meets it)."""

    excess: Callable[[Point], float]
    asked: str
    has: Callable[[Point], str]


def _shipped(best_first: list[Point], most: int, size_of: Callable[[Point], int]) -> Point:
    """The first point whose shipped file fits, by its real size. Raises BudgetError.

    Sizes follow the bytes of `save` nearly linearly, so that the smallest and the largest
    point tell which of the others are worth asking for.
    """
    small, large = (f(best_first, key=lambda p: p.bytes) for f in (min, max))
    least, largest = size_of(small), size_of(large)
    slope = (largest - least) / max(large.bytes - small.bytes, 1)
    for point in best_first:
        expected = least + slope * (point.bytes - small.bytes)
        if expected <= 1.05 * most + 1000 and size_of(point) <= most:
            return point
    if least <= most:
        return small
    raise BudgetError(
        f"No measured variant gives a file of at most {_exactly(most)} in this format; the "
        f"smallest gives {_exactly(least)}, so allow that or sweep other widths."
    )


def _at_most(most: float, value: Callable[[Point], Any], show: Callable[[Any], str]) -> _Limit:
    def excess(point: Point) -> float:
        measured = value(point)
        return math.inf if measured is None else float(measured - most) / max(most, 1e-12)

    def has(point: Point) -> str:
        measured = value(point)
        return "no measured latency" if measured is None else show(measured)

    return _Limit(excess, f"at most {show(most)}", has)


def _exactly(size: int) -> str:
    return format_size(size) if size < 1000 else f"{format_size(size)} ({size} bytes)"


def _plain(point: Point) -> dict[str, Any]:
    made = {f.name: getattr(point, f.name) for f in fields(point)} | {"widths": dict(point.widths)}
    if point.own_class is None:
        del made["own_class"]
    return made


class _NewerError(Exception):
    """A later version of the format."""


def _foreign(name: str, error: Exception) -> FileError:
    return FileError(
        f"{name} is not a frontier that widthwise wrote, or is damaged "
        f"({str(error)[:200].rstrip('.')}); run the sweep again."
    )


def _read(data: Any) -> Frontier:
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ValueError("another kind of file")
    version = integer(data["version"], "version")
    if version > VERSION:
        raise _NewerError
    data = {"post_process": ""} | data  # files of before there were any lack it
    only(data, {"format", "version", *(f.name for f in fields(Frontier))})
    if not isinstance(data["points"], list) or not isinstance(data["seeds"], list):
        raise ValueError("points and seeds must be lists")
    if not isinstance(data["higher_is_better"], bool):
        raise ValueError("higher_is_better must be true or false")
    return Frontier(
        points=tuple(_read_point(p) for p in data["points"]),
        metric=text(data["metric"]),
        higher_is_better=data["higher_is_better"],
        split=text(data["split"]),
        runtime=text(data["runtime"]),
        batch=integer(data["batch"], "batch"),
        seeds=tuple(integer(s, "seed") for s in data["seeds"]),
        post_process=text(data["post_process"]),
    )


def _read_point(data: Any) -> Point:
    if not isinstance(data, dict) or not isinstance(data.get("widths"), dict):
        raise ValueError("a point without widths")
    own = data.get("own_class")
    if own is not None and not isinstance(own, bool):
        raise ValueError("own_class is neither true nor false")
    only({"own_class": None} | data, {f.name for f in fields(Point)})
    return Point(
        widths=Widths(data["widths"]),
        metric=number(data["metric"], "metric"),
        spread=optional_number(data["spread"], "spread"),
        bytes=integer(data["bytes"], "bytes"),
        params=integer(data["params"], "params"),
        macs=integer(data["macs"], "macs"),
        latency_ms=optional_number(data["latency_ms"], "latency_ms"),
        own_class=own,
    )
