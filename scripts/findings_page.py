"""Write docs/findings.md and its pictures from bench/results/*.json.

    python scripts/findings_page.py           # write
    python scripts/findings_page.py --check   # exit 1 when the page is not what the results say

No figure and no verdict on the page is typed by hand. A section is left out where its results are
missing. To add one, name its two functions in `SECTIONS`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import findings_curvature
import findings_elastic
import findings_ladders
import findings_minified
import findings_minified_pictures
import findings_resnets
from results_page import RESULTS, ROOT, load

PAGE = ROOT / "docs" / "findings.md"
IMAGES = ROOT / "docs" / "images"


@dataclass(frozen=True)
class Section:
    """A part of the page.

    results: the name of the stored results, with date and machine. text: what they say, Markdown
    from its "## " heading on. pictures: writes them into a folder.
    """

    results: str
    text: Callable[[dict[str, Any]], str]
    pictures: Callable[[dict[str, Any], Path], None]


SECTIONS = (
    Section("minified", findings_minified.text, findings_minified_pictures.pictures),
    Section("curvature", findings_curvature.text, findings_curvature.pictures),
    Section("resnets", findings_resnets.text, findings_resnets.pictures),
    Section("elastic_tuning", findings_elastic.text, findings_elastic.pictures),
    Section("ladders", findings_ladders.text, findings_ladders.pictures),
)


def sections() -> Iterator[tuple[Section, dict[str, Any]]]:
    """Those that there are results for."""
    for section in SECTIONS:
        if (RESULTS / f"{section.results}.json").exists():
            yield section, load(section.results)


def page() -> str:
    """The whole page."""
    head = "# Findings\n\nWritten by `scripts/findings_page.py` from `bench/results/`.\n"
    return "\n".join([head, *(section.text(found) for section, found in sections())])


def main() -> int:
    """Write, or check."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    if options.check:
        current = PAGE.exists() and PAGE.read_text() == page()
        if not current:
            print(f"not what the results say: {PAGE.name}; run scripts/findings_page.py")
        return 0 if current else 1
    IMAGES.mkdir(exist_ok=True)
    for section, found in sections():
        section.pictures(found, IMAGES)
    PAGE.write_text(page())
    print(PAGE.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
