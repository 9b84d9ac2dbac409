"""Scores on disk: (size,) for each axis, in a safetensors file with a checksum.

write(path, {"fc1": scores})
read(path)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from widthwise.errors import FileError
from widthwise.store import tensorfile

_KIND = "widthwise-scores"


def write(path: Path, scores: Mapping[str, Tensor]) -> Path:
    """Write them whole or not at all. Raises FileError."""
    return tensorfile.write(path, dict(scores), _KIND)


def read(path: Path) -> dict[str, Tensor]:
    """What `write` wrote. Raises FileError for anything else."""
    tensors, kind = tensorfile.read(path)
    if kind != _KIND:
        raise FileError(f"{path} holds no scores; order the network again.")
    return tensors
