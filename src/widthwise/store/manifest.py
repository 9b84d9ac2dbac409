"""The manifest of a stored network: what it is and how to build it again, as JSON.

    kind "class"    the user's class with the patches (sizes) set and the tensors put in
    kind "graph"    the captured graph of the user's class, cut to the widths

The notes (what was measured, which versions wrote it) have a fixed length, so that the size of a
file does not depend on how good the network is. Where all tensors are stored one by one, notes and
the rest are one text (`to_text`); of packed files the rest is in compact.py.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch

from widthwise.common.checks import need
from widthwise.common.jsonfile import parsed
from widthwise.errors import FileError, WidthError
from widthwise.graph.constraints import Constraints
from widthwise.graph.rebuild.module import Patch
from widthwise.store.describing import coded_as, description, packed_as
from widthwise.store.packed.coding import Coded
from widthwise.store.packed.forms import Packed
from widthwise.variant import Widths
from widthwise.version import VERSION

T = TypeVar("T")

FORMAT = "widthwise"
FORMAT_VERSION = 3  # of files with quantized tensors; 2 with packed ones, 1 with neither
TORCH = re.sub(r"\+.*", "", torch.__version__)  # without the build, e.g. +cpu
NOTES = 192  # bytes of the notes in the file
SHORT_NOTES = 96  # the same in packed files


# What reading JSON that widthwise did not write can raise.
_MALFORMED = (ValueError, TypeError, LookupError, ArithmeticError, RecursionError, WidthError)


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
    task: what made it, a built-in task or "file.py:function" without the folder; "" where unknown,
    and where the notes have no room for it. torch, widthwise: the versions that wrote it.
    constraints, outputs: the network's, from which its axes and their names follow; in the
    file only where there are any.
    packed, coded, scalars: all tensors of a packed file. Those that are stored by their numbers,
    with zeros or without, and how; those that are quantized; and the values of int64 tensors
    without dims, such as the batches that a batch norm has seen. Empty in files of version 1.
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
    task: str = ""
    torch: str = TORCH
    widthwise: str = VERSION
    constraints: Constraints = field(default_factory=Constraints)
    outputs: tuple[str, ...] | None = None
    packed: Mapping[str, Packed] = field(default_factory=dict)
    coded: Mapping[str, Coded] = field(default_factory=dict)
    scalars: Mapping[str, int] = field(default_factory=dict)

    @property
    def version(self) -> int:
        """The oldest version of the format that has what this file holds."""
        if self.coded:
            return 3
        return 2 if self.packed or self.scalars else 1


def to_text(manifest: Manifest) -> str:
    """The manifest of a file of version 1, as JSON. Raises FileError for an odd metric."""
    body = {"format": FORMAT, "version": manifest.version, **to_body(manifest)}
    notes = {
        "metric": described_metric(manifest.measured),
        "torch": manifest.torch,
        "widthwise": manifest.widthwise,
    }
    more = {**notes, "task": manifest.task} if manifest.task else notes
    notes = more if _fits(more, NOTES) else notes
    head = json.dumps(body, separators=(",", ":"), allow_nan=False)
    return f'{head[:-1]},"notes":{_padded(notes, NOTES)}}}'


def to_notes(manifest: Manifest) -> str:
    """The notes of a packed file, as JSON: version, metric, torch, widthwise, task.

    Raises FileError.
    """
    metric = described_metric(manifest.measured)
    notes = [manifest.version, metric, manifest.torch, manifest.widthwise]
    more = [*notes, manifest.task] if manifest.task else notes
    return _padded(more if _fits(more, SHORT_NOTES) else notes, SHORT_NOTES)


def to_body(manifest: Manifest) -> dict[str, Any]:
    """All but the notes, for JSON."""
    patches: dict[str, dict[str, Any]] = {}
    for patch in manifest.patches:
        patches.setdefault(patch.module, {})[patch.attribute] = patch.value
    body: dict[str, Any] = {
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
        body["packed"] = {name: description(p) for name, p in manifest.packed.items()}
        body["coded"] = {name: description(c) for name, c in manifest.coded.items()}
        body["scalars"] = dict(manifest.scalars)
    return body


def from_text(text: str, name: str) -> Manifest:
    """Read back `to_text`; `name` stands in messages. Raises FileError for anything else."""
    return believed(lambda: _from_text(text), name)


def from_notes(text: str, body: Callable[[], Any], name: str) -> Manifest:
    """Read back `to_notes` and `to_body`. Raises FileError for anything else.

    body: () -> what `to_body` gave, called once the version is known to be one. name: stands in
        messages.
    """
    return believed(lambda: _from_notes(text, body), name)


def believed(read: Callable[[], T], name: str) -> T:
    """What `read` makes of foreign data; `name` stands in messages. Raises FileError."""
    try:
        return read()
    except NewerError as error:
        raise FileError(f"{name} was written by a newer widthwise; update widthwise.") from error
    except _MALFORMED as error:
        raise FileError(
            f"{name} has a manifest that widthwise did not write ({str(error)[:200].rstrip('.')}); "
            "save it again."
        ) from error


def _from_text(text: str) -> Manifest:
    data = parsed(text)
    need(isinstance(data, dict) and data.pop("format", None) == FORMAT, "another format")
    version = data.pop("version")
    _check_version(version, 1)
    need(version == 1, "the version of a packed file")
    notes = data.pop("notes")
    need(isinstance(notes, dict), "no notes")
    need(notes.keys() - {"task"} == {"metric", "torch", "widthwise"}, "other notes")
    found = from_body(data, 1, notes["metric"], notes["torch"], notes["widthwise"])
    return replace(found, task=_word(notes.get("task", "")))


def _from_notes(text: str, body: Callable[[], Any]) -> Manifest:
    notes = parsed(text)
    need(isinstance(notes, list) and len(notes) in (4, 5), "other notes")
    _check_version(notes[0], 2)
    return replace(from_body(body(), *notes[:4]), task=_word("".join(notes[4:])))


def described_metric(measured: Measured | None) -> list[Any] | None:
    """A metric for JSON."""
    return None if measured is None else [measured.name, measured.value, measured.split]


def _padded(notes: Any, size: int) -> str:
    """Notes as JSON that takes so many bytes in the file's header."""
    try:
        text = json.dumps(notes, separators=(",", ":"), allow_nan=False)
    except (ValueError, TypeError) as error:
        raise FileError("The metric to store is not a number; leave it out.") from error
    return text + " " * (size - _width(text))


def _width(text: str) -> int:
    """Bytes in the file's header, where quotes and backslashes take two and the text is UTF-8."""
    return len(text.encode()) + text.count('"') + text.count("\\")


def _fits(notes: Any, size: int) -> bool:
    return _width(json.dumps(notes, separators=(",", ":"))) <= size


class NewerError(Exception):
    """A later version of the format."""


def _check_version(version: Any, least: int) -> None:
    need(type(version) is int and version >= least, "no version")
    if version > FORMAT_VERSION:
        raise NewerError


def from_body(data: Any, version: int, metric: Any, torch: Any, widthwise: Any) -> Manifest:
    """Read back `to_body`, and the notes. Raises ValueError and its like for anything else."""
    names = {"kind", "class", "widths", "sizes", "patches", "full", "tied", "inputs"}
    names |= {"packed", "coded", "scalars"} if version >= 2 else set()
    need(isinstance(data, dict), "a table is missing")
    odd = data.keys() - {"constraints", "outputs"} ^ names
    need(not odd, f"unexpected or missing entry {min(odd, default='')!r}")
    need(data["kind"] in ("class", "graph"), f"kind {data['kind']!r}")
    patches = _table(data["patches"], lambda v: _table(v, _patch_value))
    found = Manifest(
        kind=data["kind"],
        class_name=_word(data["class"]),
        widths=Widths(_table(data["widths"], _count)),
        sizes=_table(data["sizes"], _count),
        patches=tuple(Patch(m, a, v) for m, some in patches.items() for a, v in some.items()),
        full=None if data["full"] is None else _table(data["full"], _shape),
        tied=_table(data["tied"], _word),
        inputs=data["inputs"],
        measured=measured_as(metric),
        torch=_word(torch),
        widthwise=_word(widthwise),
        constraints=Constraints(**_table(data.get("constraints", {}), lambda value: value)),
        outputs=_words(data["outputs"]) if "outputs" in data else None,
        packed=_table(data.get("packed", {}), packed_as),
        coded=_table(data.get("coded", {}), coded_as),
        scalars=_table(data.get("scalars", {}), _scalar),
    )
    need(found.version == version, "another version")
    return found


def _table(data: Any, value: Callable[[Any], Any]) -> dict[str, Any]:
    need(isinstance(data, dict), "a table is missing")
    return {name: value(v) for name, v in data.items()}


def _word(value: Any) -> str:
    need(isinstance(value, str), "a name is not text")
    return str(value)


def _words(value: Any) -> tuple[str, ...]:
    need(isinstance(value, list), "a list of names is missing")
    return tuple(map(_word, value))


def _count(value: Any) -> int:
    need(type(value) is int and value >= 0, "a size is not a whole number")
    return int(value)


def _scalar(value: Any) -> int:
    need(type(value) is int and -(2**63) <= value < 2**63, "a number is not one of 64 bits")
    return int(value)


def _shape(value: Any) -> tuple[int, ...]:
    need(isinstance(value, list), "a shape is not a list")
    return tuple(_count(v) for v in value)


def _patch_value(value: Any) -> int | tuple[int, ...]:
    if isinstance(value, list):
        need(all(type(v) is int for v in value), "a size is not a whole number")
        return tuple(value)
    need(type(value) is int, "a size is not a whole number")
    return int(value)


def measured_as(value: Any) -> Measured | None:
    """What `described_metric` said. Raises ValueError, TypeError for anything else."""
    if value is None:
        return None
    name, number, split = value
    need(type(number) in (int, float) and math.isfinite(number), "a metric is not a number")
    return Measured(_word(name), float(number), _word(split))
