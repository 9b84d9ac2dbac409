"""Which widths are fast here: are multiples of 8 or 16 worth it, or is any width as good?

    measured = granularity(net)
    for row in measured.rows:
        print(row.runtime, row.batch, row.recommended)       # 1: any width is as good

Kernels compute in blocks (vectors of 8 or 16 numbers, tiles of 64), so that a width that does not
fill its last block may cost as much as one that does. Whether it does is measured, as follows.

All wide axes are moved together around half of their width, c, which is a multiple of the coarsest
granularity B that fits. Networks at c - B, c and c + B give the parabola on which calls of widths
that fill all blocks lie; time is one where every product has at most two of these axes as sides.
For every finer granularity g, two networks at c - d and c + d, d = B/2 - g (B/2 for g = B/2), are
multiples of g and of nothing coarser. Their mean time ÷ the parabola's mean there, which is

    t(c) + (d/B)² ((t(c - B) + t(c + B)) / 2 - t(c)),

is what such widths cost beyond their size. All are timed in the same rounds, and the ratio is taken
in each. Recommended is the finest granularity from which on nothing is lost.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import nn

from widthwise.benchmark.runtimes import Runtime
from widthwise.benchmark.speed import BOTH, REPEATS, conditions, timed
from widthwise.benchmark.timing import Spread, judged, spread
from widthwise.elastic.network import Elastic
from widthwise.errors import ExportError
from widthwise.graph.axes import Axis
from widthwise.variant import Widths

TOLERANCE: Final = 0.05  # of a call's time, which may be lost for the freedom to choose any width
COARSEST: Final = (64, 32, 16, 8)
FINER: Final = (1, 4, 8, 16, 32)


@dataclass(frozen=True)
class Granularity:
    """What widths cost beyond their size, in one runtime at one batch size.

    coarsest: the multiple that all others are compared with. longer: by finer multiple, the time of
    a call at widths that are multiples of it and of no coarser one ÷ the time that their size needs
    at multiples of `coarsest`; above 1, they are slower. Of 1: widths that are no multiple of 4.
    noise: the ratio of two times of one network.
    """

    runtime: Runtime
    batch: int
    coarsest: int
    longer: Mapping[int, Spread]
    noise: Spread

    @property
    def recommended(self) -> int | None:
        """The smallest multiple from which on none is slower by TOLERANCE; 1 is any width.

        None when the rounds differ too much to tell.
        """
        if judged(self.noise, TOLERANCE) != "alike":
            return None
        best = self.coarsest
        for multiple in sorted(self.longer, reverse=True):
            said = judged(self.longer[multiple], TOLERANCE)
            if said == "unclear":
                return None
            if said == "above":
                break
            best = multiple
        return best


@dataclass(frozen=True)
class Granularities:
    """What was measured, and around which widths. notes: what was not, and why."""

    rows: tuple[Granularity, ...]
    around: Widths
    notes: tuple[str, ...] = ()


def granularity(
    net: Elastic,
    *,
    batches: Sequence[int] = (1, 32),
    threads: int | None = None,
    repeats: int = REPEATS,
    runtimes: Sequence[Runtime] = BOTH,
    progress: bool = False,
) -> Granularities:
    """Time a network at widths of every granularity, as graph modules on the CPU.

    Axes narrower than 4 B, those inside another (a head size) and those whose constraints leave no
    choice stay at half. B is such that at least half of the axes are moved, so that a network of
    narrow axes tells nothing of coarse multiples. batches, threads, repeats: as for `speeds`.

    Raises CaptureError as `speeds`.
    """
    axes = [a for a in net.free.values() if a.inner_of is None]
    coarsest = coarsest_for([a.size for a in axes])
    half = dict(net.widths(0.5))
    if coarsest is None:
        least = 4 * COARSEST[-1]
        note = f"Half of the axes have less than {least} features, too few to tell multiples apart."
        return Granularities((), Widths(half), (note,))
    steps = offsets(coarsest)
    centre = {a.name: c for a in axes if (c := _centre(a, coarsest, steps)) is not None}
    if not centre:
        note = "The constraints leave no width to choose, so no granularity was measured."
        return Granularities((), Widths(half), (note,))
    modules = [_graph(net, half | _moved(centre, step)) for step in steps]
    named = {str(step): module for step, module in zip(steps, modules, strict=True)}
    how, notes = conditions(named, *net.engine.example(), batches, threads, repeats, progress)
    rows = []
    for runtime in runtimes:
        try:
            for batch, times, noise in timed(modules, how, runtime):
                found = longer(dict(zip(steps, times, strict=True)), coarsest)
                rows.append(Granularity(runtime, batch, coarsest, found, noise))
        except ExportError as error:
            notes.append(f"{runtime} was not timed: {error}")
    return Granularities(tuple(rows), Widths(half | centre), tuple(notes))


def coarsest_for(sizes: Sequence[int]) -> int | None:
    """The coarsest multiple of which at least half of axes of these sizes have four."""
    if not sizes:
        return None
    middle = statistics.median_low(sizes)
    return next((multiple for multiple in COARSEST if 4 * multiple <= middle), None)


def offsets(coarsest: int) -> list[int]:
    """How far from the centre networks are timed: the parabola's, then two of each granularity."""
    finer = [_distance(g, coarsest) for g in FINER if g < coarsest]
    return [-coarsest, 0, coarsest, *(sign * d for d in finer for sign in (-1, 1))]


def longer(times: Mapping[int, Sequence[float]], coarsest: int) -> dict[int, Spread]:
    """By granularity, the time of its widths ÷ what their size needs.

    times: milliseconds of every round, by the distance from the centre, one of `offsets`.
    """
    ms = {step: torch.tensor(rounds, dtype=torch.float64) for step, rounds in times.items()}
    bend = (ms[-coarsest] + ms[coarsest]) / 2 - ms[0]
    found = {}
    for finer in (g for g in FINER if g < coarsest):
        d = _distance(finer, coarsest)
        needed = ms[0] + (d / coarsest) ** 2 * bend
        found[finer] = spread(((ms[-d] + ms[d]) / 2 / needed).tolist())
    return found


def _distance(finer: int, coarsest: int) -> int:
    """From the centre to widths that are multiples of `finer` and of nothing coarser."""
    return coarsest // 2 - (finer if 2 * finer < coarsest else 0)


def _centre(axis: Axis, coarsest: int, steps: Sequence[int]) -> int | None:
    """The multiple nearest to half of an axis, where it may have all the widths around it."""
    if axis.size < 4 * coarsest:
        return None
    centre = max(2, round(axis.size / 2 / coarsest)) * coarsest
    allowed = all(axis.grid.allows(centre + step, axis.size) for step in steps)
    return centre if allowed else None


def _graph(net: Elastic, widths: Mapping[str, int]) -> nn.Module:
    """The cut as a graph module: whether the class can express a width must not matter."""
    return net.engine.cut(widths, same_class=False)[0]


def _moved(centre: Mapping[str, int], step: int) -> dict[str, int]:
    return {name: width + step for name, width in centre.items()}
