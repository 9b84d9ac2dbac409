"""The manifest of a stored network: what it is and how to build it again, as JSON.

    kind "class"    the user's class with the patches (sizes) set and the tensors put in
    kind "graph"    the captured graph of the user's class, cut to the widths

The notes at its end (what was measured, which versions wrote it) have a fixed length, so that the
size of a file does not depend on how good the network is.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from widthwise.errors import FileError, WidthError
from widthwise.graph.constraints import Constraints
from widthwise.graph.own_class import Patch
from widthwise.store.coding import Coded, coded_as, described
from widthwise.store.packing import FORMS, PARTS, Packed
from widthwise.store.tensorfile import DTYPES
from widthwise.variant import Widths
from widthwise.version import VERSION

FORMAT = "widthwise"
FORMAT_VERSION = 3  # of files with quantized tensors; 2 with packed ones, 1 with neither
TORCH = re.sub(r"\+.*", "", torch.__version__)  # without the build, e.g. +cpu
NOTES = 192  # bytes of the notes in the file
_MOST_DIMS = 64  # as in torch


@dataclass(frozen=True)
class Measured:
    """What was measured of a network. name: of the metric. split: the data it was measured on."""

    name: str
    value: float
    split: str


@dataclass(frozen=True)
class Manifest:
    """What a file holds.

    kind: "class" or "graph". class_name: of the user's model. widths: of the axes, where known.
    sizes: of all free axes at full width. patches: sizes to set on the full-size class.
    full: full shapes of the tensors that were cut, None where unknown.
    tied: name -> name of the tensor it shares.
    inputs: for a graph, the example inputs' form (see inputs.py). measured: its metric, if known.
    torch, widthwise: the versions that wrote it. constraints, outputs: those of the network, from
    which its axes and their names follow; in the file only where there are any.
    packed: the tensors that are stored without their zeros, and how; coded: those that are
    quantized. In the file only where there are any.
    """

    kind: str
    class_name: str
    widths: Widths = field(default_factory=Widths)
    sizes: Mapping[str, int] = field(default_factory=dict)
    patches: tuple[Patch, ...] = ()
    full: Mapping[str, tuple[int, ...]] | None = None
    tied: Mapping[str, str] = field(default_factory=dict)
    inputs: Any = None
    measured: Measured | None = None
    torch: str = TORCH
    widthwise: str = VERSION
    constraints: Constraints = field(default_factory=Constraints)
    outputs: tuple[str, ...] | None = None
    packed: Mapping[str, Packed] = field(default_factory=dict)
    coded: Mapping[str, Coded] = field(default_factory=dict)

    @property
    def version(self) -> int:
        """The oldest version of the format that has what this file holds."""
        if self.coded:
            return 3
        return 2 if self.packed else 1


def to_text(manifest: Manifest) -> str:
    """The manifest as JSON. Raises FileError for a metric that is not a number."""
    patches: dict[str, dict[str, Any]] = {}
    for patch in manifest.patches:
        patches.setdefault(patch.module, {})[patch.attribute] = patch.value
    body = {
        "format": FORMAT,
        "version": manifest.version,
        "kind": manifest.kind,
        "class": manifest.class_name,
        "widths": dict(manifest.widths),
        "sizes": dict(manifest.sizes),
        "patches": patches,
        "full": None if manifest.full is None else {n: list(s) for n, s in manifest.full.items()},
        "tied": dict(manifest.tied),
        "inputs": manifest.inputs,
    }
    if manifest.constraints != Constraints():
        body["constraints"] = manifest.constraints.to_dict()
    if manifest.outputs is not None:
        body["outputs"] = list(manifest.outputs)
    if manifest.version >= 2:
        body["packed"] = {name: _described(p) for name, p in manifest.packed.items()}
    if manifest.version >= 3:
        body["coded"] = {name: {**_tensor(c), **described(c)} for name, c in manifest.coded.items()}
    measured = manifest.measured
    notes = {
        "metric": None if measured is None else [measured.name, measured.value, measured.split],
        "torch": manifest.torch,
        "widthwise": manifest.widthwise,
    }
    try:
        text = json.dumps(notes, separators=(",", ":"), allow_nan=False)
    except (ValueError, TypeError) as error:
        raise FileError("The metric to store is not a number; leave it out.") from error
    # Quotes and backslashes take two bytes once this is a string in the file's header.
    width = len(text) + text.count('"') + text.count("\\")
    head = json.dumps(body, separators=(",", ":"), allow_nan=False)
    return f'{head[:-1]},"notes":{text}{" " * (NOTES - width)}}}'


def from_text(text: str, name: str) -> Manifest:
    """Read it back; `name` stands in messages. Raises FileError for anything else."""
    try:
        return _read(json.loads(text, parse_constant=_refuse))
    except _NewerError as error:
        raise FileError(f"{name} was written by a newer widthwise; update widthwise.") from error
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError, WidthError) as error:
        raise FileError(
            f"{name} has a manifest that widthwise did not write ({str(error)[:200].rstrip('.')}); "
            "save it again."
        ) from error


class _NewerError(Exception):
    """A later version of the format."""


def _refuse(text: str) -> Any:
    raise ValueError(f"it holds {text}")


def _read(data: Any) -> Manifest:
    _need(isinstance(data, dict) and data.get("format") == FORMAT, "another format")
    _need(type(data["version"]) is int and data["version"] > 0, "no version")
    if data["version"] > FORMAT_VERSION:
        raise _NewerError
    names = {"format", "version", "kind", "class", "widths", "sizes", "patches", "full", "tied"}
    names |= {"inputs", "notes"} | set(("packed", "coded")[: data["version"] - 1])
    odd = data.keys() - {"constraints", "outputs"} ^ names
    _need(not odd, f"unexpected or missing entry {min(odd, default='')!r}")
    _need(data["kind"] in ("class", "graph"), f"kind {data['kind']!r}")
    notes = data["notes"]
    _need(isinstance(notes, dict), "no notes")
    _need(notes.keys() == {"metric", "torch", "widthwise"}, "other notes")
    patches = _table(data["patches"], lambda v: _table(v, _patch_value))
    return Manifest(
        kind=data["kind"],
        class_name=_word(data["class"]),
        widths=Widths(_table(data["widths"], _count)),
        sizes=_table(data["sizes"], _count),
        patches=tuple(Patch(m, a, v) for m, some in patches.items() for a, v in some.items()),
        full=None if data["full"] is None else _table(data["full"], _shape),
        tied=_table(data["tied"], _word),
        inputs=data["inputs"],
        measured=_measured(notes["metric"]),
        torch=_word(notes["torch"]),
        widthwise=_word(notes["widthwise"]),
        constraints=Constraints(**_table(data.get("constraints", {}), lambda value: value)),
        outputs=_words(data["outputs"]) if "outputs" in data else None,
        packed=_table(data.get("packed", {}), _packed),
        coded=_table(data.get("coded", {}), _coded),
    )


def _tensor(stored: Packed | Coded) -> dict[str, Any]:
    return {"form": stored.form, "shape": list(stored.shape), "dtype": DTYPES[stored.dtype]}


def _described(packed: Packed) -> dict[str, Any]:
    found = _tensor(packed)
    return {**found, "zstd": dict(packed.zstd)} if packed.zstd else found


def _packed(data: Any) -> Packed:
    data = _table(data, lambda value: value)
    _need(data.keys() - {"zstd"} == {"form", "shape", "dtype"}, "a packed tensor is not described")
    shape, dtype = _tensor_of(data)
    zstd = _table(data.get("zstd", {}), _count)
    _need(zstd.keys() <= {*PARTS[data["form"]]}, "a packed tensor has other parts")
    return Packed(data["form"], shape, dtype, zstd)


def _coded(data: Any) -> Coded:
    data = _table(data, lambda value: value)
    shape, dtype = _tensor_of(data)
    rest = {name: v for name, v in data.items() if name not in ("form", "shape", "dtype")}
    return coded_as(rest, data["form"], shape, dtype)


def _tensor_of(data: Mapping[str, Any]) -> tuple[tuple[int, ...], torch.dtype]:
    """The shape and type of a tensor that is stored in parts, and its form checked."""
    types = {name: dtype for dtype, name in DTYPES.items()}
    _need(data["form"] in FORMS, "a tensor in parts has no form")
    _need(_word(data["dtype"]) in types, "a tensor in parts has no type")
    shape = _shape(data["shape"])
    _need(len(shape) <= _MOST_DIMS, "a tensor in parts has too many dims")
    return shape, types[data["dtype"]]


def _need(condition: bool, problem: str) -> None:
    if not condition:
        raise ValueError(problem)


def _table(data: Any, value: Callable[[Any], Any]) -> dict[str, Any]:
    _need(isinstance(data, dict), "a table is missing")
    return {name: value(v) for name, v in data.items()}


def _word(value: Any) -> str:
    _need(isinstance(value, str), "a name is not text")
    return str(value)


def _words(value: Any) -> tuple[str, ...]:
    _need(isinstance(value, list), "a list of names is missing")
    return tuple(map(_word, value))


def _count(value: Any) -> int:
    _need(type(value) is int and value >= 0, "a size is not a whole number")
    return int(value)


def _shape(value: Any) -> tuple[int, ...]:
    _need(isinstance(value, list), "a shape is not a list")
    return tuple(_count(v) for v in value)


def _patch_value(value: Any) -> int | tuple[int, ...]:
    if isinstance(value, list):
        _need(all(type(v) is int for v in value), "a size is not a whole number")
        return tuple(value)
    _need(type(value) is int, "a size is not a whole number")
    return int(value)


def _measured(value: Any) -> Measured | None:
    if value is None:
        return None
    name, number, split = value
    _need(type(number) in (int, float) and math.isfinite(number), "a metric is not a number")
    return Measured(_word(name), float(number), _word(split))
