"""What the documentation site takes from outside of `docs/`: a hook of mkdocs.

Pages of the repository's root, and notebooks with what they printed and drew, become pages of the
site. Links that lead out of it, to code, are texts there.
"""

from __future__ import annotations

import base64
import json
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
    """Add the pages of the root and the notebooks."""
    for source, name in PAGES.items():
        files.append(File.generated(config, name, content=(ROOT / source).read_text()))
    for path in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        text, pictures = notebook_page(json.loads(path.read_text()), path.stem)
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=text))
        for name, picture in pictures.items():
            files.append(File.generated(config, f"notebooks/{name}", content=picture))
    return files


def notebook_page(notebook: dict[str, Any], stem: str) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown, and its pictures by file name."""
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", ()):
            if "text" in output:
                parts.append(f"```text\n{''.join(output['text']).rstrip()}\n```")
            elif "image/png" in output.get("data", {}):
                name = f"{stem}-{len(pictures) + 1}.png"
                pictures[name] = base64.b64decode("".join(output["data"]["image/png"]))
                parts.append(f"![what the cell draws]({name})")
    title, *rest = parts
    link = f"[Download this notebook]({stem}.ipynb){{download}}"
    return "\n\n".join([title, link, *rest]), pictures


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links lead to pages of the site."""
    if page.file.src_uri.startswith("notebooks/"):
        return markdown  # its links are made here
    return _LINK.sub(_linked, markdown)


def _linked(found: re.Match[str]) -> str:
    text, target, anchor = found[1], found[2], found[3] or ""
    if target.startswith(("http:", "https:")):
        return found[0]
    name = target.removeprefix("../").removeprefix("docs/")
    name = PAGES.get(name, name)
    if name in PAGES.values() or (ROOT / "docs" / name).exists():
        return f"[{text}]({name.replace('.ipynb', '.md')}{anchor})"
    return text
