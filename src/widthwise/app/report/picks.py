"""The widths that someone chose, kept as JSON beside the frontier that they come from.

save_picks(path, [Pick("small", {"fc1": 16}, 4321, valid=0.96)])
load_picks(path)                   # what was saved; nothing when there is no such file
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from widthwise.common.atomic import write_whole
from widthwise.common.jsonfile import contents, sealed, unsealed
from widthwise.errors import FileError, WidthError
from widthwise.measure.frontier import Frontier
from widthwise.variant import Widths


@dataclass(frozen=True)
class Pick:
    """A width that someone chose, and what became of it.

    name: what it is called in tables and plots, for example "small".
    widths: of the axes that were chosen; others are full.
    bytes: of its stored file, or of the measured point while there is no file.
    valid: metric on the split that the frontier was measured on; None where it was not measured.
    test: metric on the test split, from the reloaded file where there is one; None if unmeasured.
    file: file name in the run folder, or None.
    post_process: what was done to the cut network, "" for nothing.
    """

    name: str
    widths: Mapping[str, int]
    bytes: int
    valid: float | None = None
    test: float | None = None
    file: str | None = None
    post_process: str = ""


def save_picks(path: Path, picks: Sequence[Pick]) -> None:
    """Write them whole or not at all. Raises FileError."""
    data = [asdict(replace(pick, widths=dict(pick.widths))) for pick in picks]
    write_whole(path, [sealed({"picks": data})])


def load_picks(path: Path) -> list[Pick]:
    """Read what `save_picks` wrote; no file means no picks. Raises FileError for anything else."""
    try:
        data = unsealed(contents(path))
        # Files of before there was a checksum hold the list alone.
        entries = data["picks"] if isinstance(data, dict) and [*data] == ["picks"] else data
        if not isinstance(entries, list):
            raise TypeError("no list")
        return [_read(entry) for entry in entries]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise FileError(f"{path} cannot be read ({error.strerror}); make it readable.") from error
    except (LookupError, ValueError, TypeError, RecursionError, WidthError) as error:
        raise FileError(f"{path} is damaged; delete it and choose the sizes again.") from error


def position(frontier: Frontier, pick: Pick) -> tuple[int, float]:
    """Where a pick lies among the points: its bytes and its metric on the frontier's split.

    A pick that was not measured there has what the point of its widths, or of its size, has.
    """
    value = {"valid": pick.valid, "test": pick.test}.get(frontier.split)
    if value is not None:
        return pick.bytes, value
    same = [p for p in frontier.points if dict(p.widths) == dict(pick.widths)]
    point = min(same or frontier.points, key=lambda p: abs(p.bytes - pick.bytes))
    return point.bytes, point.metric


def size_range(frontier: Frontier, picks: Sequence[Pick]) -> tuple[int, int]:
    """The smallest and the largest size of points and picks, in bytes."""
    sizes = [p.bytes for p in frontier.points] + [position(frontier, pick)[0] for pick in picks]
    return min(sizes), max(sizes)


def _read(entry: dict[str, Any]) -> Pick:
    if not isinstance(entry["widths"], dict):
        raise TypeError("widths")
    pick = Pick(**{**entry, "widths": dict(Widths(entry["widths"]))})
    kinds = {"name": str, "bytes": int, "valid": float | None, "test": float | None}
    kinds |= {"file": str | None, "post_process": str}
    for name, kind in kinds.items():
        value = getattr(pick, name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise TypeError(name)
    if pick.bytes < 0:
        raise ValueError("bytes")
    return pick
