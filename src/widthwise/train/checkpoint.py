"""A training run on disk: one safetensors file, whole or not there, and never a pickle.

Tensors are named `model/...`, `average/...` and `optimizer/<parameter>/<state>`; everything else is
JSON in the file's metadata, with a checksum over all of it.

    save(folder, Checkpoint(step=100, ...))
    load(folder)                             # a Checkpoint, or None when there is none
    check(found, wanted, folder)             # RunError: begun with another recipe
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from widthwise.errors import FileError, RunError
from widthwise.store.atomic import write_whole
from widthwise.train.history import Epoch
from widthwise.version import VERSION

NAME = "checkpoint.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """All that a run needs to go on.

    step: steps taken. run: what the run was begun with, as JSON; it must be the same to go on.
    epochs: those that are done. losses: sum and number of the losses of the epoch at hand.
    draws: (seed, step) of everything that draws widths, by module name. scaler: of mixed precision.
    tensors: by name, on the CPU.
    """

    step: int
    run: dict[str, Any]
    epochs: tuple[Epoch, ...]
    losses: tuple[float, int]
    draws: dict[str, tuple[int, int]]
    seconds: float = 0.0
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
    text = json.dumps(header, sort_keys=True)
    metadata = {"widthwise": text, "checksum": str(_checksum(text, tensors))}
    write_whole(folder / NAME, [safetensors.torch.save(tensors, metadata)])


_FIELDS = ("step", "run", "losses", "draws", "seconds", "scaler")


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
        if str(_checksum(text, tensors)) != metadata["checksum"]:
            raise ValueError("its checksum is wrong")
        header = json.loads(text)
        return Checkpoint(
            step=header["step"],
            run=header["run"],
            epochs=tuple(Epoch(**e) for e in header["epochs"]),
            losses=(header["losses"][0], header["losses"][1]),
            draws={name: (d[0], d[1]) for name, d in header["draws"].items()},
            seconds=header["seconds"],
            scaler=header["scaler"],
            tensors=tensors,
        )
    except (safetensors.SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise FileError(
            f"{path} is damaged or was not written by widthwise ({_short(error)}); delete it to "
            "start the run anew."
        ) from error


def _short(error: Exception) -> str:
    return f"it has no {error}" if isinstance(error, KeyError) else str(error).splitlines()[0]


def _checksum(text: str, tensors: Mapping[str, Tensor]) -> int:
    value = zlib.crc32(text.encode())
    for name in sorted(tensors):
        flat = tensors[name].contiguous().reshape(-1).view(torch.uint8)
        value = zlib.crc32(flat.numpy().data, value)
    return value


def check(found: Checkpoint, run: Mapping[str, Any], folder: Path) -> None:
    """Raise RunError when a checkpoint belongs to a run that was begun with something else."""
    wanted = json.loads(json.dumps(run))  # as it reads back: tuples are lists
    changed = list(_differences("", found.run, wanted))
    if changed:
        raise RunError(
            f"The checkpoint in {folder} is of another run ({'; '.join(changed[:5])}); give the "
            f"same settings to go on, another folder, or delete {folder / NAME} to start anew."
        )


def _differences(path: str, old: Any, new: Any) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _differences(f"{path}.{key}".lstrip("."), old.get(key), new.get(key))
    elif isinstance(old, dict) or isinstance(new, dict):
        yield f"{path} is another"
    elif old != new:
        yield f"{path} was {old} and is {new}"
