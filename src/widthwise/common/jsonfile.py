"""JSON that is read strictly, and files of it that say when they were changed.

    write_whole(path, [sealed({"seed": 0})])     # {"seed": 0, "sha256": "..."}
    unsealed(contents(path))                     # {"seed": 0}

The last entry of a sealed file is the SHA-256 of its bytes with these 64 digits as zeros, so that
no byte can change unnoticed. A file without that entry is read too: it is an older one, or was
written by hand. Whoever edits a sealed file takes the entry away.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

MOST_BYTES: Final = 16 * 1024**2  # of a file
MOST_VALUES: Final = 500_000  # in one text: a value may take three hundred bytes of memory

_KEY: Final = "sha256"
_ZEROS: Final = "0" * 64
_END: Final = b'"\n}\n'


def contents(path: str | os.PathLike[str], most: int | None = MOST_BYTES) -> bytes:
    """The bytes of an ordinary file. most: that it may have; None where any number will do.

    Raises OSError, also for pipes and devices, which may never end; ValueError for a larger file.
    """
    size = ordinary(path)
    if most is not None and size > most:
        raise ValueError(f"it has more than {most} bytes")
    return Path(path).read_bytes()


def ordinary(path: str | os.PathLike[str]) -> int:
    """The size of an ordinary file. Raises OSError for what is none, such as a pipe."""
    found = Path(path).stat()
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, "Is a directory")
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "Not an ordinary file")
    return found.st_size


def parsed(text: str | bytes) -> Any:
    """What JSON says.

    Raises ValueError for anything else, for a name that stands twice in one object, for numbers
    that are not finite or of more digits than 64 bits have, and for more values, or deeper ones,
    than memory and time should go to.
    """
    text = text if isinstance(text, str) else text.decode()
    if too_many(text):
        raise ValueError("it has too many values")
    try:
        return json.loads(
            text,
            parse_constant=_refuse,
            parse_float=_finite,
            parse_int=_short,
            object_pairs_hook=_unique,
        )
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def too_many(text: str) -> bool:
    """Whether a text has more values than `parsed` takes."""
    return sum(map(text.count, ",[{")) > MOST_VALUES


def sealed(data: Mapping[str, Any], text: str | None = None) -> bytes:
    """The bytes of a file that `unsealed` reads. text: the JSON of `data` where it is laid out by
    hand, ending with a line of one brace. Raises ValueError for numbers that are not finite."""
    text = text or json.dumps(data, indent=1, allow_nan=False) + "\n"
    if _KEY in data or not text.endswith("\n}\n"):
        raise ValueError("it cannot have a checksum")
    zeroed = f'{text[:-3]},\n "{_KEY}": "{_ZEROS}'.encode() + _END
    return _with_digest(zeroed)


def unsealed(data: bytes) -> Any:
    """What a file says, without its checksum. Raises ValueError, also for a wrong checksum."""
    found = parsed(data)
    if not isinstance(found, dict) or _KEY not in found:
        return found
    if not data.endswith(f'"{_KEY}": "{found.pop(_KEY)}'.encode() + _END):
        raise ValueError("its checksum is not at its end")
    if _with_digest(data) != data:
        raise ValueError("its checksum is wrong")
    return found


def _with_digest(data: bytes) -> bytes:
    """With the right digits in the place of those at its end."""
    start = data[: -len(_END) - 64]
    digest = hashlib.sha256(start + _ZEROS.encode() + _END).hexdigest()
    return start + digest.encode() + _END


def _refuse(text: str) -> Any:
    raise ValueError(f"it holds {text}")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"it holds {text[:40]}")
    return value


def _short(text: str) -> int:
    if len(text) > 20:  # digits and a sign of 64 bits
        raise ValueError(f"it holds {text[:40]}")
    return int(text)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return found
