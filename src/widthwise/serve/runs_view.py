"""What a run folder shows: its measured networks, its picks, or what is wrong with it.

    shown = view(0, Path("runs/digits"))         # data for the page; no network is opened
    known = choices(Path("runs/digits"))         # id -> what can be cut, by the same ids

Files are read anew each time, so that the page shows what a sweep has just written. The name of
a network follows from what it is, so that a page that is older than a sweep asks for nothing else
than what it shows.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from pydantic import BaseModel

from widthwise.errors import FileError, WidthwiseError
from widthwise.measure.frontier import Frontier, Point
from widthwise.measure.size import format_size
from widthwise.report import text
from widthwise.report.picks import Pick, load_picks, position
from widthwise.runs import Run, members, read_frontier
from widthwise.serve.words import gives_up, smaller
from widthwise.tasks import BUILT_IN
from widthwise.tasks.mnist import DIGITS
from widthwise.variant import Widths


class Choice(BaseModel):
    """One network that can be chosen.

    id: its name in the other routes. name: that of a pick, "" for a point of the sweep. bytes: of
    its file. metric, spread, latency_ms, params, macs: as in the frontier; null where not measured.
    size, share, quality, latency, widths, gives_up: the same for people. names: of picks that are
    this very network.
    """

    id: str
    name: str
    names: list[str]
    bytes: int
    metric: float
    spread: float | None
    latency_ms: float | None
    params: int | None
    macs: int | None
    size: str
    share: str
    quality: str
    latency: str
    widths: str
    gives_up: str


class RunView(BaseModel):
    """A run as the page shows it.

    problem: why there is nothing to choose from, with the command to run; "" where there is.
    is_share: whether the metric is a share of 1, shown in per cent. full: the id of the largest
    measured network. notes: what one should know besides.
    """

    id: int
    name: str
    problem: str
    task: str = ""
    title: str = ""
    metric: str = ""
    is_share: bool = False
    higher_is_better: bool = True
    split: str = ""
    runtime: str = ""
    full: str = ""
    choices: list[Choice] = []
    notes: list[str] = []


class RunName(BaseModel):
    """One of the runs that are served."""

    id: int
    name: str
    problem: str


@dataclass(frozen=True)
class Known:
    """A network that can be made: a measured point, or the file of a pick."""

    point: Point
    pick: Pick | None = None


@dataclass(frozen=True)
class Shown:
    """A run that can be shown. run: the one whose network is cut; the first of several seeds."""

    folder: Path
    run: Run
    task: str
    frontier: Frontier
    known: dict[str, Known]
    picks: tuple[Pick, ...]

    @property
    def full(self) -> str:
        """The id of the largest measured network."""
        largest = max((k for k in self.known.values() if not k.pick), key=lambda k: k.point.bytes)
        return point_id(largest.point)


def read(folder: Path) -> Shown:
    """What is in a run folder. Raises RunError, FileError: one sentence with what to do."""
    found = members(folder)
    record = found[0].finished_record()
    if not found[0].model.exists():
        raise FileError(f"{found[0].model} is missing; train again with: {record.command}")
    frontier = read_frontier(folder)
    picks = tuple(load_picks(Run(folder).picks))
    known = {point_id(point): Known(point) for point in frontier.points}
    for pick in picks:
        if _own(pick, frontier) and pick_file(folder, pick) is not None:
            known[pick_id(pick)] = Known(_as_point(pick, frontier), pick)
    return Shown(folder, found[0], record.settings.task, frontier, known, picks)


def view(number: int, folder: Path) -> RunView:
    """A run folder as the page shows it; whatever is wrong with it is said in `problem`."""
    try:
        return _view(number, read(folder))
    except WidthwiseError as error:
        return RunView(id=number, name=folder.name or str(folder), problem=one_line(error))


def one_line(error: object) -> str:
    """A message without line breaks."""
    return " ".join(str(error).split())


def point_id(point: Point) -> str:
    """Twelve hexadecimal digits that follow from its widths."""
    return _digest(sorted(point.widths.items()))


def pick_id(pick: Pick) -> str:
    """Twelve hexadecimal digits that follow from all that is known of it."""
    return _digest([pick.name, pick.file, pick.bytes, sorted(pick.widths.items())])


def pick_file(folder: Path, pick: Pick) -> Path | None:
    """The file of a pick in its run folder; None where there is none, or it lies elsewhere."""
    if pick.file is None:
        return None
    path = (folder / pick.file).resolve()
    inside = path.is_relative_to(folder.resolve()) and path.suffix == ".safetensors"
    return path if inside and path.is_file() else None


def _digest(data: object) -> str:
    return hashlib.sha256(json.dumps(data).encode()).hexdigest()[:12]


def _own(pick: Pick, frontier: Frontier) -> bool:
    """Whether a pick is another network than any measured point, and was measured as they were."""
    if {"valid": pick.valid, "test": pick.test}.get(frontier.split) is None:
        return False
    return not any(_same(pick, point, frontier) for point in frontier.points)


def _same(pick: Pick, point: Point, frontier: Frontier) -> bool:
    alike = dict(point.widths) == dict(pick.widths) and point.bytes == pick.bytes
    full = max(p.bytes for p in frontier.points)
    return alike and (pick.touch_up == frontier.touch_up or point.bytes == full)


def _as_point(pick: Pick, frontier: Frontier) -> Point:
    size, value = position(frontier, pick)
    return Point(Widths(pick.widths), value, None, size, 0, 0, None)


def _view(number: int, shown: Shown) -> RunView:
    frontier = shown.frontier
    return RunView(
        id=number,
        name=shown.folder.resolve().name,
        problem="",
        task=shown.task,
        title=f"{_task_name(shown.task)}: choose a size",
        metric=frontier.metric,
        is_share=text.is_share(frontier.metric),
        higher_is_better=frontier.higher_is_better,
        split=frontier.split,
        runtime=frontier.runtime,
        full=shown.full,
        choices=[_choice(shown, name, known) for name, known in shown.known.items()],
        notes=_notes(shown),
    )


def _task_name(task: str) -> str:
    """'digits', and 'mine' for mine.py:task."""
    return task if task in BUILT_IN else Path(task.rpartition(":")[0]).stem


def _reads_digits(task: str) -> bool:
    """Whether it is a built-in task whose classes are the digits; the user's own are not run."""
    return task in BUILT_IN and BUILT_IN[task]().classes == DIGITS


def _choice(shown: Shown, name: str, known: Known) -> Choice:
    frontier, point, pick = shown.frontier, known.point, known.pick
    full = shown.known[shown.full].point
    same = [p.name for p in shown.picks if not pick and _same(p, point, frontier)]
    latency = "" if point.latency_ms is None else f"{text.milliseconds(point.latency_ms)} ms"
    touched = f" ({pick.touch_up})" if pick and pick.touch_up else ""
    return Choice(
        id=name,
        name=pick.name if pick else "",
        names=same,
        bytes=point.bytes,
        metric=point.metric,
        spread=point.spread,
        latency_ms=point.latency_ms,
        params=None if pick else point.params,
        macs=None if pick else point.macs,
        size=format_size(point.bytes),
        share=smaller(point, full),
        quality=text.value(frontier.metric, point.metric, point.spread),
        latency=latency,
        widths=text.widths(point.widths, 6) + touched,
        gives_up=gives_up(frontier, point, full, digits=_reads_digits(shown.task)),
    )


def _notes(shown: Shown) -> list[str]:
    frontier, said = shown.frontier, []
    if len(frontier.points) < 3:
        said.append(
            f"Only {len(frontier.points)} sizes were measured; for more run: widthwise sweep "
            f"{quote(str(shown.folder))}"
        )
    if len(frontier.seeds) > 1:
        said.append(
            f"Numbers are means of {len(frontier.seeds)} trainings, ± their standard deviation; "
            f"what you try and download is the network of {shown.run.folder.name}."
        )
    if frontier.split == "test":
        said.append("These were measured on the test split, so choosing on them flatters.")
    if frontier.touch_up:
        said.append(f"Every network was touched up after the cut: {frontier.touch_up}.")
    missing = _without_file(shown.folder, shown.picks, frontier)
    if missing:
        said.append(f"The files of these picks are not in the run folder: {', '.join(missing)}.")
    return said


def _without_file(folder: Path, picks: Sequence[Pick], frontier: Frontier) -> list[str]:
    return [p.name for p in picks if _own(p, frontier) and pick_file(folder, p) is None]
