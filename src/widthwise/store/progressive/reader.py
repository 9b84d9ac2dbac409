"""Progressive files: a ladder of networks in one file, whose first bytes are the smaller ones.

    with Progressive.open("https://example.org/net.safetensors") as file:
        for rung in file.rungs:                     # narrow to wide
            print(rung.bytes, rung.widths, rung.metric)
        small = file.load(make_model, max_bytes="300kB")
        wider = file.grow(make_model)               # fetches only what the next rung adds

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
from widthwise.store.progressive.ranges import Source, opened
from widthwise.variant import Widths

Path = str | os.PathLike[str]


@dataclass(frozen=True)
class Rung:
    """One network of a ladder.

    widths: what each axis keeps. bytes: of the file from its start, which hold this network.
    metric: what was measured of it, if that is known. sha256: of the bytes that it adds to the rung
    before. bits: of the weights that are quantized in these; None where none is.
    """

    widths: Widths
    bytes: int
    metric: Measured | None
    sha256: str
    bits: int | None = None


class Progressive:
    """A progressive file, on disk or on a web server, of which only what is needed is read.

    rungs: its networks, from narrow to wide. What was read is kept, and never read again.
    """

    def __init__(self, source: Source, most: int | None = None) -> None:
        self._source = source
        start = layout.read(source, most)
        self._ladder = start.ladder
        self._shells: list[bytes] = []
        self._begin = start.ends[0]
        self._ahead = start.ahead  # of the first shell, and perhaps further ones
        self.rungs = tuple(
            Rung(widths, end, metric, digest, bits)
            for widths, end, metric, digest, bits in zip(
                start.ladder.widths,
                start.ends[1:],
                start.ladder.metrics,
                start.ladder.sha256,
                start.ladder.bits,
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
        """The widest rung that was read, None before any."""
        return len(self._shells) - 1 if self._shells else None

    def load(
        self,
        build: Callable[[], nn.Module],
        *,
        rung: int | None = None,
        max_bytes: int | str | None = None,
    ) -> nn.Module:
        """The network of a rung, in eval mode, on the CPU; reads what it needs and is not held yet.

        Args:
            build: () -> the user's model at full size; its weights are not used.
            rung: its place in `rungs`.
            max_bytes: the widest rung whose `bytes` are at most these, of those that are all there.
                Without either it is the last one, which must be there; of a file that was cut off
                between two rungs it is the last that is there.

        Raises:
            FileError: When the file is damaged, ends before that rung or does not fit what `build`
                makes.
            WidthError: For a rung that it has not.
            BudgetError: Where none fits.
        """
        chosen, module = self._chosen(rung, max_bytes), build()
        manifest, shapes = believed(lambda: self._shapes(chosen), self._source.name)
        expected(module, manifest, shapes, self._source.name)
        _, tensors = self.read(chosen)
        return installed(module, manifest, tensors, self._source.name)

    def grow(self, build: Callable[[], nn.Module], *, to: int | None = None) -> nn.Module:
        """The network of a wider rung, the next one unless told, reading only what it adds.

        A new module; the one that was loaded before stays as it is.

        Raises:
            FileError: As `load` does.
            WidthError: As `load` does.
            BudgetError: As `load` does.
        """
        following = 0 if self.held is None else self.held + 1
        if to is None and following == len(self.rungs):
            raise WidthError(f"{self._source.name} has no wider rung; keep the network you have.")
        return self.load(build, rung=following if to is None else to)

    def read(self, rung: int) -> tuple[Manifest, dict[str, Tensor]]:
        """How to build the network of a rung, and its tensors by name, shared ones by each.

        Raises:
            FileError: When the file ends before, or cannot be read.
        """
        self._fetch(rung)
        return believed(lambda: self._assembled(rung), self._source.name)

    def _chosen(self, rung: int | None, max_bytes: int | str | None) -> int:
        name, there = self._source.name, self._complete()
        if rung is not None and max_bytes is not None:
            raise WidthError("A rung and a budget are given; give one of them.")
        if rung is not None:
            if type(rung) is not int or not 0 <= rung < len(self.rungs):
                raise WidthError(f"{name} has no rung {rung!r}; give 0 to {len(self.rungs) - 1}.")
            if rung >= there:
                raise self._truncated(there)
            return rung
        if max_bytes is None:
            if self._source.size not in (None, self._end(there)):
                raise self._truncated(there)
            return there - 1
        most = parse_size(max_bytes)
        fitting = sum(r.bytes <= most for r in self.rungs[:there])
        if not fitting and self.rungs[0].bytes <= most:
            raise self._truncated(there)
        if not fitting:
            least = self.rungs[0].bytes
            raise BudgetError(
                f"No network of {name} fits in {most} bytes; the smallest takes {least} "
                f"({format_size(least)})."
            )
        return fitting - 1

    def _complete(self) -> int:
        """How many rungs are all there."""
        size = self._source.size
        return sum(size is None or r.bytes <= size for r in self.rungs)

    def _end(self, rungs: int) -> int:
        """Where so many rungs end; there are none that end at the manifest."""
        return self.rungs[rungs - 1].bytes if rungs else -1

    def _truncated(self, there: int) -> FileError:
        name, size, whole = self._source.name, self._source.size or 0, self.rungs[-1].bytes
        if size > whole:
            more = size - whole
            return FileError(f"{name} has {more} bytes too many; copy or download it again.")
        if not there:
            return FileError(f"{name} ends before its first network; copy or download it again.")
        return FileError(
            f"{name} ends at {size} of {whole} bytes, with {there} of {len(self.rungs)} rungs; "
            f"load what is there with rung={there - 1} or max_bytes={size}, or copy it again."
        )

    def _fetch(self, rung: int) -> None:
        """Read the shells up to a rung that are not held, at once, and check each."""
        held, name = len(self._shells), self._source.name
        ends = [self._begin, *(r.bytes for r in self.rungs)]
        if rung < held:
            return
        first, last = ends[held] + len(self._ahead), ends[rung + 1]
        read = self._ahead + (self._source.read(first, last) if first < last else b"")
        data = memoryview(read)
        for number in range(held, rung + 1):
            shell = bytes(data[ends[number] - ends[held] : ends[number + 1] - ends[held]])
            if hashlib.sha256(shell).hexdigest() != self.rungs[number].sha256:
                raise FileError(f"{name} is damaged in rung {number}; copy or download it again.")
            self._shells.append(shell)
        self._ahead = read[last - ends[held] :]

    def _shapes(self, rung: int) -> tuple[Manifest, dict[str, tuple[int, ...]]]:
        """How to build the network of a rung, and the shapes of its tensors."""
        ladder = self._ladder
        shapes = {n: deltas.shape(e.layouts(rung)) for n, e in ladder.entries.items()}
        shapes |= dict.fromkeys(ladder.scalars(rung), ())
        shapes |= {name: shapes[to] for name, to in ladder.tied.items()}
        absent = ladder.absent(rung)
        return ladder.manifest(rung), {n: s for n, s in shapes.items() if n not in absent}

    def _assembled(self, rung: int) -> tuple[Manifest, dict[str, Tensor]]:
        ladder = self._ladder
        manifest, absent = ladder.manifest(rung), ladder.absent(rung)
        stored: dict[str, list[Tensor]] = {name: [] for name in ladder.entries}
        for number in range(rung + 1):
            at = 0
            for name, entry in ladder.entries.items():
                data = self._shells[number][at : at + entry.bytes(number)]
                at += len(data)
                stored[name].append(_numbers(data, entry, number))
        tensors = {n: _tensor(e, stored.pop(n), rung) for n, e in ladder.entries.items()}
        tensors |= {n: torch.tensor(v) for n, v in ladder.scalars(rung).items()}
        tensors |= {name: tensors[to] for name, to in ladder.tied.items()}
        return manifest, {name: t for name, t in tensors.items() if name not in absent}


def load_progressive(
    source: Path,
    build: Callable[[], nn.Module],
    *,
    rung: int | None = None,
    max_bytes: int | str | None = None,
) -> nn.Module:
    """One network of a progressive file, reading only what it needs; as `Progressive.load`.

    source: a path, or an address of http or https. max_bytes bounds all that is read.
    """
    with Progressive.open(source, max_bytes=max_bytes) as file:
        return file.load(build, rung=rung, max_bytes=max_bytes)


def is_progressive(source: Path) -> bool:
    """Whether a file is a progressive one; what is on a web server is taken for one."""
    if isinstance(source, str) and "://" in source:
        return True
    try:
        return layout.progressive(opened(source).read(0, 256))
    except FileError:
        return False  # whoever reads it says why


def _numbers(data: bytes, entry: Entry, rung: int) -> Tensor:
    """What a shell holds of a tensor, of one dim."""
    bits = entry.bits[rung] if entry.bits else None
    if bits is not None:
        return coded_deltas.decode(data, *entry.step(rung), bits, entry.dtype)
    dtype = entry.dtype
    # torch refuses to make a tensor of no bytes.
    return torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype)


def _tensor(entry: Entry, stored: list[Tensor], rung: int) -> Tensor:
    """What a rung has of a tensor."""
    layouts = [entry.layouts(k) for k in range(rung + 1)]
    if entry.whole:
        return stored[rung].reshape(deltas.shape(layouts[rung]))
    value = deltas.assemble(stored, layouts)
    return deltas.scaled(value, entry.scaled, layouts[rung])
