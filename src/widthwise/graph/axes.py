"""Axes: the groups of features that live and die together.

What the rules leave free and what touches a parameter is an axis. Its places say where its
features lie in which tensors; the same place serves to slice, permute, mask and store.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from typing import Any

from widthwise.errors import WidthError
from widthwise.graph.dims import Factor, Term, free_factors, fully_fixed, resolve, size, why
from widthwise.graph.relate import Relations
from widthwise.variant import AnyWidths, Widths


@dataclass(frozen=True)
class Place:
    """Where an axis lies: one dim of one parameter or buffer, and what that dim is made of."""

    tensor: str
    dim: int
    term: Term

    def __str__(self) -> str:
        return f"{self.tensor}[{self.dim}]"


@dataclass(frozen=True)
class Grid:
    """Which widths an axis may have: multiples of a number from a least one on, and its full size.

    Grid()                                # every width
    Grid(multiple_of=8, at_least=20)      # 24, 32, 40, ... and the full size
    """

    multiple_of: int = 1
    at_least: int = 1

    def multiple(self, number: int) -> int:
        """The number rounded up to a multiple."""
        return -(-number // self.multiple_of) * self.multiple_of

    def up(self, width: int) -> int:
        """The smallest width of the grid that is not below this one."""
        return self.multiple(max(width, self.at_least))

    def near(self, width: float, size: int) -> int:
        """The width of the grid nearest to this one, for an axis of this size."""
        return min(size, max(self.up(1), round(width / self.multiple_of) * self.multiple_of))

    def allows(self, width: int, size: int) -> bool:
        """Whether an axis of this size may have this width."""
        if not size % self.multiple_of:  # no special case of the full size, for compiled graphs
            least = min(self.at_least, size)
            return least <= width <= size and not width % self.multiple_of
        return width == size or (self.at_least <= width < size and not width % self.multiple_of)


@dataclass(frozen=True)
class Axis:
    """A group of features that can be cut together, or the reason why they cannot.

    Args:
        name: after the module that makes the features.
        size: number of features at full width.
        places: the dims of parameters and buffers that hold them.
        fixed_because: None if free.
        role: "heads", "head_size", "groups", "hidden", ... where the operators tell.
        inner_of: the axis whose every feature holds this many of these (a head holds its head
            size), or None.
        normalised: whether features are compared with each other (layer norm, softmax), so that a
            cut feature is not the same as a zero.
        grid: the widths it may have.
        tied: the axes of equal size that constraints made into this one, by name.
    """

    name: str
    size: int
    places: tuple[Place, ...]
    fixed_because: str | None = None
    role: str | None = None
    inner_of: str | None = None
    normalised: bool = False
    grid: Grid = Grid()
    tied: tuple[str, ...] = ()

    def near(self, width: float, multiple_of: int = 1) -> int:
        """The nearest width that it may have, a multiple of this number too, or its full size."""
        both = Grid(math.lcm(multiple_of, self.grid.multiple_of), self.grid.at_least)
        return both.near(width, self.size)


@dataclass(frozen=True)
class Axes:
    """All axes of a model, and which factor belongs to which.

    table: by name, free and fixed, in the order of the graph. of: free factor -> axis name.
    """

    table: dict[str, Axis]
    of: dict[Factor, str]

    @cached_property
    def free(self) -> dict[str, Axis]:
        """The axes that can be cut."""
        return {name: a for name, a in self.table.items() if a.fixed_because is None}

    def complete(self, widths: AnyWidths) -> dict[str, int]:
        """A width for every free axis; those not named stay full, and a fraction is of them all.

        Raises WidthError for an axis that does not exist, is fixed, or may not have that width, and
        for a fraction outside (0, 1].
        """
        if not isinstance(widths, Mapping):
            widths = self.fraction(widths)
        for name, width in widths.items():
            axis = self.table.get(name)
            if axis is None:
                raise WidthError(f"There is no axis {name!r}; {self._instead(name)}.")
            if axis.fixed_because is not None and width != axis.size:
                raise WidthError(
                    f"Axis {name!r} cannot be cut because {axis.fixed_because}; leave it out."
                )
            if not 1 <= width <= axis.size:
                raise WidthError(f"Axis {name!r} cannot have width {width}; give 1 to {axis.size}.")
            if not axis.grid.allows(width, axis.size):
                raise WidthError(
                    f"Axis {name!r} cannot have width {width}, because {_asked(axis)}; give "
                    f"{_allowed(axis, width)}."
                )
        return {name: int(widths.get(name, axis.size)) for name, axis in self.free.items()}

    def fraction(self, kept: float, multiple_of: int = 1) -> Widths:
        """Every free axis at this fraction of its size, rounded to a multiple, at least one.

        An axis inside another one (the head size inside the heads) stays full: cutting both would
        keep only the square of the fraction. Raises WidthError for a fraction outside (0, 1].
        """
        if isinstance(kept, bool) or not isinstance(kept, Real) or not 0 < kept <= 1:
            raise WidthError(
                f"The fraction to keep is {kept!r}; give a number above 0, at most 1, or a mapping "
                "from the names of axes to their widths."
            )
        return Widths(
            {
                name: axis.near(kept * axis.size, multiple_of)
                for name, axis in self.free.items()
                if axis.inner_of is None
            }
        )

    def _instead(self, name: str) -> str:
        """What to give instead of an axis that does not exist."""
        for axis in self.table.values():
            if name in axis.tied:
                return f"it is tied into {axis.name!r}, give that"
        return f"the axes that can be cut are {named_near(name, self.free) or 'none'}"


SHOWN = 8  # names in a message


def named_near(name: str, names: Iterable[str]) -> str:
    """The names, for a message: all of a few, the nearest of many."""
    every = list(names)
    if len(every) <= SHOWN:
        return ", ".join(map(repr, every))
    some = difflib.get_close_matches(name, every, SHOWN, cutoff=0.3) or every[:SHOWN]
    return f"{', '.join(map(repr, some))} and {len(every) - len(some)} more"


def _asked(axis: Axis) -> str:
    """What constraints ask of an axis' widths."""
    grid = axis.grid
    if grid.multiple_of > 1 and grid.up(1) > grid.multiple_of:
        return f"its widths are multiples of {grid.multiple_of} from {grid.up(1)} on"
    if grid.multiple_of > 1:
        return f"its widths are multiples of {grid.multiple_of}"
    return f"its smallest width is {grid.at_least}"


def _allowed(axis: Axis, width: int) -> str:
    """The nearest widths that an axis may have, on either side of one that it may not."""
    above = min(axis.size, axis.grid.up(width))
    below = above - axis.grid.multiple_of if above < axis.size else axis.size - 1
    below -= below % axis.grid.multiple_of
    return f"{below} or {above}" if axis.grid.allows(below, axis.size) else f"{above}"


def find_axes(relations: Relations, parameters: Iterable[str]) -> Axes:
    """The axes of a model from what the rules found; `parameters` names its parameters."""
    parameters = set(parameters)
    places: dict[Factor, list[Place]] = {}
    for tensor, dims in relations.state.items():
        for d, term in enumerate(dims):
            for factor in dict.fromkeys(free_factors(term)):
                places.setdefault(factor, []).append(Place(tensor, d, resolve(term)))
    places = {f: p for f, p in places.items() if any(x.tensor in parameters for x in p)}
    roles = _roles(relations)
    names = _names(places, roles, relations)
    inner = _inner(places, names)
    normalised = {
        f
        for related in relations.programs
        for terms in related.normalised.values()
        for t in terms
        for f in free_factors(t)
    }
    table = {
        names[f]: Axis(
            names[f], f.size, tuple(p), None, roles.get(f), inner.get(f), f in normalised
        )
        for f, p in places.items()
    }
    return Axes(table | _fixed(relations, parameters, table), names)


def _roles(relations: Relations) -> dict[Factor, str]:
    roles: dict[Factor, str] = {}
    for term, role in relations.roles:
        found = list(free_factors(term))
        for factor in found[:1]:
            roles.setdefault(factor, role)
        for factor in found[1:]:
            roles.setdefault(factor, f"{role}_group")
    return roles


def _names(
    places: dict[Factor, list[Place]], roles: dict[Factor, str], relations: Relations
) -> dict[Factor, str]:
    """Name each axis after the module that makes its features."""
    wanted: dict[Factor, str] = {}
    for factor, held in places.items():
        maker = min(held, key=lambda p: _rank(p, relations))
        base = module_of(maker.tensor)
        role = roles.get(factor)
        wanted[factor] = f"{base}.{role}" if role and role != "hidden" else base
    counts: dict[str, int] = {}
    for name in wanted.values():
        counts[name] = counts.get(name, 0) + 1
    seen: dict[str, int] = {}
    names: dict[Factor, str] = {}
    for factor, name in wanted.items():
        seen[name] = seen.get(name, 0) + 1
        names[factor] = f"{name}/{seen[name]}" if counts[name] > 1 else name
    return names


def _rank(place: Place, relations: Relations) -> tuple[bool, bool, bool]:
    """Makers first: a dim of a layer's matrix that does not read features."""
    reads = (place.tensor, place.dim) in relations.consumed
    plain = module_of(place.tensor) == place.tensor
    return reads, plain, len(relations.state[place.tensor]) < 2


def module_of(tensor: str) -> str:
    """The layer that holds a tensor; a plain parameter goes by its own name."""
    path, _, last = tensor.rpartition(".")
    # Plain parameters are called by their own name, a layer's tensors by the layer's.
    ordinary = last.startswith(("weight", "bias", "in_proj", "running_", "original"))
    return path if path and ordinary else tensor


def _inner(places: dict[Factor, list[Place]], names: dict[Factor, str]) -> dict[Factor, str]:
    """Which axis lies inside which, from products of free factors in the tensors' dims."""
    pairs: dict[tuple[Factor, Factor], None] = {}
    for held in places.values():
        for place in held:
            pairs |= dict.fromkeys(_nested(place.term))
    inner: dict[Factor, str] = {}
    for outer, factor in pairs:
        if outer not in names or factor not in names:
            continue
        # Channels that are shuffled lie both ways; then the larger factor counts as the outer one.
        both_ways = (factor, outer) in pairs
        taken = inner.get(outer) == names[factor]
        if not (both_ways and (factor.size > outer.size or taken)):
            inner.setdefault(factor, names[outer])
    return inner


def _nested(term: Term, outer: Factor | None = None) -> Iterator[tuple[Factor, Factor]]:
    """(outer, inner) pairs of free factors that follow each other, sums included."""
    for f in resolve(term):
        for part in f.parts:
            yield from _nested(part, outer)
        if f.free:
            if outer is not None and outer is not f:
                yield outer, f
            outer = f


def _fixed(relations: Relations, parameters: set[str], free: Mapping[str, Any]) -> dict[str, Axis]:
    """Dims that make features but cannot be cut, by the module that makes them, with the reason."""
    found: dict[str, Axis] = {}
    for tensor, dims in relations.state.items():
        if tensor not in parameters:
            continue
        for d, term in enumerate(dims):
            makes = d < 2 and (tensor, d) not in relations.consumed
            if not makes or size(term) == 1 or not fully_fixed(term):
                continue
            name = module_of(tensor)
            if name in free:
                name = f"{name}[{d}]"
            if name not in found:
                place = Place(tensor, d, resolve(term))
                found[name] = Axis(name, size(term), (place,), why(term))
    return found
