"""Dims of stored tensors as products of axes, so that widths say what every level keeps of them.

    described(term, axes, numbers)    # 12 heads of head size 64: [-1, 64]
    layout_as([-1, 64], [(12, 6)])    # ((12, 6), (64, 64)): the first 6 heads

A dim is written as its factors, outermost first; one alone stands without the list. A factor is

    n >= 0    so many entries, which all levels keep
    n < 0     axis number -n, from 1 on: as many entries as it has features, its first are kept
    [...]     dims laid end to end, one after another
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from widthwise.graph.axes import Axes
from widthwise.graph.dims import Term, fully_fixed, resolve, size
from widthwise.graph.slicing import Layout


def described(term: Term, axes: Axes, numbers: Mapping[str, int]) -> Any:
    """A dim as JSON. numbers: of the free axes, by name, from 1 on."""
    if fully_fixed(term):
        return size(term)
    factors: list[Any] = []
    for f in resolve(term):
        if f.parts and not fully_fixed((f,)):
            factors.append([described(part, axes, numbers) for part in f.parts])
        else:
            # What no parameter holds is no axis and stays full.
            factors.append(-numbers[axes.of[f]] if f in axes.of else f.size)
    # A sum alone needs its list, which would be taken for the factors'.
    return factors if len(factors) > 1 or isinstance(factors[0], list) else factors[0]


def layout_as(dim: Any, axes: Sequence[tuple[int, int]]) -> Layout:
    """What is kept of a dim. axes: (size, width) of each.

    Raises ValueError, LookupError or RecursionError for what `described` did not make.
    """
    return tuple(_factor(f, axes) for f in (dim if isinstance(dim, list) else [dim]))


def _factor(factor: Any, axes: Sequence[tuple[int, int]]) -> tuple[int, Any]:
    if isinstance(factor, list):
        parts = tuple(layout_as(dim, axes) for dim in factor)
        return sum(_size(part) for part in parts), parts
    if type(factor) is not int:
        raise ValueError("a dim is not made of numbers")
    return axes[-factor - 1] if factor < 0 else (factor, factor)


def _size(spec: Layout) -> int:
    total = 1
    for full, _ in spec:
        total *= full
    return total
