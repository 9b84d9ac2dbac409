"""How training picks widths.

One setting, `Draw`, covers the published methods, and one function turns it into widths. A draw is
a function of (seed, step) alone: every rank of a distributed run draws the same without talking,
and a resumed run continues exactly.

    PUBLISHED = Draw(p=0.5, lowest=1, law="uniform", shared=False, scale=True)
                                             # structural dropout (Knodt 2022): each axis by itself
    Draw(p=1, lowest=1, law="uniform")       # nested dropout (Rippel 2014) made uniform, one cut
    Draw()                                   # as many draws in 4..8 as in 128..256: the default
    Draw(lowest=8, step=8)                   # widths 8, 16, 24, ...: quicker for convolutions
    sandwich(axes, Draw(), seed, step, Sandwich(passes=4))
                                             # full, two drawn, narrowest (Yu & Huang 2019)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from widthwise.graph.axes import Axis, Grid
from widthwise.variant import Widths


@dataclass(frozen=True)
class Draw:
    """How widths are drawn for a training step.

    Args:
        p: probability that a step cuts (of each axis by itself when not shared); otherwise nothing
            is cut. The full size is never among the widths that a cut draws.
        lowest: smallest width drawn, in features. A small axis, such as 12 heads, is drawn down to
            a quarter of its size; one that is no wider than its smallest width stays whole.
        step: a cut keeps lowest, lowest + step, ... features, always fewer than the axis has.
        law: "uniform" over those widths, or "log-uniform": a width w stands for w..w + step on a
            logarithmic scale, so that every octave is drawn equally often.
        shared: one draw for all axes: the law holds for the widest, the others keep the same share,
            rounded to their widths. Otherwise each axis is drawn by itself.
        scale: multiply what is kept by size / width, as published: in front of an activation that
            one layer (or its norm) feeds, else where the features are read; folded into weights at
            the cut.

    Raises:
        ValueError: For values outside these ranges.
    """

    p: float = 0.9
    lowest: int = 4
    step: int = 1
    law: Literal["uniform", "log-uniform"] = "log-uniform"
    shared: bool = True
    scale: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1:
            raise ValueError(f"Draw.p is {self.p}; give a probability from 0 to 1.")
        for name, value in (("lowest", self.lowest), ("step", self.step)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"Draw.{name} is {value!r}; give an integer of at least 1.")
        if self.law not in ("uniform", "log-uniform"):
            raise ValueError(f"Draw.law is {self.law!r}; give 'uniform' or 'log-uniform'.")


ANY = Grid()  # every width

PUBLISHED = Draw(p=0.5, lowest=1, law="uniform", shared=False, scale=True)
"""Structural dropout as published (Knodt 2022)."""


@dataclass(frozen=True)
class Sandwich:
    """Which widths one training step runs, widest first (after Yu & Huang, 2019).

    Args:
        passes: how many in all: the full width, `passes - 1 - narrowest` drawn ones, and the
            narrowest.
        narrowest: whether the narrowest widths are always among them; without, they are only drawn.
        stratified: each drawn pass from its own part of the law, so that every step visits wide,
            middling and narrow widths; otherwise all from the whole law.

    Raises:
        ValueError: When there are too few passes for what they must hold.
    """

    passes: int = 4
    narrowest: bool = True
    stratified: bool = True

    def __post_init__(self) -> None:
        least = 1 + self.narrowest
        if isinstance(self.passes, bool) or not isinstance(self.passes, int) or self.passes < least:
            raise ValueError(
                f"Sandwich.passes is {self.passes!r}; give an integer of at least {least}."
            )

    @property
    def drawn(self) -> int:
        """How many passes are drawn."""
        return self.passes - 1 - self.narrowest


def one_per_octave(axes: Mapping[str, Axis], draw: Draw) -> Sandwich:
    """The full width and, in every step, one drawn width from each octave of the widest axis."""
    size, grid = _widest(a for a in axes.values() if a.inner_of is None)
    octaves = max(1, round(math.log2(max(size / smallest(size, draw, grid), 2))))
    return Sandwich(passes=1 + octaves, narrowest=False)


def share_kept(axes: Mapping[str, Axis], widths: Mapping[str, int]) -> float:
    """How much of a network these widths keep: the mean share of its axes, in (0, 1]."""
    shares = [widths.get(n, a.size) / a.size for n, a in axes.items() if a.inner_of is None]
    return sum(shares) / len(shares) if shares else 1.0


def sandwich(
    axes: Mapping[str, Axis], draw: Draw, seed: int, step: int, plan: Sandwich | None = None
) -> list[Widths]:
    """The widths of every pass of one training step: full width first, narrowest last.

    A shared draw always cuts here (p = 1): a pass that cut nothing would be the full one again.
    """
    plan = plan if plan is not None else Sandwich()
    draw = replace(draw, p=1.0) if draw.shared else draw
    of = plan.drawn if plan.stratified else 1
    drawn = [draw_widths(axes, draw, seed, step, i, of) for i in reversed(range(plan.drawn))]
    return [Widths(), *drawn, *([narrowest(axes, draw)] if plan.narrowest else [])]


def climb(levels: Sequence[Widths], seed: int, step: int, plan: Sandwich) -> list[Widths]:
    """As `sandwich`, with widths drawn from levels: full width, drawn levels, the first level.

    levels: from narrow to wide, of which a stratified plan takes the widest for its first pass.
    """
    places = uniforms(seed, (step, 0), plan.drawn)
    if plan.stratified:
        places = [(i + place) / plan.drawn for i, place in enumerate(places)]
    drawn = [int(place * len(levels)) for place in places]
    lowest = [levels[0]] if plan.narrowest else []
    return [Widths(), *(levels[i] for i in reversed(drawn)), *lowest]


def draw_widths(
    axes: Mapping[str, Axis], draw: Draw, seed: int, step: int, index: int = 0, of: int = 1
) -> Widths:
    """The widths of one pass of one training step; axes that are not cut are left out.

    axes: the axes that can be cut. Axes inside another (head size in heads) stay full. An axis with
        a grid of its own takes widths of that grid: `draw.lowest` and `draw.step` rounded up to it.
    index: tells several passes of a step apart.
    of: when above 1, index 0..of - 1 is the part of the law to draw from, narrow widths first;
        axes drawn by themselves each take the parts in an order of their own.
    """
    outer = {name: axis for name, axis in axes.items() if axis.inner_of is None}
    if draw.shared:
        cut, place = uniforms(seed, (step, index), 2)
        if not outer or cut >= draw.p:
            return Widths()
        widest, grid = _widest(outer.values())
        width = drawn_width(widest, draw, (index + place) / of if of > 1 else place, grid)
        kept = {n: same_share(a.size, draw, width, widest, a.grid) for n, a in outer.items()}
        return Widths({name: w for name, w in kept.items() if w < outer[name].size})
    values = uniforms(seed, (step, index), 2 * len(outer))
    found: dict[str, int] = {}
    for number, (name, axis) in enumerate(outer.items()):
        cut, place = values[2 * number : 2 * number + 2]
        if cut >= draw.p or axis.size <= smallest(axis.size, draw, axis.grid):
            continue
        if of > 1:
            place = (_stratum(seed, step, number, index, of) + place) / of
        found[name] = drawn_width(axis.size, draw, place, axis.grid)
    return Widths(found)


def _widest(axes: Iterable[Axis]) -> tuple[int, Grid]:
    """Size and grid of the widest axis, for which a shared draw is made.

    Without its smallest width: that would keep the other axes from being cut as far as they may.
    """
    found = max(((a.size, -a.grid.multiple_of) for a in axes), default=(1, -1))
    return found[0], Grid(-found[1])


def drawn_width(size: int, draw: Draw, place: float, grid: Grid = ANY) -> int:
    """The width at a place in [0, 1) of the draw's law, for an axis of this size that is cut.

    Below `size`, but for axes that are no wider than their smallest width: those stay whole.
    """
    lowest, step = smallest(size, draw, grid), grid.multiple(draw.step)
    if size <= lowest:
        return size
    choices = -(-(size - lowest) // step)  # lowest, lowest + step, ... below size
    if draw.law == "uniform":
        rank = int(place * choices)
    else:
        span = math.log1p(choices * step / lowest)
        rank = int(lowest * math.expm1(place * span) / step)
    return lowest + step * min(rank, choices - 1)  # rounding may reach past the end


def same_share(size: int, draw: Draw, width: int, widest: int, grid: Grid = ANY) -> int:
    """The share width / widest of an axis of this size, rounded to a width of the draw."""
    lowest, step = smallest(size, draw, grid), grid.multiple(draw.step)
    if size <= lowest or width >= widest:
        return size
    rank = round((size * width / widest - lowest) / step)
    return min(size, lowest + step * max(rank, 0))


def smallest(size: int, draw: Draw, grid: Grid = ANY) -> int:
    """The smallest width drawn for an axis of this size: `draw.lowest`, less for a small axis.

    Rounded up to the axis' own grid.
    """
    return grid.up(min(draw.lowest, max(draw.step, size // 4)))


def narrowest(axes: Mapping[str, Axis], draw: Draw) -> Widths:
    """Every axis as narrow as the draw allows; axes inside another stay full."""
    return Widths(
        {
            name: min(axis.size, smallest(axis.size, draw, axis.grid))
            for name, axis in axes.items()
            if axis.inner_of is None
        }
    )


_BITS = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


def uniforms(seed: int, counters: Iterable[int], count: int) -> list[float]:
    """`count` numbers uniform in [0, 1), a function of seed and counters alone."""
    state = hashed(seed, counters)
    return [(_mix(state + _GOLDEN * k) >> 11) * 2.0**-53 for k in range(1, count + 1)]


def hashed(seed: int, counters: Iterable[int]) -> int:
    """64 random bits that are a function of seed and counters alone.

    Each in turn goes through the finaliser of SplitMix64 (Steele, Lea & Flood, 2014): under a
    microsecond, where setting up a generator object takes 15.
    """
    state = _mix(seed + _GOLDEN)
    for counter in counters:
        state = _mix(state + counter + _GOLDEN)
    return state


def _mix(value: int) -> int:
    value &= _BITS
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & _BITS
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & _BITS
    return value ^ (value >> 31)


def _stratum(seed: int, step: int, number: int, index: int, of: int) -> int:
    """The place of `index` in a random order of 0..of - 1 that is the axis' own."""
    # A third counter keeps these numbers apart from the draws' numbers.
    keys = uniforms(seed, (step, number, of), of)
    return sum(key < keys[index] for key in keys)
