"""Write docs/findings.md and its pictures from bench/results/*.json.

    python scripts/findings_page.py           # write
    python scripts/findings_page.py --check   # exit 1 when the page is not what the results say

No figure and no verdict on the page is typed by hand.
"""

from __future__ import annotations

import sys

import findings_curvature
import findings_elastic
import findings_minified
import findings_minified_pictures
import findings_resnets
import pages
from pages import IMAGES, ROOT, load

PAGE = ROOT / "docs" / "findings.md"
HEAD = "# Findings\n\nWritten by `scripts/findings_page.py` from `bench/results/`.\n"
SECTIONS: tuple[pages.Section, ...] = (
    ("minified", findings_minified.text),
    ("curvature", findings_curvature.text),
    ("resnets", findings_resnets.text),
    ("elastic_tuning", findings_elastic.text),
)
PICTURES = {
    "minified": findings_minified_pictures.pictures,
    "resnets": findings_resnets.pictures,
    "elastic_tuning": findings_elastic.pictures,
}


def page() -> str:
    """The whole page."""
    return pages.of_sections(HEAD, SECTIONS)


def pictures() -> None:
    """All pictures of the page."""
    for name, draw in PICTURES.items():
        draw(load(name), IMAGES)


if __name__ == "__main__":
    sys.exit(pages.main(__doc__, lambda: {PAGE: page()}, pictures))
