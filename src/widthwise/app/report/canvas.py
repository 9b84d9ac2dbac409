"""A picture with one chart, as all that the reports draw with matplotlib look."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from widthwise.common.atomic import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK: Final = "#1b1f24"
_GRID: Final = "#e3e7ec"


@contextmanager
def drawn(
    path: Path, title: str, height: float, grid: Literal["both", "y"] = "both"
) -> Iterator[Axes]:
    """Axes to draw on, written to `path` as a PNG at the end. height: inches; the width is 8.

    Raises FileError when the file cannot be written.
    """
    # The figure classes alone: pyplot would pick a window system and keep every figure alive.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    yield axes
    axes.set_title(title, loc="left", color=INK, fontsize=12, fontweight="bold")
    axes.grid(axis=grid, color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    image = io.BytesIO()
    figure.savefig(image, format="png", metadata={"Title": title})
    write_whole(path, [image.getvalue()])
