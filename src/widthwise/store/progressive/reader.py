"""Progressive files: levels of networks in one file, whose first bytes are the smaller ones.

    with Progressive.open("https://example.org/net.safetensors") as file:
        for level in file.levels:                     # narrow to wide
            print(level.bytes, level.widths, level.metric)
        small = file.load(make_model, max_bytes="300kB")
        wider = file.grow(make_model)               # fetches only what the next level adds

    load_progressive(url, make_model, max_bytes="300kB")     # the same in one line

`save_progressive` writes them; docs/format.md has them byte by byte.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import torch
from torch import Tensor, nn

from widthwise.common.units import format_size, parse_size
from widthwise.errors import BudgetError, FileError, WidthError
from widthwise.store.install import expected, installed
from widthwise.store.manifest import Manifest, Measured, believed
from widthwise.store.progressive import coded_deltas, deltas, layout
from widthwise.store.progressive.manifest import Entry
from widthwise.store.progressive.ranges import ByteSource, opened
from widthwise.variant import Widths

Path = str | os.PathLike[str]


@dataclass(frozen=True)
class Level:
    """One network of levels.

    widths: what each axis keeps. bytes: of the file from its start, which hold this network.
    metric: what was measured of it, if that is known. sha256: of the bytes that it adds to the
    level before. bits: of the weights that are quantized in these; None where none is.
    """

    widths: Widths
    bytes: int
    metric: Measured | None
    sha256: str
    bits: int | None = None


class Progressive:
    """A progressive file, on disk or on a web server, of which only what is needed is read.

    levels: its networks, from narrow to wide. What was read is kept, and never read again.
    """

    def __init__(self, source: ByteSource, most: int | None = None) -> None:
        self._source = source
        start = layout.read(source, most)
        self._table = start.table
        self._shells: list[bytes] = []
        self._begin = start.ends[0]
        self._ahead = start.ahead  # of the first shell, and perhaps further ones
        self.levels = tuple(
            Level(widths, end, metric, digest, bits)
            for widths, end, metric, digest, bits in zip(
                start.table.widths,
                start.ends[1:],
                start.table.metrics,
                start.table.sha256,
                start.table.bits,
                strict=True,
            )
        )

    @staticmethod
    def open(source: Path, *, max_bytes: int | str | None = None) -> Progressive:
        """Read what a file says of itself, and no network yet.

        Args:
            source: a path, or an address of http or https.
            max_bytes: the most bytes of the file that may be read now.

        Raises:
            FileError: When it cannot be read, is damaged, or is no progressive file.
            BudgetError: For what is no size.
        """
        most = None if max_bytes is None else parse_size(max_bytes)
        place = opened(source)
        try:
            return Progressive(place, most)
        except BaseException:
            place.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connection; what comes later opens another."""
        self._source.close()

    @property
    def held(self) -> int | None:
        """The widest level that was read, None before any."""
        return len(self._shells) - 1 if self._shells else None

    def load(
        self,
        build: Callable[[], nn.Module],
        *,
        level: int | None = None,
        max_bytes: int | str | None = None,
    ) -> nn.Module:
        """The network of a level, in eval mode, on the CPU; reads what is needed and not held yet.

        Args:
            build: () -> the user's model at full size; its weights are not used.
            level: its place in `levels`.
            max_bytes: the widest level whose `bytes` are at most these, of the complete ones.
                Without either it is the last one, which must be there; of a file that was cut off
                between two levels it is the last that is there.

        Raises:
            FileError: When the file is damaged, ends before that level or does not fit what `build`
                makes.
            WidthError: For a level that it has not.
            BudgetError: Where none fits.
        """
        chosen, module = self._chosen(level, max_bytes), build()
        manifest, shapes = believed(lambda: self._shapes(chosen), self._source.name)
        expected(module, manifest, shapes, self._source.name)
        _, tensors = self.read(chosen)
        return installed(module, manifest, tensors, self._source.name)

    def grow(self, build: Callable[[], nn.Module], *, to: int | None = None) -> nn.Module:
        """The network of a wider level, the next one unless told, reading only what it adds.

        A new module; the one that was loaded before stays as it is.

        Raises:
            FileError: As `load` does.
            WidthError: As `load` does.
            BudgetError: As `load` does.
        """
        following = 0 if self.held is None else self.held + 1
        if to is None and following == len(self.levels):
            raise WidthError(f"{self._source.name} has no wider level; keep the network you have.")
        return self.load(build, level=following if to is None else to)

    def read(self, level: int) -> tuple[Manifest, dict[str, Tensor]]:
        """How to build the network of a level, and its tensors by name, shared ones by each.

        Raises:
            FileError: When the file ends before, or cannot be read.
        """
        self._fetch(level)
        return believed(lambda: self._assembled(level), self._source.name)

    def _chosen(self, level: int | None, max_bytes: int | str | None) -> int:
        name, there = self._source.name, self._complete()
        if level is not None and max_bytes is not None:
            raise WidthError("A level and a budget are given; give one of them.")
        if level is not None:
            if type(level) is not int or not 0 <= level < len(self.levels):
                raise WidthError(
                    f"{name} has no level {level!r}; give 0 to {len(self.levels) - 1}."
                )
            if level >= there:
                raise self._truncated(there)
            return level
        if max_bytes is None:
            if self._source.size not in (None, self._end(there)):
                raise self._truncated(there)
            return there - 1
        most = parse_size(max_bytes)
        fitting = sum(r.bytes <= most for r in self.levels[:there])
        if not fitting and self.levels[0].bytes <= most:
            raise self._truncated(there)
        if not fitting:
            least = self.levels[0].bytes
            raise BudgetError(
                f"No network of {name} fits in {most} bytes; the smallest takes {least} "
                f"({format_size(least)})."
            )
        return fitting - 1

    def _complete(self) -> int:
        """How many levels are all there."""
        size = self._source.size
        return sum(size is None or r.bytes <= size for r in self.levels)

    def _end(self, levels: int) -> int:
        """Where so many levels end; there are none that end at the manifest."""
        return self.levels[levels - 1].bytes if levels else -1

    def _truncated(self, there: int) -> FileError:
        name, size, whole = self._source.name, self._source.size or 0, self.levels[-1].bytes
        if size > whole:
            more = size - whole
            return FileError(f"{name} has {more} bytes too many; copy or download it again.")
        if not there:
            return FileError(f"{name} ends before its first network; copy or download it again.")
        return FileError(
            f"{name} ends at {size} of {whole} bytes, with {there} of {len(self.levels)} levels; "
            f"load what is there with level={there - 1} or max_bytes={size}, or copy it again."
        )

    def _fetch(self, level: int) -> None:
        """Read the shells up to a level that are not held, at once, and check each."""
        held, name = len(self._shells), self._source.name
        ends = [self._begin, *(r.bytes for r in self.levels)]
        if level < held:
            return
        first, last = ends[held] + len(self._ahead), ends[level + 1]
        read = self._ahead + (self._source.read(first, last) if first < last else b"")
        data = memoryview(read)
        for number in range(held, level + 1):
            shell = bytes(data[ends[number] - ends[held] : ends[number + 1] - ends[held]])
            if hashlib.sha256(shell).hexdigest() != self.levels[number].sha256:
                raise FileError(f"{name} is damaged in level {number}; copy or download it again.")
            self._shells.append(shell)
        self._ahead = read[last - ends[held] :]

    def _shapes(self, level: int) -> tuple[Manifest, dict[str, tuple[int, ...]]]:
        """How to build the network of a level, and the shapes of its tensors."""
        table = self._table
        shapes = {n: deltas.shape(e.layouts(level)) for n, e in table.entries.items()}
        shapes |= dict.fromkeys(table.scalars(level), ())
        shapes |= {name: shapes[to] for name, to in table.tied.items()}
        absent = table.absent(level)
        return table.manifest(level), {n: s for n, s in shapes.items() if n not in absent}

    def _assembled(self, level: int) -> tuple[Manifest, dict[str, Tensor]]:
        table = self._table
        manifest, absent = table.manifest(level), table.absent(level)
        stored: dict[str, list[Tensor]] = {name: [] for name in table.entries}
        for number in range(level + 1):
            at = 0
            for name, entry in table.entries.items():
                data = self._shells[number][at : at + entry.bytes(number)]
                at += len(data)
                stored[name].append(_numbers(data, entry, number))
        tensors = {n: _tensor(e, stored.pop(n), level) for n, e in table.entries.items()}
        tensors |= {n: torch.tensor(v) for n, v in table.scalars(level).items()}
        tensors |= {name: tensors[to] for name, to in table.tied.items()}
        return manifest, {name: t for name, t in tensors.items() if name not in absent}


def load_progressive(
    source: Path,
    build: Callable[[], nn.Module],
    *,
    level: int | None = None,
    max_bytes: int | str | None = None,
) -> nn.Module:
    """One network of a progressive file, reading only what it needs; as `Progressive.load`.

    source: a path, or an address of http or https. max_bytes bounds all that is read.
    """
    with Progressive.open(source, max_bytes=max_bytes) as file:
        return file.load(build, level=level, max_bytes=max_bytes)


def is_progressive(source: Path) -> bool:
    """Whether a file is a progressive one; what is on a web server is taken for one."""
    if isinstance(source, str) and "://" in source:
        return True
    try:
        return layout.progressive(opened(source).read(0, 256))
    except FileError:
        return False  # whoever reads it says why


def _numbers(data: bytes, entry: Entry, level: int) -> Tensor:
    """What a shell holds of a tensor, of one dim."""
    bits = entry.bits[level] if entry.bits else None
    if bits is not None:
        return coded_deltas.decode(data, *entry.step(level), bits, entry.dtype)
    dtype = entry.dtype
    # torch refuses to make a tensor of no bytes.
    return torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype)


def _tensor(entry: Entry, stored: list[Tensor], level: int) -> Tensor:
    """What a level has of a tensor."""
    layouts = [entry.layouts(k) for k in range(level + 1)]
    if entry.whole:
        return stored[level].reshape(deltas.shape(layouts[level]))
    value = deltas.assemble(stored, layouts)
    return deltas.scaled(value, entry.scaled, layouts[level])
