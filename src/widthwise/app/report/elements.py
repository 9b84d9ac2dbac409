"""The few HTML elements that the pages are made of; what is said in them is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape


def element(name: str, said: str, style: str = "", /, **attributes: str) -> str:
    """One element around a text. style: its class."""
    if style:
        attributes["class"] = style
    words = "".join(f' {key}="{escape(value)}"' for key, value in attributes.items())
    return f"<{name}{words}>{escape(said)}</{name}>"


def head(said: str, style: str = "") -> str:
    """The cell that a row begins with."""
    return element("th", said, style, scope="row")


def cell(said: str, style: str = "", /, **attributes: str) -> str:
    """Any other cell."""
    return element("td", said, style, **attributes)


def table(
    heads: Sequence[str],
    bodies: Sequence[Sequence[str]],
    label: str,
    *,
    columns: Mapping[str, str] | None = None,
    style: str = "scroll",
) -> str:
    """A table that scrolls by itself, by keyboard too.

    bodies: groups of rows, each row as HTML. columns: the class of a column, by its head.
    """
    columns = columns or {}
    line = "".join(element("th", h, columns.get(h, ""), scope="col") for h in heads)
    inside = "\n".join("<tbody>\n" + "\n".join(rows) + "\n</tbody>" for rows in bodies)
    return (
        f'<div class="{style}" role="region" aria-label="Table: {escape(label)}" tabindex="0">\n'
        f"<table>\n<thead><tr>{line}</tr></thead>\n{inside}\n</table>\n</div>"
    )


def row(cells: Sequence[str], style: str = "") -> str:
    """A row of cells. style: its class."""
    start = f'<tr class="{style}">' if style else "<tr>"
    return f"{start}{''.join(cells)}</tr>"
