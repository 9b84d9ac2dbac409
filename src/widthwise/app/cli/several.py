"""Several budgets in one command: a file for each, in a folder."""

from collections.abc import Sequence
from pathlib import Path

import typer

from widthwise.common.units import format_size, parse_size


def files(out: Path, max_bytes: Sequence[str], suffix: str) -> list[Path]:
    """The file of each budget: `out` itself, or of several one for each in the folder `out`.

    Raises typer.BadParameter for budgets that are the same, and where `out` is no folder.
    """
    if len(max_bytes) < 2:
        return [out]
    if out.suffix or (out.exists() and not out.is_dir()):
        raise typer.BadParameter(
            "several --max-bytes give several files; name a folder for them with --out, such as "
            "--out small."
        )
    names = [format_size(parse_size(size)).replace(" ", "") for size in max_bytes]
    if len(set(names)) < len(names):
        raise typer.BadParameter("two --max-bytes are the same; leave one of them out.")
    out.mkdir(parents=True, exist_ok=True)
    return [out / f"{name}{suffix}" for name in names]
