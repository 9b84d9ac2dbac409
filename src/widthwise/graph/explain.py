"""What can be cut in a network, what cannot and why: as data, and as a text that fits a screen.

    print(net.explain())            # str(net.inspect())
    net.inspect().smallest.bytes    # the data behind it
    net.inspect().to_json()

Axes of the same name in different layers are one line, however many there are:

    model.layers.*.mlp.gate_proj    x12    688
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, TypeVar

from torch import Tensor, nn

from widthwise.graph.axes import Axes, Axis, Place, module_of
from widthwise.graph.dims import Dims, fully_fixed
from widthwise.graph.relate import Relations
from widthwise.graph.rewrite import keeper
from widthwise.graph.slicing import count

T = TypeVar("T")

FEW: Final = 12  # axes that are listed one by one
_NAMED: Final = 3  # names in a row
_HEADING: Final = ("axis", "", "size", "share", "features of")
_NUMBER: Final = re.compile(r"\d+(?=\.)|(?<![^.])\d+(?=[/\[)]|$)")  # of a layer: layers.11, block3.

_WHERE: Final = re.compile(r"(.*) in ([^ ()]+)(\)?)")  # a reason: what, the module, a bracket

# What a user can do about an axis that stays, by words of the reason.
_OUTPUT: Final = "output of the model"
_REGROUP: Final = "reshape or split by whole groups of features there, and they can be cut"
_REPORT: Final = "a rule of widthwise is wrong there: please report the network"
_REMEDIES: Final[Mapping[str, str]] = {
    _OUTPUT: "where not all outputs matter, wrap the model in a module that returns those that do",
    "shuffling its features": _REPORT,
    "does not run": _REPORT,
    "do not fall on": _REGROUP,
    "cannot be matched": _REGROUP,
    "viewed as a grid": _REGROUP,
}


@dataclass(frozen=True)
class Size:
    """A network's parameters, and the bytes of its parameters and buffers."""

    params: int
    bytes: int


@dataclass(frozen=True)
class Cuttable:
    """Axes of one name in several layers, or one axis.

    pattern: matches their names. sizes: by name. inside: what matches the axes around them, or
    None. share: of the parameters, those in tensors that they touch. used_by: what matches the
    layers that hold their features. tied: how many axes each is made of by constraints, 0 if none.
    """

    pattern: str
    sizes: Mapping[str, int]
    role: str | None
    inside: str | None
    share: float
    used_by: tuple[str, ...]
    multiple_of: int
    at_least: int
    tied: int


@dataclass(frozen=True)
class Staying:
    """Dims that stay for the same reason.

    because: the reason, with operator and module. remedy: what can be done about it, if anything.
    sizes: by name of the axis, or of the layer that would make its features.
    """

    because: str
    remedy: str | None
    sizes: Mapping[str, int]


@dataclass(frozen=True)
class Inspection:
    """What can be cut in a network, and what cannot and why; `str()` of it is a text.

    Args:
        model: its class.
        full: its size at full width.
        half: its size at half of every axis.
        smallest: its size with the fewest features that each axis may have.
        reached: share of the parameters, from 0 to 1, that lie in tensors which can be cut.
        unknown: operators without a rule, and a module that runs each.
    """

    model: str
    full: Size
    half: Size
    smallest: Size
    reached: float
    cuttable: tuple[Cuttable, ...]
    staying: tuple[Staying, ...]
    unknown: Mapping[str, str]

    def to_json(self) -> str:
        """All of it as JSON."""
        return json.dumps(asdict(self), indent=2)

    def __str__(self) -> str:
        lines = _summary(self)
        if self.cuttable:
            lines += ["", *_table([_row(group) for group in self.cuttable])]
        if self.staying:
            lines += ["", "These stay as they are:"]
            for why in self.staying:
                lines += _reason(why)
        if self.unknown:
            lines += [
                "",
                "widthwise has no rule for these operators, and what they touch stays as it is",
            ]
            lines += ["(docs/rules.md says how to add one):"]
            for operator, path in self.unknown.items():
                lines.append(f"  {operator}" + (f" in {path}" if path else ""))
        return "\n".join(lines)


# ---------------------------------------------------------------- data


def inspect(model: nn.Module, relations: Relations, axes: Axes) -> Inspection:
    """What can be cut in a model, and what cannot and why."""
    tensors = _Tensors(model, relations)
    half = axes.complete(axes.fraction(0.5))
    smallest = {name: axis.near(0) for name, axis in axes.free.items()}
    fixed = [a for a in axes.table.values() if a.fixed_because is not None]
    return Inspection(
        model=type(model).__name__,
        full=tensors.size(axes, {}),
        half=tensors.size(axes, half),
        smallest=tensors.size(axes, smallest),
        reached=tensors.share(name for name, dims in relations.state.items() if _cut(dims)),
        cuttable=tuple(
            _cuttable(group, tensors) for group in _alike(list(axes.free.values()), _kind)
        ),
        staying=tuple(
            _staying(group) for group in _grouped(fixed, lambda a: _what(a.fixed_because or ""))
        ),
        unknown=dict(relations.unknown),
    )


class _Tensors:
    """A model's parameters and buffers, each once, with the terms of those that it uses."""

    def __init__(self, model: nn.Module, relations: Relations) -> None:
        self.parameters = dict(model.named_parameters(remove_duplicate=False))
        self.all: dict[str, Tensor] = self.parameters | dict(
            model.named_buffers(remove_duplicate=False)
        )
        self.once = {id(tensor): tensor for tensor in self.all.values()}
        self.dims: dict[int, Dims] = {
            id(self.all[name]): dims for name, dims in relations.state.items() if name in self.all
        }
        self.params = sum(p.numel() for p in model.parameters())

    def size(self, axes: Axes, widths: Mapping[str, int]) -> Size:
        """What the network holds at these widths; at full width without any."""
        kept = keeper(axes, widths) if widths else lambda f: f.size
        trained = {id(p) for p in self.parameters.values()}
        params = held = 0
        for key, tensor in self.once.items():
            dims = self.dims.get(key)
            number = tensor.numel() if dims is None else math.prod(count(t, kept) for t in dims)
            params += number if key in trained else 0
            held += number * tensor.element_size()
        return Size(params, held)

    def share(self, names: Iterable[str]) -> float:
        """The share of the parameters that lie in these tensors."""
        found = {id(p): p.numel() for p in (self.parameters.get(n) for n in names) if p is not None}
        return sum(found.values()) / self.params if self.params else 0.0


def _cut(dims: Dims) -> bool:
    return not all(map(fully_fixed, dims))


def _cuttable(axes: Sequence[Axis], tensors: _Tensors) -> Cuttable:
    first = axes[0]
    places = [place for axis in axes for place in axis.places]
    return Cuttable(
        pattern=_pattern([a.name for a in axes]),
        sizes={a.name: a.size for a in axes},
        role=first.role,
        inside=_pattern([a.inner_of for a in axes if a.inner_of]) if first.inner_of else None,
        share=tensors.share(place.tensor for place in places),
        used_by=_layers(places),
        multiple_of=first.grid.multiple_of,
        at_least=first.grid.at_least,
        tied=len(first.tied),
    )


def _layers(places: Iterable[Place]) -> tuple[str, ...]:
    names = list(dict.fromkeys(module_of(place.tensor) for place in places))
    return tuple(_pattern(some) for some in _alike(names, _key))


def _staying(axes: Sequence[Axis]) -> Staying:
    reasons = list(dict.fromkeys(a.fixed_because or "" for a in axes))
    because = reasons[0]
    if len(reasons) > 1:
        found = [one for one in map(_WHERE.fullmatch, reasons) if one]
        paths = [_pattern(some) for some in _grouped([one[2] for one in found], _key)]
        because = f"{found[0][1]} in {_listed(paths, 2)}{found[0][3] or ''}"
    remedy = next((r for words, r in _REMEDIES.items() if words in because), None)
    if _OUTPUT in because and len(axes) == 1:
        remedy = None  # as it should be
    return Staying(because, remedy, {a.name: a.size for a in axes})


def _what(reason: str) -> str:
    """A reason without the module."""
    found = _WHERE.fullmatch(reason)
    return found[1] if found else reason


def _kind(axis: Axis) -> Hashable:
    """What axes on one line have in common."""
    inside = _key(axis.inner_of) if axis.inner_of else None
    return _key(axis.name), axis.role, inside, axis.grid, len(axis.tied)


def _key(name: str) -> str:
    """A name without the numbers of its layers."""
    return _NUMBER.sub("*", name)


def _alike(items: Sequence[T], key: Any) -> list[list[T]]:
    """The items grouped where there are many of them."""
    return [[item] for item in items] if len(items) <= FEW else _grouped(items, key)


def _grouped(items: Iterable[T], key: Any) -> list[list[T]]:
    groups: dict[Hashable, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.values())


def _pattern(names: Sequence[str]) -> str:
    """What names of one key have in common: the numbers that differ are stars."""
    found = names[0]
    numbers = [list(_NUMBER.finditer(name)) for name in names]
    for i, place in reversed(list(enumerate(numbers[0]))):
        if len({one[i].group() for one in numbers}) > 1:
            found = f"{found[: place.start()]}*{found[place.end() :]}"
    return found


# ---------------------------------------------------------------- text


def _summary(found: Inspection) -> list[str]:
    number = sum(len(group.sizes) for group in found.cuttable)
    size = f"{_short(found.full.params)} parameters, {_bytes(found.full.bytes)}"
    lines = [f"{found.model}: {size}", f"{number} {'axis' if number == 1 else 'axes'} can be cut"]
    if not number:
        return lines
    return [
        *lines,
        f"  of the parameters they reach  {_percent(found.reached)}",
        f"  half of every axis leaves     {_versus(found.half, found.full)}",
        f"  the smallest network has      {_versus(found.smallest, found.full)}",
    ]


def _versus(part: Size, full: Size) -> str:
    share = part.params / full.params if full.params else 0
    return f"{_short(part.params)} parameters ({_percent(share)}), {_bytes(part.bytes)}"


def _row(group: Cuttable) -> tuple[str, str, str, str, str]:
    number = len(group.sizes)
    return (
        group.pattern,
        f"x{number}" if number > 1 else "",
        _sizes(group.sizes.values()),
        _percent(group.share),
        _listed([_last(name) for name in group.used_by], _NAMED) + _remarks(group),
    )


def _remarks(group: Cuttable) -> str:
    made = []
    if group.tied:
        made.append(f"{group.tied} tied")
    if group.inside:
        made.append(f"inside {_relative(group.inside, group.pattern)}")
    if group.multiple_of > 1:
        made.append(f"multiples of {group.multiple_of}")
    if group.at_least > 1:
        made.append(f"at least {group.at_least}")
    return f" ({', '.join(made)})" if made else ""


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows in columns, with a heading; a column that says nothing is left out."""
    columns = [c for c in zip(_HEADING, *rows, strict=True) if any(c)]
    padded = []
    for i, column in enumerate(columns):
        width = max(map(len, column))
        text = i in (0, len(columns) - 1)
        padded.append([cell.ljust(width) if text else cell.rjust(width) for cell in column])
    return ["  " + "  ".join(row).rstrip() for row in zip(*padded, strict=True)]


def _reason(why: Staying) -> list[str]:
    names = list(why.sizes)
    if len(names) > _NAMED:
        names = [_pattern(some) for some in _grouped(names, _key)]
    sizes = _sizes(why.sizes.values())
    number = len(why.sizes)
    what = f"  {number} of size {sizes}: {_listed(names, _NAMED)}" if number > 1 else ""
    what = what or f"  {names[0]}: {sizes}"
    line = f"{what}, because {why.because}"
    lines = [line] if len(line) <= 100 else [f"{what},", f"    because {why.because}"]
    return lines if why.remedy is None else [*lines, f"    ({why.remedy})"]


def _sizes(sizes: Iterable[int]) -> str:
    """Different sizes, or from where to where they reach."""
    found = sorted(set(sizes))
    if len(found) > 4:
        return f"{found[0]} to {found[-1]}"
    return ", ".join(map(str, found))


def _listed(names: Iterable[str], most: int) -> str:
    """The first names and how many more there are; all of them where one would be left over."""
    every = list(dict.fromkeys(names))
    if len(every) <= most + 1:
        return ", ".join(every)
    return f"{', '.join(every[:most])} and {len(every) - most} more"


def _last(name: str) -> str:
    """The last part of a name that says something: `up` of layers.*.up, but all of blocks.0."""
    parts = name.split(".")
    at = next((i for i in reversed(range(len(parts))) if not re.fullmatch(r"\d+|\*", parts[i])), 0)
    return ".".join(parts[at:])


def _relative(name: str, to: str) -> str:
    """A name without the modules that it has in common with another."""
    parts, others = name.split("."), to.split(".")
    same = 0
    while same < len(parts) - 1 and parts[: same + 1] == others[: same + 1]:
        same += 1
    return ".".join(parts[same:])


def _short(number: int) -> str:
    """A number in full, or in millions when it is large."""
    for unit, scale in (("G", 10**9), ("M", 10**6)):
        if number >= scale:
            return f"{number / scale:#.3g} {unit}".replace(". ", " ")
    return f"{number:,}"


def _bytes(number: int) -> str:
    for unit, scale in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if number >= scale:
            return f"{number / scale:#.3g} {unit}".replace(". ", " ")
    return f"{number} bytes"


def _percent(share: float) -> str:
    """A share in whole per cent, with more figures for a small one."""
    return f"{100 * share:.0f} %" if share >= 0.01 or not share else f"{100 * share:.1g} %"
