"""What the documentation site takes from outside of `docs/`: a hook of mkdocs.

Pages of the repository's root become pages of the site. Links that lead out of both, to code, are
texts there.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
PAGES = {
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}
_LINK = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of the root."""
    for source, name in PAGES.items():
        files.append(File.generated(config, name, content=(ROOT / source).read_text()))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Let links lead to pages of the site."""
    return _LINK.sub(_linked, markdown)


def _linked(found: re.Match[str]) -> str:
    text, target, anchor = found[1], found[2], found[3] or ""
    if target.startswith(("http:", "https:")):
        return found[0]
    name = target.removeprefix("../").removeprefix("docs/")
    name = PAGES.get(name, name)
    if name in PAGES.values() or (ROOT / "docs" / name).exists():
        return f"[{text}]({name}{anchor})"
    return text
