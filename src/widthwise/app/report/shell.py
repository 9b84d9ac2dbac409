"""What the pages of a run and of a comparison have in common: one HTML file that loads nothing.

    filled("widthwise.app.report", "page", title="mnist", lead="...", data={...}, curve="...")

`shell.html` holds style, script and data; `<name>.html` of the package says what is where between
them, `<name>.css` adds to the look (`page.css`), and `<name>.js` draws the chart.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from string import Template
from typing import Any, Final

from widthwise.app.report.elements import element

_HERE: Final = "widthwise.app.report"


def filled(
    package: str, name: str, /, *, title: str, lead: str, data: Mapping[str, Any], **parts: str
) -> str:
    """The page as text. data: what its script draws. parts: HTML, by name in `<name>.html`."""
    # Imported here: the text of plotly's script is 5 MB.
    from plotly.offline import get_plotlyjs

    styles = dict.fromkeys([(_HERE, "page.css"), (package, f"{name}.css")])
    return Template(_asset(_HERE, "shell.html")).substitute(
        title=escape(title),
        style="\n".join(_asset(*each).strip() for each in styles),
        lead=escape(lead),
        body=Template(_asset(package, f"{name}.html")).substitute(parts),
        # "</" would end the script element wherever it stood.
        data=json.dumps(data, allow_nan=False).replace("</", "<\\/"),
        plotly=get_plotlyjs(),
        script=_asset(package, f"{name}.js").strip(),
    )


def described(facts: Mapping[str, str]) -> str:
    """Facts as the entries of a list, label -> text."""
    return "\n".join(element("dt", label) + element("dd", said) for label, said in facts.items())


def _asset(package: str, name: str) -> str:
    return files(package).joinpath(name).read_text(encoding="utf-8")
