"""How each family is drawn, in the pictures and on the page.

Colours that the colour-blind tell apart, and besides a mark and a line of its own for each family,
so that they are told apart in black and white too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from widthwise.app.compare.method import Family


@dataclass(frozen=True)
class Look:
    """light, dark: the colour on white and on black. marker, line: as matplotlib calls them.
    symbol, dash: as Plotly does."""

    light: str
    dark: str
    marker: str
    symbol: str
    line: str | tuple[int, tuple[int, ...]]
    dash: str


LOOKS: Final[Mapping[Family, Look]] = {
    "elastic": Look("#0b62d6", "#6cb0ff", "^", "triangle-up", "-", "solid"),
    "small-dense": Look("#1b1f24", "#e6eaef", "o", "circle", "-", "solid"),
    "neurons": Look("#0f8a5f", "#4cc38a", "D", "diamond", "--", "dash"),
    "weights": Look("#b0408f", "#e58ac8", "v", "triangle-down", "-.", "dashdot"),
    "gradual pruning": Look("#c2410c", "#ff8f5c", "s", "square", "--", "dash"),
    "bits": Look("#8a6a00", "#e0b43c", "P", "cross", ":", "dot"),
    "search": Look("#4a9fd8", "#a5dcff", "X", "x", (0, (7, 2)), "longdash"),
}
