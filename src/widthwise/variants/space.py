"""What a search chooses from: one line of widths, tilted axis by axis, with zeros and bits.

A choice leaves one thing open, how wide the network is as a whole: its *place* on the line, which
the budget decides (`budget.py`). So no trial is wasted on networks of other sizes.

    space = Space.of(net, formats, levels)
    choice = space.choice(params)          # params: what the optimizer suggests, by name
    space.variant(choice, place)           # place: in steps, 0 where every axis is full
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from widthwise.elastic.network import Elastic
from widthwise.formats import Codebook, Format, Uniform
from widthwise.measure.shape_costs import sizes
from widthwise.pruning.gradual import prunable
from widthwise.quantization import quantizable
from widthwise.variant import AnyWidths, Variant, Widths
from widthwise.variants.budget import STEPS

MOST: Final = 8  # groups that axes, and tensors, are tied into
MOST_ZEROS: Final = 0.95  # of a tensor's weights

Group = tuple[str, ...]
"""Names that follow each other in the network and are chosen alike."""


@dataclass(frozen=True)
class Choice:
    """What one trial chose.

    tilts: octaves, -1 to 1, that each axis is wider than the line says. zeros: share of each
    tensor. bits: format of each tensor that has one.
    """

    tilts: Mapping[str, float]
    zeros: Mapping[str, float]
    bits: Mapping[str, Format]


class Line:
    """Widths from the narrowest to full along one line.

    Between its levels widths are interpolated in octaves, below the first all axes shrink alike, as
    far as training draws them (`net.lowest`), whatever the tilts. An axis inside another (a head
    size) stays as wide as the levels have it.

    levels: in any order, full width besides. lowest, highest: the places at its ends, of which the
    first has the smallest and the last the full widths whatever the tilts.
    """

    def __init__(self, net: Elastic, levels: Iterable[AnyWidths]) -> None:
        self.axes, self.drawn = net.free, net.lowest
        self.outer = [name for name, axis in self.axes.items() if axis.inner_of is None]
        complete = [net.raised(w) for w in levels]
        at = {self._octaves(w): w for w in [*complete, net.full()]}
        self.levels = sorted(at.items(), key=lambda pair: pair[0])
        first, widths = self.levels[0]
        octaves = math.log2(max((widths[name] for name in self.outer), default=1))
        self.lowest = math.floor((first - octaves - 1) * STEPS) if self.outer else 0
        self.highest = STEPS if self.outer else 0

    def widths(self, place: int, tilts: Mapping[str, float]) -> Widths:
        """The widths at a place, on the grid of every axis."""
        octaves = place / STEPS
        right = next((i for i, (at, _) in enumerate(self.levels) if at >= octaves), None)
        if right is None or right == 0:
            end, widths = self.levels[-1 if right is None else 0]
            line = {n: float(w) for n, w in widths.items()}
            line |= {n: widths[n] * 2 ** (octaves - end) for n in self.outer}
        else:
            (low, below), (high, above) = self.levels[right - 1], self.levels[right]
            share = (octaves - low) / (high - low)
            line = {n: below[n] * (above[n] / below[n]) ** share for n in self.axes}
        return Widths(
            {
                name: max(
                    axis.near(min(axis.size, line[name] * 2 ** tilts.get(name, 0.0))),
                    self.drawn.get(name, 1),
                )
                for name, axis in self.axes.items()
            }
        )

    def _octaves(self, widths: Mapping[str, int]) -> float:
        """How far below full these widths are, on average: 0 at full, -1 at half."""
        shares = [math.log2(widths[n] / self.axes[n].size) for n in self.outer]
        return math.fsum(shares) / len(shares) if shares else 0.0


@dataclass(frozen=True)
class Space:
    """All that a search of a network may choose.

    axes, pruned, quantized: groups of axes, and of tensors. formats: None for floats.
    """

    net: Elastic
    line: Line
    axes: tuple[Group, ...]
    pruned: tuple[Group, ...]
    quantized: tuple[Group, ...]
    formats: tuple[Format | None, ...]

    @classmethod
    def of(
        cls, net: Elastic, formats: Sequence[Format | None], levels: Iterable[AnyWidths]
    ) -> Space:
        """The space of a network. Raises WidthError for levels of another, ValueError."""
        chosen = tuple(dict.fromkeys(formats))
        if not chosen or any(not isinstance(f, Uniform | Codebook | None) for f in chosen):
            raise ValueError(
                f"The formats are {formats!r}; give some of None (floats), "
                "quantization.Uniform(...) and quantization.Codebook(...)."
            )
        line, numel = Line(net, levels), sizes(net, net.full())
        reach = {
            name: sum(numel.get(place.tensor, 0) for place in net.free[name].places)
            for name in line.outer
        }
        pruned, quantized = (
            {name: numel[name] for name in names if name in numel}
            for names in (prunable(net.model), quantizable(net.model))
        )
        return cls(net, line, grouped(reach), grouped(pruned), grouped(quantized), chosen)

    @property
    def floats(self) -> dict[str, tuple[float, float]]:
        """The numbers to choose, and from where to where. One tilt alone would be a place."""
        tilts = {f"w/{_named(g)}": (-1.0, 1.0) for g in self.axes if len(self.axes) > 1}
        return tilts | {f"z/{_named(g)}": (0.0, MOST_ZEROS) for g in self.pruned}

    @property
    def names(self) -> dict[str, list[str]]:
        """The formats to choose, each of the same."""
        return {f"b/{_named(g)}": [_text(f) for f in self.formats] for g in self.quantized}

    def uniform(self) -> list[dict[str, Any]]:
        """The choices to begin with: every tensor alike, on the line itself."""
        found = []
        for zeros, form in itertools.product((0.0, 0.5, 0.8), self.formats):
            shares = {name: zeros if name.startswith("z/") else 0.0 for name in self.floats}
            found.append(shares | dict.fromkeys(self.names, _text(form)))
        return [dict(pairs) for pairs in dict.fromkeys(tuple(one.items()) for one in found)]

    def choice(self, params: Mapping[str, Any]) -> Choice:
        """What these values of `floats` and `names` mean."""
        form = {_text(f): f for f in self.formats}
        tilts = {n: params.get(f"w/{_named(g)}", 0.0) for g in self.axes for n in g}
        zeros = {n: params[f"z/{_named(g)}"] for g in self.pruned for n in g}
        bits = {n: form[params[f"b/{_named(g)}"]] for g in self.quantized for n in g}
        return Choice(tilts, zeros, {n: f for n, f in bits.items() if f is not None})

    def variant(self, choice: Choice, place: int) -> Variant:
        """The choice at a place of the line. A weight of each tensor stays, whatever its share."""
        widths = self.line.widths(place, choice.tilts)
        numel = sizes(self.net, widths)
        zeros = {n: min(share, 1 - 1 / numel[n]) for n, share in choice.zeros.items()}
        return Variant(widths, {n: share for n, share in zeros.items() if share > 0}, choice.bits)

    def bytes(self, variant: Variant) -> float:
        """About how many bytes a variant's weights take: enough to know where to look."""
        total = 0.0
        for name, numel in sizes(self.net, variant.widths).items():
            form, zeros = variant.bits.get(name), variant.sparsity.get(name, 0.0)
            total += numel * ((1 - zeros) * _bits(form) + (1 if zeros else 0)) / 8
        return total


def grouped(numel: Mapping[str, int]) -> tuple[Group, ...]:
    """The names in at most `MOST` groups that follow each other, of about equal sizes."""
    if len(numel) <= MOST:
        return tuple((name,) for name in numel)
    total, before = max(1, sum(numel.values())), 0.0
    groups: dict[int, list[str]] = {}
    for name, size in numel.items():
        groups.setdefault(min(MOST - 1, int(MOST * (before + size / 2) / total)), []).append(name)
        before += size
    return tuple(map(tuple, groups.values()))


def _named(group: Group) -> str:
    return group[0] if len(group) == 1 else f"{group[0]} to {group[-1]}"


def _text(form: Format | None) -> str:
    return "float" if form is None else repr(form)


def _bits(form: Format | None) -> float:
    """The bits that one weight takes."""
    if form is None:
        return 32.0
    return float(form.bits) if isinstance(form, Uniform) else math.log2(form.values)
