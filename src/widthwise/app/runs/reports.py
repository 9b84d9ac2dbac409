"""What a run folder shows for people: its picks, its picture and its page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from widthwise.app.report import html, plot
from widthwise.app.report.picks import Pick, load_picks, save_picks
from widthwise.app.runs.folder import Run
from widthwise.measure.frontier import Frontier


def note(run: Run, pick: Pick) -> None:
    """Keep a pick among the run's, in the place of one of its name. Raises FileError."""
    others = [p for p in load_picks(run.picks) if p.name != pick.name]
    save_picks(run.picks, sorted([*others, pick], key=lambda p: -p.bytes))


def publish(
    folder: Path, frontier: Frontier, *, title: str, facts: Mapping[str, str]
) -> tuple[Path, Path]:
    """Write the picture and the page of a run folder; returns their paths. Raises FileError."""
    place = Run(folder)
    picks = load_picks(place.picks)
    plot.draw(frontier, place.picture, title=title, picks=picks)
    html.write(frontier, place.page, title=title, picks=picks, facts=facts)
    return place.picture, place.page
