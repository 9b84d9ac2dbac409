"""A training run on disk: one safetensors file, whole or not there, and never a pickle.

Tensors are named `model/...`, `average/...` and `optimizer/<parameter>/<state>`; everything else is
JSON in the file's metadata, with a checksum for each tensor and one for itself.

    save(folder, Checkpoint(step=100, ...))
    load(folder)                             # a Checkpoint, or None when there is none
    check(found, wanted, folder)             # RunError: begun with another recipe
"""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from widthwise.common.atomic import write_whole
from widthwise.common.checks import need
from widthwise.common.jsonfile import parsed
from widthwise.common.messages import first_line
from widthwise.errors import FileError, RunError
from widthwise.train.history import Epoch
from widthwise.train.identity import differences
from widthwise.version import VERSION

NAME = "checkpoint.safetensors"
_NOTES = (
    "longer",
    "items",
    "warm_up",
)  # entries of a run that it is not known by, and ones of old runs


@dataclass(frozen=True)
class Checkpoint:
    """All that a run needs to go on.

    step: steps taken. run: what the run was begun with, as JSON; it must be the same to go on.
    epochs: those that are done. losses: sum and number of the losses of the epoch at hand.
    draws: (seed, step) of everything that draws widths, by module name. seconds, processor: wall
    and processor time of the epoch at hand. scaler: of mixed precision.
    tensors: by name, on the CPU.
    """

    step: int
    run: dict[str, Any]
    epochs: tuple[Epoch, ...]
    losses: tuple[float, int]
    draws: dict[str, tuple[int, int]]
    seconds: float = 0.0
    processor: float = 0.0
    scaler: dict[str, Any] | None = None
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Write the checkpoint in the place of the last one.

    Raises FileError when that cannot be done, for example on a full disk; the last one is kept.
    """
    tensors = dict(checkpoint.tensors)
    header = {f: getattr(checkpoint, f) for f in _FIELDS}
    header["epochs"] = [asdict(e) for e in checkpoint.epochs]
    header["versions"] = {"widthwise": VERSION, "torch": torch.__version__}
    header["tensors"] = sums(tensors)
    text = json.dumps(header, sort_keys=True)
    metadata = {"widthwise": text, "sha256": hashlib.sha256(text.encode()).hexdigest()}
    write_whole(folder / NAME, [safetensors.torch.save(tensors, metadata)])


_FIELDS = ("step", "run", "losses", "draws", "seconds", "processor", "scaler")


def load(folder: Path) -> Checkpoint | None:
    """The checkpoint in a folder, None when there is none. Raises FileError when it is damaged."""
    path = folder / NAME
    if not path.exists():
        return None
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        text = metadata["widthwise"]
        header = parsed(text)
        _check(text, header, tensors, metadata)
        return _read(header, tensors)
    except (safetensors.SafetensorError, OSError, LookupError, TypeError, ValueError) as error:
        raise FileError(
            f"{path} is damaged or was not written by widthwise ({_short(error)}); delete it to "
            "start the run again."
        ) from error


def sums(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """A checksum of each tensor's type, shape and numbers: half of a SHA-256, in hexadecimal."""
    found: dict[str, str] = {}
    for name, tensor in tensors.items():
        digest = hashlib.sha256(json.dumps([str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(_bytes(tensor))
        found[name] = digest.hexdigest()[:32]
    return found


def _check(
    text: str, header: Any, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Raise ValueError, or LookupError, for a checkpoint that was changed since it was written."""
    if "sha256" not in metadata:  # a file of before there was a checksum for each tensor
        value = zlib.crc32(text.encode())
        for name in sorted(tensors):
            value = zlib.crc32(_bytes(tensors[name]), value)
        need(metadata["checksum"] == str(value), "its checksum is wrong")
        return
    right = metadata["sha256"] == hashlib.sha256(text.encode()).hexdigest()
    need(right and isinstance(header, dict), "its checksum is wrong")
    said, found = header["tensors"], sums(tensors)
    if said != found:
        need(isinstance(said, dict) and said.keys() == found.keys(), "it has other tensors")
        raise ValueError(f"its tensor {next(n for n in found if said[n] != found[n])} was changed")


def _bytes(tensor: Tensor) -> memoryview:
    data: memoryview = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
    return data


def _read(header: Any, tensors: Mapping[str, Tensor]) -> Checkpoint:
    """Raises ValueError, TypeError or LookupError for JSON that `save` did not write."""
    tables = (header, header["run"], header["draws"], {} if (s := header["scaler"]) is None else s)
    need(all(isinstance(table, dict) for table in tables), "a table is missing")
    found = Checkpoint(
        step=header["step"],
        run=header["run"],
        # Older files have wall time alone.
        epochs=tuple(Epoch(**{"processor": e["seconds"], **e}) for e in header["epochs"]),
        losses=(header["losses"][0], header["losses"][1]),
        draws={name: (d[0], d[1]) for name, d in header["draws"].items()},
        seconds=header["seconds"],
        processor=header.get("processor", header["seconds"]),
        scaler=header["scaler"],
        tensors=tensors,
    )
    counts = [found.step, found.losses[1], *(step for _, step in found.draws.values())]
    need(all(type(n) is int and n >= 0 for n in counts), "a count is not a whole number")
    need(all(type(seed) is int for seed, _ in found.draws.values()), "a seed is not one")
    numbers = [found.seconds, found.processor, found.losses[0]]
    for epoch in found.epochs:
        numbers += [epoch.loss, epoch.seconds, epoch.processor]
        numbers += [] if epoch.metric is None else [epoch.metric]
    right = all(type(n) in (int, float) and math.isfinite(n) for n in numbers)
    need(right, "a measured value is not a number")
    return found


def _short(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"it has no {error}"
    return first_line(error)


def longer(found: Checkpoint, run: Mapping[str, Any], steps: int) -> bool:
    """Whether a checkpoint is of a finished run that is now to be trained for more epochs.

    run: what is asked for, as `check` takes it. steps: of its training.
    """
    before, now = (each.get("recipe", {}).get("epochs", 0) for each in (found.run, run))
    return bool(now > before == len(found.epochs)) and found.step * now == steps * before


def check(found: Checkpoint, run: Mapping[str, Any], folder: Path) -> None:
    """Raise RunError when a checkpoint belongs to a run that was begun with something else."""
    known = {name: value for name, value in run.items() if name not in _NOTES}
    wanted = json.loads(json.dumps(known))  # as it reads back: tuples are lists
    old = {name: value for name, value in found.run.items() if name not in _NOTES}
    if "data" not in old:  # of a version that noted less
        wanted = {n: v for n, v in wanted.items() if n not in ("data", "functions")}
        wanted["model"] = {n: v for n, v in wanted["model"].items() if n in old.get("model", {})}
    changed = differences(old, wanted)
    if changed:
        raise RunError(
            f"The checkpoint in {folder} is of another run ({'; '.join(changed[:5])}); give the "
            f"same settings to go on, another folder, or delete {folder / NAME} to start over."
        )
