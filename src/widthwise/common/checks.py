"""Checks of what a file says: all raise ValueError, which readers turn into a FileError."""

from __future__ import annotations

import math
from typing import Any


def need(condition: object, problem: str) -> None:
    """Raise ValueError, saying the problem, unless the condition holds."""
    if not condition:
        raise ValueError(problem)


def table_of(data: Any) -> dict[str, Any]:
    """A copy of a JSON object."""
    need(isinstance(data, dict), "a table is missing")
    return dict(data)


def only(data: dict[str, Any], names: set[str]) -> None:
    """Raise ValueError unless these are the names of the entries."""
    if data.keys() != names:
        odd = sorted(data.keys() ^ names)
        raise ValueError(f"unexpected or missing entry {odd[0]!r}")


def number(value: Any, name: str) -> float:
    """A finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{name} is not a number")
    return float(value)


def optional_number(value: Any, name: str) -> float | None:
    """A number of at least 0, or None."""
    if value is None:
        return None
    if number(value, name) < 0:
        raise ValueError(f"{name} is negative")
    return float(value)


def integer(value: Any, name: str) -> int:
    """A whole number, of at least 0 except for a seed."""
    if isinstance(value, bool) or not isinstance(value, int) or (value < 0 and name != "seed"):
        raise ValueError(f"{name} is not a whole number")
    return value


def text(value: Any) -> str:
    """A text."""
    if not isinstance(value, str):
        raise ValueError("a name is not text")
    return value
