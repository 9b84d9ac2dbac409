"""What the bytes of a file are spent on."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Final

from widthwise.store import tensorfile
from widthwise.store.packed import container

_CODED: Final = {"codes": "codes", "scales": "scales", "zero_points": "scales", "values": "values"}
_PLACES: Final = "places of weights"  # which are not zero


def parts_of(path: str | os.PathLike[str]) -> dict[str, int]:
    """Bytes of a file by what they hold; together, the whole file.

    weights: numbers as they are. codes, scales, values: of quantized tensors. places of weights:
    masks and indices, where zeros are left out. header: names, shapes and the manifest.
    Raises FileError.
    """
    tensors, text = tensorfile.read(path)
    found: Counter[str] = Counter()
    if container.packed(text):
        manifest, parts = container.read(tensors, text, path)
        for name, some in parts.items():
            for part, tensor in some.items():
                found[_what(part, coded=name in manifest.coded)] += tensor.nbytes
    else:
        found["weights"] = sum(t.nbytes for t in tensors.values())
    found["header"] = Path(path).stat().st_size - found.total()
    return dict(found)


def _what(part: str, *, coded: bool) -> str:
    if coded:
        return _CODED.get(part, _PLACES)
    return "weights" if part in ("values", "dense") else _PLACES
