"""What a run folder shows: its measured networks, its picks, or what is wrong with it.

    views = Views()
    views.view(0, Path("runs/digits"))      # data for the page; no network is opened
    views.shown(Path("runs/digits"))        # the networks that can be cut, by the same ids

Whether files have changed is looked at each time, so that the page shows what a sweep has just
written. The name of a network follows from what it is, so that a page that is older than a sweep
asks for nothing else than what it shows.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from shlex import quote
from threading import Lock
from typing import Final

from pydantic import BaseModel

from widthwise.app.report import text
from widthwise.app.report.picks import Pick, load_picks, position
from widthwise.app.runs.folder import Run, members, read_frontier
from widthwise.app.serve.words import gives_up, how_made, smaller
from widthwise.app.tasks import BUILT_IN
from widthwise.app.tasks.mnist import DIGITS
from widthwise.common.messages import one_line
from widthwise.common.units import format_size
from widthwise.errors import FileError, WidthwiseError
from widthwise.measure.frontier import Frontier, Point
from widthwise.variant import Widths
from widthwise.variants.search import tried

TRIED: Final = 1000  # of the attempts of searches, the last


class ShownPoint(BaseModel):
    """One network that can be chosen.

    id: its name in the other routes. name: of a stored network, "" for a point of the sweep.
    bytes: of its file. metric, spread, latency_ms, params, macs: as in the frontier; null where not
    measured. size, share, quality, latency, widths, gives_up: the same for people. made: how, in
    words. names: of stored networks that are this very one. own_class: whether the file opens as
    the model's class rather than as a graph module; null where that is not known.
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
    made: str
    gives_up: str
    own_class: bool | None


class Attempt(BaseModel):
    """What a search has tried and not stored, so that it cannot be chosen."""

    bytes: int
    metric: float
    text: str


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
    choices: list[ShownPoint] = []
    tried: list[Attempt] = []
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
    """A run that can be shown.

    run: the one whose network is cut; the first of several seeds. stamp: the files that this was
    read from, when they were written, and their sizes.
    """

    stamp: tuple[tuple[Path, int, int], ...]
    folder: Path
    run: Run
    task: str
    frontier: Frontier
    known: dict[str, Known]
    picks: tuple[Pick, ...]

    @cached_property
    def full(self) -> str:
        """The id of the largest measured network."""
        largest = max((k for k in self.known.values() if not k.pick), key=lambda k: k.point.bytes)
        return point_id(largest.point)


def read(folder: Path) -> Shown:
    """What is in a run folder. Raises RunError, FileError: one sentence with what to do."""
    found = members(folder)
    read_from = [found[0].record_file, found[0].model, Run(folder).frontier, Run(folder).picks]
    stamp = tuple(map(_stamp, read_from))  # before they are read
    record = found[0].finished_record()
    if not found[0].model.exists():
        raise FileError(f"{found[0].model} is missing; train again with: {record.command}")
    frontier = read_frontier(folder)
    picks = tuple(load_picks(Run(folder).picks))
    known = {point_id(point): Known(point) for point in frontier.points}
    for pick in picks:
        if _own(pick, frontier) and pick_file(folder, pick) is not None:
            known[pick_id(pick)] = Known(_as_point(pick, frontier), pick)
    stamp += tuple(_stamp(folder / pick.file) for pick in picks if pick.file)
    return Shown(stamp, folder, found[0], record.settings.task, frontier, known, picks)


class Views:
    """What run folders show, worked out again when their files change."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._shown: dict[Path, Shown] = {}
        self._views: dict[int, tuple[object, RunView]] = {}

    def shown(self, folder: Path) -> Shown:
        """As `read`. Raises RunError, FileError."""
        with self._lock:
            known = self._shown.get(folder)
            if known is None or any(_stamp(path) != (path, *then) for path, *then in known.stamp):
                known = self._shown[folder] = read(folder)
            return known

    def view(self, number: int, folder: Path) -> RunView:
        """A run folder as the page shows it; whatever is wrong with it is said in `problem`."""
        try:
            shown = self.shown(folder)
        except WidthwiseError as error:
            return RunView(id=number, name=folder.name or str(folder), problem=one_line(error))
        # Apart from the stamp, for a search that goes on changes nothing that was made.
        now = shown.stamp, _stamp(shown.run.trials)
        known = self._views.get(number)
        if known is None or known[0] != now:
            known = self._views[number] = now, _view(number, shown)
        return known[1]


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
    try:
        path = (folder / pick.file).resolve()
    except (OSError, ValueError):  # a name that can be no file's
        return None
    inside = path.is_relative_to(folder.resolve()) and path.suffix == ".safetensors"
    return path if inside and path.is_file() else None


def _stamp(path: Path) -> tuple[Path, int, int]:
    try:
        found = path.stat()
    except (OSError, ValueError):  # no file, or a name that can be no file's
        return path, 0, 0
    return path, found.st_mtime_ns, found.st_size


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
    return alike and (pick.post_process == frontier.post_process or point.bytes == full)


def _as_point(pick: Pick, frontier: Frontier) -> Point:
    size, value = position(frontier, pick)
    return Point(Widths(pick.widths), value, None, size, 0, 0, None)


def _view(number: int, shown: Shown) -> RunView:
    frontier, full = shown.frontier, shown.known[shown.full].point
    digits = _reads_digits(shown.task)
    attempts, problem = _attempts(shown)
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
        choices=[
            _choice(shown, name, known, full, digits=digits) for name, known in shown.known.items()
        ],
        tried=attempts,
        notes=[*_notes(shown), *problem],
    )


def _task_name(task: str) -> str:
    """'digits', and 'mine' for mine.py:task."""
    return task if task in BUILT_IN else Path(task.rpartition(":")[0]).stem


def _reads_digits(task: str) -> bool:
    """Whether it is a built-in task whose classes are the digits; the user's own are not run."""
    return task in BUILT_IN and BUILT_IN[task]().classes == DIGITS


def _choice(shown: Shown, name: str, known: Known, full: Point, *, digits: bool) -> ShownPoint:
    frontier, point, pick = shown.frontier, known.point, known.pick
    same = [p.name for p in shown.picks if not pick and _same(p, point, frontier)]
    latency = "" if point.latency_ms is None else f"{text.milliseconds(point.latency_ms)} ms"
    return ShownPoint(
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
        widths=text.widths(point.widths, 6),
        made=_made(frontier, pick),
        gives_up=gives_up(frontier, point, full, digits=digits),
        own_class=point.own_class,
    )


def _made(frontier: Frontier, pick: Pick | None) -> str:
    if pick is None:
        return how_made(frontier.post_process)
    tested = "" if pick.test is None else f"; test split {text.value(frontier.metric, pick.test)}"
    return f"{how_made(pick.post_process)}; stored as {pick.file}{tested}"


def _attempts(shown: Shown) -> tuple[list[Attempt], list[str]]:
    """What searches have tried, and what one should know of it."""
    journal, frontier = shown.run.trials, shown.frontier
    if frontier.split != "valid" or not journal.exists():
        return [], []
    try:
        # A run has had several searches, all of which begin alike.
        found = list(dict.fromkeys(tried(journal)))[-TRIED:]
    except ModuleNotFoundError as error:
        return [], [f"What searches have tried is not shown: {one_line(error)}."]
    except WidthwiseError as error:
        return [], [f"What searches have tried is not shown: {one_line(error)}"]
    attempts = [
        Attempt(
            bytes=one.bytes,
            metric=one.metric,
            text=f"tried in a search: {format_size(one.bytes)}, "
            f"{text.value(frontier.metric, one.metric)}, {text.widths(one.variant.widths, 6)}",
        )
        for one in found
    ]
    said = "Rings were tried in a search and not stored; the best is, as a diamond."
    return attempts, [said] if attempts else []


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
    else:
        said.append("Numbers are of one training, so without a spread; others differ a little.")
    if frontier.split == "test":
        said.append("These were measured on the test split, so choosing on them flatters.")
    if frontier.post_process:
        said.append(f"Every dot was post-processed after the cut: {frontier.post_process}.")
    missing = _without_file(shown.folder, shown.picks, frontier)
    if missing:
        said.append(f"The files of these picks are not in the run folder: {', '.join(missing)}.")
    return said


def _without_file(folder: Path, picks: Sequence[Pick], frontier: Frontier) -> list[str]:
    return [p.name for p in picks if _own(p, frontier) and pick_file(folder, p) is None]
