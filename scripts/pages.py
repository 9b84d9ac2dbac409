"""What the scripts that write pages share: stored results, tables, pictures, writing and checking.

sys.exit(pages.main(__doc__, lambda: {PAGE: pages.of_sections(HEAD, SECTIONS)}, pictures))
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
IMAGES = ROOT / "docs" / "images"
Found = dict[str, Any]
Section = tuple[str, Callable[[Found], str]]
"""The name of a stored result, and the Markdown of it from its heading on."""


def load(name: str) -> Found:
    """A stored result with its date and machine."""
    found: Found = json.loads((RESULTS / f"{name}.json").read_text())
    return found


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, first column left, others right."""
    lines = ["| " + " | ".join(header) + " |", "|---" + "|---:" * (len(header) - 1) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def measured(found: Found) -> str:
    """Where and when."""
    m = found["machine"]
    at = f" at commit {found['commit']}" if found.get("commit") else ""
    return (
        f"Measured {found['date']}{at} on {m['processor']} ({m['cores']} cores), "
        f"torch {m['torch']}, Python {m['python']}."
    )


def of_sections(head: str, sections: Iterable[Section]) -> str:
    """A page: its head, and each result with where it was measured."""
    parts = [head]
    for name, text in sections:
        found = load(name)
        parts.append(f"{text(found).rstrip()}\n\n{measured(found)}\n")
    return "\n".join(parts)


def plots() -> Any:
    """pyplot, without a screen. (A script that only checks need not import it.)"""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def plain(axes: Any) -> None:
    """How all pictures look: a faint grid, and no frame above and to the right."""
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def ticks(axes: Any, at: Sequence[float], said: Sequence[str]) -> None:
    """These ticks alone on the x axis, which is a log."""
    axes.set_xscale("log")
    axes.set_xticks(at, said)
    axes.set_xticks([], minor=True)


def main(
    doc: str | None,
    texts: Callable[[], Mapping[Path, str]],
    pictures: Callable[[], object] = lambda: None,
) -> int:
    """Write pages and pictures; with --check, say which pages are not current. The exit code."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="exit 1 where a page is not current")
    checks = parser.parse_args().check
    pages = texts()
    if checks:
        stale = [p.name for p, text in pages.items() if not p.exists() or p.read_text() != text]
        if stale:
            print(f"not current: {', '.join(stale)}; run this without --check", file=sys.stderr)
        return 1 if stale else 0
    pictures()
    for path, text in pages.items():
        path.write_text(text)
        print(path.relative_to(ROOT))
    return 0
