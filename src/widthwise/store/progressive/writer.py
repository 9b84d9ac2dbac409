"""Write levels of networks that lie inside each other as one progressive file.

    levels = [net.widths(f) for f in (0.125, 0.25, 0.5, 1.0)]
    save_progressive(net, "net.safetensors", levels)

The wider networks hold the narrower ones, so that the file takes hardly more than the widest alone.
Where the levels were changed besides, each has its own tensors: statistics of batch norms that were
re-estimated for each width cost little.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from widthwise.elastic.network import Elastic
from widthwise.elastic.recalibration import Recalibrate
from widthwise.errors import FileError, QuantizationError, WidthError
from widthwise.formats import Uniform
from widthwise.graph.slicing import part
from widthwise.quantization.quantize import quantizable
from widthwise.store.file import Stored, prepare
from widthwise.store.manifest import Measured, described_metric, to_body
from widthwise.store.progressive import coded_deltas, deltas, layout
from widthwise.store.progressive.dim_codec import described
from widthwise.store.progressive.manifest import MOST_LEVELS, Entry, by_level
from widthwise.store.tensorfile import DTYPES
from widthwise.variant import AnyWidths, Widths


def save_progressive(
    net: Elastic,
    path: str | os.PathLike[str],
    levels: Sequence[AnyWidths],
    *,
    metrics: Sequence[Measured | None] | None = None,
    modules: Sequence[nn.Module] | None = None,
    bits: int | Sequence[int | None] | None = None,
    recalibrate: Recalibrate = True,
    task: str = "",
) -> Path:
    """Write one progressive file with the network at all these widths; returns its path.

    The file appears whole or not at all.

    Args:
        levels: widths from narrow to wide, each at least as wide as the one before on every axis.
            The last is what the whole file holds; give net.full() there for the full network.
        metrics: what was measured of each level, noted in the file.
        modules: the network's cut at each level, whose tensors are stored in the place of the
            network's, as `save` takes one. Those that are not the same in all levels where they
            overlap are stored once for each.
        bits: 2 to 8, of a weight of the matrices and kernels that all levels share. Where they are
            several, the bits of what each level adds to the one below, None for what stays.
            Every row of what a level adds has a range of its own, of the least squared error.
        recalibrate: running statistics of each level that is cut here are re-estimated, as
            `Elastic.cut` does it and takes it.
        task: the task that made it, such as "digits" or "mine.py:task", noted in the file.

    Raises:
        WidthError: For levels that do not lie inside each other.
        ValueError: For other bits.
        QuantizationError: For weights that are not finite or a network without any to quantize.
        FileError: When it cannot be written or stored.

    Example:
        save_progressive(net, path, levels)
        save_progressive(net, path, levels, modules=[tuned(net.cut(w)) for w in levels])
        save_progressive(net, path, levels, bits=8)    # a quarter of the bytes
    """
    whole = _nested(net, levels)
    for name, given in (("metrics", metrics), ("modules", modules)):
        if given is not None and len(given) != len(whole):
            raise WidthError(
                f"There are {len(whole)} levels and {len(given)} {name}; give as many."
            )
    codes = list(bits) if isinstance(bits, Sequence) else [bits] * len(whole)
    if len(codes) != len(whole):
        raise WidthError(f"There are {len(whole)} levels and {len(codes)} bits; give as many.")
    cuts = modules if modules is not None else [None] * len(whole)
    stored = [prepare(net, w, m) for w, m in zip(whole, cuts, strict=True)]
    for widths, level in zip(whole, stored, strict=True):
        if modules is None:
            net.engine.recalibrated(level.module, widths, recalibrate)
    made = _Made(net, whole, stored, _checked(codes))
    body = made.body(metrics if metrics is not None else [None] * len(whole))
    noted = {"task": task} if task else {}
    return layout.write(path, body | noted, made.shells())


def _nested(net: Elastic, levels: Sequence[AnyWidths]) -> list[Widths]:
    """The levels, complete. Raises WidthError."""
    whole = [net.complete(widths) for widths in levels]
    if not 1 <= len(whole) <= MOST_LEVELS:
        raise WidthError(f"There are {len(whole)} levels; give 1 to {MOST_LEVELS}.")
    for number, (narrow, wide) in enumerate(pairwise(whole)):
        wrong = next((name for name in narrow if narrow[name] > wide[name]), None)
        if wrong is not None:
            raise WidthError(
                f"Level {number} keeps {narrow[wrong]} features of {wrong!r} and the next only "
                f"{wide[wrong]}; give levels from narrow to wide that lie inside each other."
            )
        if narrow == wide:
            raise WidthError(f"Levels {number} and {number + 1} are the same; leave one out.")
    return whole


def _checked(bits: Sequence[int | None]) -> tuple[int | None, ...]:
    """The bits of each level; empty where nothing is quantized. Raises ValueError."""
    wanted = [Uniform(each) for each in bits if each is not None]
    return tuple(bits) if wanted else ()


class _Made:
    """The tensors of all levels, each under one name, and which of them lie inside each other.

    stored: of each level. bits: of the codes of each; empty where there are none. tied: other
    name -> name. values: name -> its tensor in each level, None where it has none. entries: of the
    ones that shells hold.
    """

    def __init__(
        self,
        net: Elastic,
        whole: Sequence[Widths],
        stored: Sequence[Stored],
        bits: tuple[int | None, ...],
    ) -> None:
        self.net, self.whole, self.stored, self.bits = net, whole, stored, bits
        self.state = net.engine.state()
        self.axes = {
            name: (axis.size, *(widths[name] for widths in whole))
            for name, axis in net.free.items()
        }
        names = dict.fromkeys(n for s in stored for n in (*s.tensors, *s.manifest.tied))
        first = {id(self.state[n]): n for n in reversed(names)}
        self.tied = {n: to for n in names if (to := first[id(self.state[n])]) != n}
        self.values = {n: self._values(n) for n in names if n not in self.tied}
        self.scalars = {n: v for n, v in self.values.items() if _scalar(self.state[n])}
        self.weights = {*quantizable(net.model)} if bits else set()
        self.entries = {n: self._entry(n) for n in sorted(self.values) if n not in self.scalars}
        if bits and not any(e.bits for e in self.entries.values()):
            raise QuantizationError(
                "No matrix or kernel is the same in all levels, so that none can be quantized; "
                "leave bits= out."
            )

    def _values(self, name: str) -> list[Tensor | None]:
        """A tensor in each level, by whichever of its names a level has."""
        alike = self._alike(name)
        return [next((s.tensors[n] for n in alike if n in s.tensors), None) for s in self.stored]

    def _alike(self, name: str) -> list[str]:
        """All names of a tensor; the engine knows it by one of them."""
        return [name, *(n for n, to in self.tied.items() if to == name)]

    def _entry(self, name: str) -> Entry:
        full, axes = self.state[name], self.net.engine.table
        if full.dtype not in DTYPES:
            raise FileError(f"{name} of type {full.dtype} cannot be stored; convert it first.")
        numbers = {axis: place for place, axis in enumerate(self.axes, start=1)}
        known, alike = self.net.engine.relations.state, self._alike(name)
        terms = next((known[n] for n in alike if n in known), None)
        dims = full.shape if terms is None else [described(t, axes, numbers) for t in terms]
        scales = tuple(
            d for d in range(full.dim()) if any((n, d) in self.net.engine.scaled for n in alike)
        )
        kept = by_level(self.axes.values(), len(self.whole))
        entry = Entry(full.dtype, tuple(dims), kept, False, scales)
        nested = all(
            value is None or _same(value, _part(entry, full, level))
            for level, value in enumerate(self.values[name])
        )
        if not nested:
            return Entry(full.dtype, entry.dims, entry.axes, True, ())
        weights = not self.weights.isdisjoint(alike) and all(deltas.shape(entry.layouts(0)))
        return replace(entry, bits=self.bits) if weights else entry

    def shells(self) -> list[bytes]:
        """The bytes of each shell."""
        parts: list[list[bytes]] = [[] for _ in self.whole]
        for name, entry in self.entries.items():
            for shell, data in zip(parts, self._pieces(name, entry), strict=True):
                shell.append(data)
        return [b"".join(shell) for shell in parts]

    def _pieces(self, name: str, entry: Entry) -> list[bytes]:
        """What each shell has of a tensor."""
        full = self.state[name]
        if entry.whole:
            values = enumerate(self.values[name])
            return [_bytes(_part(entry, full, k) if v is None else v) for k, v in values]
        layouts = [entry.layouts(level) for level in range(len(self.whole))]
        found = deltas.shells(full, layouts)
        codes = entry.bits or (None,) * len(found)
        return [
            _bytes(shell) if bits is None else self._codes(name, level, bits)
            for level, (shell, bits) in enumerate(zip(found, codes, strict=True))
        ]

    def _codes(self, name: str, level: int, bits: int) -> bytes:
        """What a shell has of quantized weights. Raises QuantizationError."""
        entry = self.entries[name]
        kept = part(self.state[name].detach(), tuple(enumerate(entry.layouts(level))))
        try:
            return coded_deltas.encode(kept, *entry.step(level), bits)
        except QuantizationError as error:
            raise QuantizationError(f"{name!r} cannot be quantized: {error}") from error

    def body(self, metrics: Sequence[Measured | None]) -> dict[str, Any]:
        """The manifest's JSON, without checksums; what is as in most networks is left out."""
        shared = to_body(self.stored[-1].manifest)
        graphs = [s.manifest for s in self.stored if s.manifest.kind == "graph"]
        kinds = [s.manifest.kind for s in self.stored]
        optional = {
            "kinds": kinds if graphs else [],
            "inputs": graphs[0].inputs if graphs else None,
            "constraints": shared.get("constraints"),
            "tied": self.tied,
            "whole": {n: _json(e) for n, e in self.entries.items() if e.whole},
            "scaled": {n: list(e.scaled) for n, e in self.entries.items() if e.scaled},
            "scalars": dict(_numbers(self.scalars)),
            "absent": dict(self._absent()),
            "bits": list(self.bits),
            "coded": [n for n, e in self.entries.items() if e.bits],
        }
        body: dict[str, Any] = {
            "class": shared["class"],
            "axes": self.axes,
            "tensors": {n: _json(e) for n, e in self.entries.items() if not e.whole},
            "patches": self._patches(),
            "metrics": [described_metric(m) for m in metrics],
        }
        if "outputs" in shared:
            body["outputs"] = shared["outputs"]
        return body | {name: value for name, value in optional.items() if value}

    def _patches(self) -> dict[str, dict[str, list[Any]]]:
        """The sizes to set, by module and attribute: one for each level, null where none is."""
        found: dict[str, dict[str, list[Any]]] = {}
        for level, stored in enumerate(self.stored):
            for patch in stored.manifest.patches:
                values = found.setdefault(patch.module, {}).setdefault(
                    patch.attribute, [None] * len(self.whole)
                )
                values[level] = patch.value
        return found

    def _absent(self) -> Iterator[tuple[str, list[int]]]:
        """The names that a level lacks: of what a graph does not read, or what only a graph has."""
        for name in (*self.values, *self.tied):
            without = [
                level
                for level, s in enumerate(self.stored)
                if name not in s.tensors and name not in s.manifest.tied
            ]
            if without:
                yield name, without


def _scalar(tensor: Tensor) -> bool:
    return tensor.dim() == 0 and tensor.dtype == torch.int64


def _numbers(scalars: Mapping[str, Sequence[Tensor | None]]) -> Iterator[tuple[str, Any]]:
    """One number for all levels, or a list of them."""
    for name, values in scalars.items():
        numbers = [0 if value is None else int(value) for value in values]
        yield name, numbers if len({*numbers}) > 1 else numbers[0]


def _part(entry: Entry, full: Tensor, level: int) -> Tensor:
    """What the cut at a level has of a tensor."""
    layouts = entry.layouts(level)
    with torch.no_grad():
        kept = part(full.detach(), tuple(enumerate(layouts))).clone()
        return deltas.scaled(kept, entry.scaled, layouts)


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same bit by bit."""
    return a.shape == b.shape and _bytes(a) == _bytes(b)


def _bytes(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    data: bytes = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
    return data


def _json(entry: Entry) -> list[Any]:
    return [DTYPES[entry.dtype], *entry.dims]
