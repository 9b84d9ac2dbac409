"""What a user asks of the axes: which share a width, which stay whole, which widths they may have.

    Constraints(
        tie=("layers.*.mlp.up",),          # the MLPs of all layers: one axis, called by the pattern
        keep=("embed", "layers.0.*"),      # these stay whole
        multiple_of={"*": 8, "*.heads": 1},
        at_least={"*.heads": 2},
    )

Constraints are put on after the proof: an axis is proven by itself before it is tied to others or
kept, so they can hide nothing. Tied axes are one axis that lies where each of them does, so
whatever runs, cuts or draws widths need not know of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from widthwise.errors import WidthError
from widthwise.graph.axes import Axes, Axis, Grid, named_near
from widthwise.graph.dims import fix


@dataclass(frozen=True)
class Constraints:
    """What the widths of a network must fulfil.

    Patterns are globs over the names of axes (`*` stands for anything, dots too), as `explain()`
    lists them without constraints.

    Of several patterns of `multiple_of`, or of `at_least`, that match an axis the last one counts.

    Args:
        tie: the axes that match one pattern become one axis, named by the pattern. They must be of
            equal size, and none may lie inside another. Where one of this size is fixed, all are.
        keep: these stay whole. An axis inside a kept one (the head size in kept heads) is then cut
            by `net.widths(fraction)` and in draws like any other.
        multiple_of: pattern -> number; widths are multiples of it, or the full size.
        at_least: pattern -> smallest width, in features.

    Raises:
        ValueError: For values of another form. A pattern that matches nothing is a WidthError when
            a network is made with it.
    """

    tie: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    multiple_of: Mapping[str, int] = field(default_factory=dict)
    at_least: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("tie", "keep"):
            patterns = getattr(self, name)
            if not isinstance(patterns, tuple | list) or not all(
                isinstance(p, str) for p in patterns
            ):
                raise ValueError(
                    f"Constraints.{name} is {patterns!r}; give a tuple of patterns, such as "
                    f"{name}=('layers.*.mlp',)."
                )
            object.__setattr__(self, name, tuple(patterns))
        for name in ("multiple_of", "at_least"):
            asked = getattr(self, name)
            if not isinstance(asked, Mapping) or not all(
                isinstance(p, str) and type(n) is int and n > 0 for p, n in asked.items()
            ):
                raise ValueError(
                    f"Constraints.{name} is {asked!r}; give numbers of at least 1 by pattern, such "
                    f"as {name}={{'*': 8}}."
                )
            object.__setattr__(self, name, dict(asked))

    def to_dict(self) -> dict[str, object]:
        """What JSON can hold; `Constraints(**d)` makes it again."""
        made = dataclasses.asdict(self)
        return made | {name: list(made[name]) for name in ("tie", "keep")}


def constrain(axes: Axes, wanted: Constraints) -> Axes:
    """The axes with the constraints put on; what is kept becomes fixed in the relations.

    Raises WidthError for a pattern that matches nothing and for axes that cannot be tied.
    """
    if wanted == Constraints():
        return axes
    for pattern in (*wanted.tie, *wanted.keep, *wanted.multiple_of, *wanted.at_least):
        if not any(_matches(name, pattern) for name in axes.table):
            near = named_near(pattern, axes.table)
            raise WidthError(f"No axis matches the constraint {pattern!r}; there are {near}.")
    names = _tied(axes.table, wanted.tie)
    members: dict[str, list[Axis]] = {}
    for axis in axes.table.values():
        members.setdefault(names[axis.name], []).append(axis)
    table: dict[str, Axis] = {}
    for name, some in members.items():
        _check(name, some, axes.table)
        table[name] = _with(_one(name, some) if name in wanted.tie else some[0], wanted)
    of = {factor: names[name] for factor, name in axes.of.items()}
    for factor, name in of.items():
        reason = table[name].fixed_because
        if reason is not None:
            fix((factor,), reason)
    of = {factor: name for factor, name in of.items() if table[name].fixed_because is None}
    around = {
        name: [table[names[b.name]] for a in some for b in _around(a, axes.table)]
        for name, some in members.items()
    }
    return Axes({name: _inside(axis, around[name]) for name, axis in table.items()}, of)


def _matches(name: str, pattern: str) -> bool:
    return name == pattern or fnmatchcase(name, pattern)


def _tied(table: Mapping[str, Axis], patterns: Iterable[str]) -> dict[str, str]:
    """Name of every axis -> name of the axis that it becomes part of, its own where not tied."""
    names = {name: name for name in table}
    for pattern in patterns:
        found = [axis for name, axis in table.items() if _matches(name, pattern)]
        sizes = {axis.size for axis in found if axis.fixed_because is None}
        # An axis that two patterns match makes one of all that they match.
        met = {names[a.name] for a in found if a.fixed_because is None or a.size in sizes}
        names |= {name: pattern for name, now in names.items() if now in met}
    return names


def _check(pattern: str, members: list[Axis], table: Mapping[str, Axis]) -> None:
    """Raise WidthError if these axes cannot be one."""
    problem = next(
        (
            f"{a.name!r} has {a.size} features and {members[0].name!r} has {members[0].size}"
            for a in members
            if a.size != members[0].size
        ),
        None,
    ) or next(
        (
            f"{a.name!r} lies inside {b.name!r}"
            for a in members
            for b in _around(a, table)
            if b in members
        ),
        None,
    )
    if problem is not None:
        raise WidthError(
            f"The axes that match {pattern!r} cannot be tied, because {problem}; give a pattern "
            "for each kind."
        )


def _around(axis: Axis, table: Mapping[str, Axis]) -> list[Axis]:
    """The axes that an axis lies inside, the nearest first."""
    found: list[Axis] = []
    outer = axis.inner_of
    while outer is not None and table[outer] not in found:
        found.append(table[outer])
        outer = table[outer].inner_of
    return found


def _one(name: str, members: list[Axis]) -> Axis:
    """Several axes of equal size as one."""
    whole = next((a for a in members if a.fixed_because is not None), None)
    roles = {a.role for a in members}
    return Axis(
        name,
        members[0].size,
        tuple(dict.fromkeys(place for a in members for place in a.places)),
        None if whole is None else f"it is tied to {whole.name}: {whole.fixed_because}",
        roles.pop() if len(roles) == 1 else None,
        None,
        any(a.normalised for a in members),
        tied=tuple(a.name for a in members),
    )


def _with(axis: Axis, wanted: Constraints) -> Axis:
    """An axis as it is asked to be, by its own name or by the name of an axis tied into it."""
    if axis.fixed_because is not None:
        return axis
    names = (axis.name, *axis.tied)
    if any(_matches(name, pattern) for name in names for pattern in wanted.keep):
        return replace(axis, fixed_because="you asked to keep it whole")
    grid = Grid(_last(wanted.multiple_of, names), _last(wanted.at_least, names))
    if axis.size <= grid.up(1) and grid != Grid():
        return replace(axis, grid=grid, fixed_because=f"you asked for {_told(grid)}")
    return replace(axis, grid=grid)


def _last(asked: Mapping[str, int], names: Iterable[str]) -> int:
    """The number of the last pattern that matches one of the names; 1 where none does."""
    found = [n for pattern, n in asked.items() if any(_matches(name, pattern) for name in names)]
    return found[-1] if found else 1


def _told(grid: Grid) -> str:
    multiples = [f"multiples of {grid.multiple_of}"] if grid.multiple_of > 1 else []
    least = [f"at least {grid.at_least} features"] if grid.at_least > 1 else []
    return " and ".join([*multiples, *least])


def _inside(axis: Axis, around: Iterable[Axis]) -> Axis:
    """The axis inside the nearest of the axes around it that can still be cut, if there is one."""
    outer = next((a.name for a in around if a.fixed_because is None), None)
    return axis if outer == axis.inner_of else replace(axis, inner_of=outer)
