"""How training picks widths.

One setting, `Draw`, covers the published methods, and one function turns it into widths. A draw is
a function of (seed, step) alone: every rank of a distributed run draws the same without talking,
and a resumed run continues exactly.

    Draw(p=0.5, law="uniform", scale=True)           structural dropout (Knodt 2022), independent cuts
    Draw(p=1, law="uniform", shared=True)            nested dropout's uniform form, one cut for all
    Draw(p=1, law="log-uniform", shared=True)        as many draws in 4..8 as in 128..256: the default
    sandwich(axes, Draw(), seed, step, passes=4)     full, narrowest and two drawn (Yu & Huang 2019)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from widthwise.graph.axes import Axis
from widthwise.variant import Widths


@dataclass(frozen=True)
class Draw:
    """How widths are drawn for a training step.

    p: probability that a step cuts at all (of each axis by itself when not shared).
    lowest: smallest width drawn, in features; axes narrower than that stay whole.
    step: widths are lowest, lowest + step, ..., and the full size.
    law: "uniform" over those widths, or "log-uniform": equally often in every octave.
    shared: one draw for all axes, as the same share of each axis' size.
    scale: multiply what is kept by size / width, as published; folded away at the cut.
    """

    p: float = 1.0
    lowest: int = 4
    step: int = 1
    law: Literal["uniform", "log-uniform"] = "log-uniform"
    shared: bool = True
    scale: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1:
            raise ValueError(f"Draw.p is {self.p}; give a probability from 0 to 1.")
        if self.lowest < 1 or self.step < 1:
            raise ValueError("Draw.lowest and Draw.step must be at least 1.")
        if self.law not in ("uniform", "log-uniform"):
            raise ValueError(f"Draw.law is {self.law!r}; give 'uniform' or 'log-uniform'.")


PUBLISHED = Draw(p=0.5, lowest=1, law="uniform", shared=False, scale=True)
"""Structural dropout as published (Knodt 2022)."""


def draw_widths(
    axes: Mapping[str, Axis], draw: Draw, seed: int, step: int, index: int = 0
) -> Widths:
    """The widths of one training step; `index` tells several draws of a step apart.

    axes: the axes that can be cut. Axes inside another (head size in heads) stay full.
    """
    rng = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, index, step]))
    names = [name for name, axis in axes.items() if axis.inner_of is None]
    if draw.shared:
        cut, place = rng.random(2)
        picks = {name: (cut, place) for name in names}
    else:
        picks = {name: tuple(rng.random(2)) for name in names}
    return Widths(
        {
            name: drawn_width(axes[name].size, draw, picks[name][1])
            for name in names
            if picks[name][0] < draw.p
        }
    )


def drawn_width(size: int, draw: Draw, place: float) -> int:
    """The width at a place in [0, 1) of the draw's law, for an axis of this size."""
    if size <= draw.lowest:
        return size
    choices = (size - draw.lowest + draw.step - 1) // draw.step + 1  # full size included
    if draw.law == "uniform":
        return min(size, draw.lowest + draw.step * int(place * choices))
    # Each width w stands for the interval [w, w + step) on a logarithmic scale.
    low, high = math.log(draw.lowest), math.log(size + draw.step)
    width = math.exp(low + place * (high - low))
    return min(size, draw.lowest + draw.step * int((width - draw.lowest) / draw.step))


def narrowest(axes: Mapping[str, Axis], draw: Draw) -> Widths:
    """Every axis as narrow as the draw allows."""
    return Widths(
        {
            name: min(axis.size, draw.lowest)
            for name, axis in axes.items()
            if axis.inner_of is None
        }
    )


def sandwich(
    axes: Mapping[str, Axis], draw: Draw, seed: int, step: int, passes: int = 4
) -> list[Widths]:
    """Full width, the narrowest and `passes - 2` drawn ones (sandwich rule, Yu & Huang 2019)."""
    drawn = [draw_widths(axes, draw, seed, step, index=i) for i in range(passes - 2)]
    return [Widths(), *drawn, narrowest(axes, draw)]
