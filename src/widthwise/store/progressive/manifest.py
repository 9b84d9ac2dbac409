"""What a progressive file says of itself: its levels, and which entries of which tensors each adds.

table = LevelTable.read(body, "1.2.3", "0.1.0")     # of the manifest's JSON (docs/format.md)
table.widths[2], table.metrics[2]              # of the third level
table.entries["fc1.weight"].bytes(2)            # of a tensor in its shell
table.manifest(2)                               # how to build its network
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import torch

from widthwise.common.checks import need, table_of
from widthwise.quantization.quantize import DTYPES as WEIGHTS
from widthwise.store.manifest import Manifest, Measured, from_body, measured_as
from widthwise.store.progressive import coded_deltas, deltas
from widthwise.store.progressive.dim_codec import layout_as
from widthwise.store.tensorfile import DTYPES
from widthwise.variant import Widths

MOST_LEVELS: Final = 255
MOST_TENSORS: Final = 20_000
MOST_PARTS: Final = 60_000  # tensors times levels, which take half a second to look at

_TYPES: Final = {name: dtype for dtype, name in DTYPES.items()}
_SCALED: Final = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64)
_DIGEST: Final = re.compile("[0-9a-f]{64}")
_NEEDED: Final = {"class", "axes", "tensors", "patches", "metrics", "sha256"}
_SHARED: Final = ("inputs", "constraints", "outputs")  # as in the manifest of a plain file
_CODED: Final = ("bits", "coded")  # both or none
_OPTIONAL: Final = {
    "kinds",
    "tied",
    "whole",
    "scaled",
    "scalars",
    "absent",
    "task",
    *_CODED,
    *_SHARED,
}


@dataclass(frozen=True)
class Entry:
    """A tensor that is stored.

    dims: as terms.py has them. axes: for each level the size of each axis and its width. whole:
    whether each shell holds all that its level keeps, because it is another tensor in every level,
    rather than what is new. scaled: the dims for which what is kept is multiplied by full size /
    kept size. bits: for each level, of a weight in its shell, None as it is; empty for a tensor
    that has no codes.
    """

    dtype: torch.dtype
    dims: tuple[Any, ...]
    axes: Sequence[Sequence[tuple[int, int]]]
    whole: bool
    scaled: tuple[int, ...]
    bits: tuple[int | None, ...] = ()

    def layouts(self, level: int) -> deltas.Layouts:
        """What a level keeps of it."""
        return tuple(layout_as(dim, self.axes[level]) for dim in self.dims)

    def items(self, level: int) -> int:
        """How many numbers of it are in the shell of a level."""
        below = 0 if self.whole or not level else self._kept[level - 1]
        return self._kept[level] - below

    def bytes(self, level: int) -> int:
        """How many bytes of it are in the shell of a level."""
        bits = self.bits[level] if self.bits else None
        if bits is None:
            return self.items(level) * self.dtype.itemsize
        return coded_deltas.size(*self.step(level), bits, self.dtype)

    def step(self, level: int) -> tuple[deltas.Layouts, deltas.Layouts | None]:
        """What a level keeps of it, and the level below; None below the first."""
        return self.layouts(level), self.layouts(level - 1) if level else None

    @cached_property
    def _kept(self) -> list[int]:
        """How many numbers each level keeps."""
        return [math.prod(deltas.shape(self.layouts(level))) for level in range(len(self.axes))]


@dataclass(frozen=True)
class LevelTable:
    """The manifest of a progressive file.

    widths, metrics, sha256: of the levels, from narrow to wide; sha256 is of a shell's bytes.
    entries: by name, ordered by it (Unicode code points). body: the JSON. torch, widthwise: the
    versions that wrote it.
    """

    widths: tuple[Widths, ...]
    metrics: tuple[Measured | None, ...]
    sha256: tuple[str, ...]
    entries: Mapping[str, Entry]
    body: Mapping[str, Any]
    torch: str
    widthwise: str

    @staticmethod
    def read(body: Any, torch: str, widthwise: str) -> LevelTable:
        """From JSON. Raises ValueError, TypeError, LookupError, OverflowError, RecursionError or
        WidthError for what is none."""
        need(isinstance(body, dict), "a table is missing")
        odd = {*body} - _OPTIONAL ^ _NEEDED
        need(not odd, f"unexpected or missing entry {min(odd, default='')!r}")
        digests = body["sha256"]
        need(isinstance(digests, list) and 1 <= len(digests) <= MOST_LEVELS, "it has no levels")
        need(all(isinstance(d, str) and _DIGEST.fullmatch(d) for d in digests), "a checksum")
        count = len(digests)
        metrics = _each(body["metrics"], count)
        axes = {name: _axis(numbers, count) for name, numbers in table_of(body["axes"]).items()}
        widths = [Widths({n: numbers[k + 1] for n, numbers in axes.items()}) for k in range(count)]
        tensors = sum(len(table_of(body.get(name, {}))) for name in ("tensors", "whole"))
        need(isinstance(body.get("task", ""), str), "the task is not text")
        most = min(MOST_TENSORS, MOST_PARTS // count)
        need(tensors <= most, "it has too many tensors for so many levels")
        return LevelTable(
            widths=tuple(widths),
            metrics=tuple(map(measured_as, metrics)),
            sha256=tuple(digests),
            entries=dict(sorted(_entries(body, axes))),
            body=body,
            torch=torch,
            widthwise=widthwise,
        )

    def __len__(self) -> int:
        return len(self.sha256)

    @property
    def tied(self) -> dict[str, str]:
        """Further names of tensors -> their names."""
        return table_of(self.body.get("tied", {}))

    @property
    def coded(self) -> bool:
        """Whether weights are quantized."""
        return "bits" in self.body

    @property
    def bits(self) -> tuple[int | None, ...]:
        """The bits of quantized weights in each shell, None where all are as they were."""
        return _bits(self.body, len(self)) or (None,) * len(self)

    def sizes(self) -> list[int]:
        """Bytes of each shell, which holds its part of each of `entries`, in their order."""
        return [sum(e.bytes(k) for e in self.entries.values()) for k in range(len(self))]

    def absent(self, level: int) -> set[str]:
        """The tensors that the network of a level has not."""
        table = table_of(self.body.get("absent", {}))
        return {name for name, levels in table.items() if level in list(levels)}

    def scalars(self, level: int) -> dict[str, int]:
        """The int64 tensors without dims of a level. Raises ValueError for other numbers."""
        found: dict[str, int] = {}
        for name, value in table_of(self.body.get("scalars", {})).items():
            number = _each(value, len(self))[level] if isinstance(value, list) else value
            need(type(number) is int and -(2**63) <= number < 2**63, "a number of 64 bits")
            found[name] = number
        return found

    def manifest(self, level: int) -> Manifest:
        """How to build the network of a level, of tensors by each of their names.

        Raises as `read`.
        """
        body = self.body
        full = {n: list(deltas.full_shape(e.layouts(0))) for n, e in self.entries.items()}
        kinds = _each(body["kinds"], len(self)) if "kinds" in body else ["class"] * len(self)
        data = {
            "kind": kinds[level],
            "class": body["class"],
            "widths": dict(self.widths[level]),
            "sizes": {name: numbers[0] for name, numbers in body["axes"].items()},
            "patches": {m: dict(_set_at(table_of(t), level, len(self))) for m, t in _patches(body)},
            "full": full | {name: full[to] for name, to in self.tied.items() if to in full},
            "tied": {},
            "inputs": None,
            **{name: body[name] for name in _SHARED if name in body},
        }
        found = from_body(data, 1, body["metrics"][level], self.torch, self.widthwise)
        return replace(found, task=body.get("task", ""))


def by_level(axes: Iterable[Sequence[int]], levels: int) -> list[list[tuple[int, int]]]:
    """Size and width of every axis, for each level. axes: the size of each and its widths."""
    every = list(axes)
    return [[(numbers[0], numbers[k + 1]) for numbers in every] for k in range(levels)]


def _patches(body: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return list(table_of(body["patches"]).items())


def _set_at(table: Mapping[str, Any], level: int, count: int) -> Iterator[tuple[str, Any]]:
    """The sizes of a module's attributes at a level; null for those that stay as they are."""
    for name, values in table.items():
        value = _each(values, count)[level]
        if value is not None:
            yield name, value


def _entries(
    body: Mapping[str, Any], axes: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple[str, Entry]]:
    nested, whole = table_of(body["tensors"]), table_of(body.get("whole", {}))
    scaled = table_of(body.get("scaled", {}))
    names = {*nested, *whole, *table_of(body.get("scalars", {}))}
    said = len(nested) + len(whole) + len(body.get("scalars", {}))
    need(len(names) == said and {*scaled} <= {*nested}, "a tensor is there twice, or not at all")
    kept = by_level(axes.values(), len(body["sha256"]))
    bits, coded = _bits(body, len(kept)), _coded(body, nested)
    for name, described in (nested | whole).items():
        need(isinstance(described, list) and described[0] in _TYPES, "a tensor has no type")
        need(len(described) <= 65, "a tensor has too many dims")
        dims = tuple(scaled.get(name, ()))
        need(all(type(d) is int and 0 <= d < len(described) - 1 for d in dims), "a dim")
        dtype, *terms = described
        codes = bits if name in coded else ()
        entry = Entry(_TYPES[dtype], tuple(terms), kept, name in whole, dims, codes)
        need(not dims or _TYPES[dtype] in _SCALED, "its type cannot be multiplied")
        shape = deltas.shape(entry.layouts(0))
        need(all(shape[d] for d in dims), "a dim of no entries cannot be multiplied")
        # torch counts in 64 bits, and multiplies the other dims where one is zero.
        full = math.prod(max(1, n) for n in deltas.full_shape(entry.layouts(0)))
        need(full < 2**63, "a shape is not one of a tensor")
        weights = entry.dtype in WEIGHTS and len(terms) > 1 and all(shape)
        need(name not in coded or weights, "codes of no weights")
        yield name, entry


def _bits(body: Mapping[str, Any], count: int) -> tuple[int | None, ...]:
    """The bits of each level; empty where there are none."""
    if "bits" not in body:
        return ()
    found = tuple(_each(body["bits"], count))
    right = all(b is None or (type(b) is int and 2 <= b <= 8) for b in found)
    need(right and any(found), "codes of other bits")
    return found


def _coded(body: Mapping[str, Any], nested: Mapping[str, Any]) -> set[str]:
    """The tensors that have codes."""
    need(("bits" in body) == ("coded" in body), "bits without codes")
    if "coded" not in body:
        return set()
    names = body["coded"]
    right = isinstance(names, list) and names and all(isinstance(n, str) for n in names)
    need(right and len({*names}) == len(names) and {*names} <= {*nested}, "codes of no tensor")
    return {*names}


def _axis(numbers: Any, count: int) -> tuple[int, ...]:
    """The size of an axis, and its widths in order."""
    right = isinstance(numbers, list) and all(type(n) is int and n >= 1 for n in numbers)
    need(right and len(numbers) == count + 1, "an axis has other widths than levels")
    full, *widths = numbers
    need(sorted(widths) == widths and widths[-1] <= full, "levels do not lie inside each other")
    return tuple(numbers)


def _each(values: Any, count: int) -> list[Any]:
    need(isinstance(values, list) and len(values) == count, "it says more or less than its levels")
    return list(values)
