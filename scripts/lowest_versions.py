"""The lowest versions that `pyproject.toml` promises, as pins for pip: one requirement a line.

    python scripts/lowest_versions.py > lowest.txt

Only the dependencies of the library itself are pinned; what these depend on is left to pip.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
_FLOOR = re.compile(r"([\w.-]+)>=([\w.]+)")


def lowest(requirements: list[str]) -> list[str]:
    """`name==version` for every `name>=version`.

    Raises:
        ValueError: For a requirement of another form, which has no floor that could be tested.
    """
    pins = []
    for requirement in requirements:
        found = _FLOOR.fullmatch(requirement)
        if found is None:
            raise ValueError(f"{requirement!r} has no floor; write it as 'name>=version'.")
        pins.append(f"{found[1]}=={found[2]}")
    return pins


def main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    try:
        pins = lowest(project["dependencies"])
    except ValueError as error:
        sys.exit(f"pyproject.toml: {error}")
    print("\n".join(pins))


if __name__ == "__main__":
    main()
