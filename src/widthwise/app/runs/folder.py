"""A run folder: what one training (or one ordering of trained weights) made, and what made it.

    runs/x/
        run.json                  settings, command, versions, and how far the run came
        checkpoint.safetensors    written while training; the same command continues from it
        model.safetensors         the trained weights at full size
        scores.safetensors        of an ordered run: its features' scores, in their order
        frontier.json             every measured width
        frontier.png  report.html
        picks.json                the widths that were chosen, and the files made of them
        search.jsonl              what searches have tried; the same search goes on from it

    with hold(folder):                                   # one command at a time
        run, state = claim(folder, settings)             # such as "new" or "finished"
        record = begin(run, state, Record(settings, ...))
    for run in members("runs/x"): ...                    # a run, or the seeds inside a folder

Files appear whole or not at all, and the lock goes with the process that holds it, so that
nothing has to be repaired after a crash.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

import torch

from widthwise.common.atomic import left_over, tidy, write_whole
from widthwise.common.jsonfile import contents, sealed, unsealed
from widthwise.common.lock import held
from widthwise.errors import RunError
from widthwise.graph.constraints import Constraints
from widthwise.measure.frontier import Frontier
from widthwise.train.identity import differences
from widthwise.variant import Widths
from widthwise.version import VERSION

Status = Literal["running", "interrupted", "finished"]
State = Literal["new", "continued", "longer", "finished"]
_LOCK: Final = ".lock"
_TOLD: Final = 4  # differences of a task
ORDERED: Final = "ordered"  # the method of a run that no training made


@dataclass(frozen=True)
class Settings:
    """What decides the trained weights: two runs of equal settings are the same run.

    task: as `resolve` takes it. method: how widths are drawn, or ORDERED. recipe: the fields of
    `Recipe`, none for an ordered run. source: the SHA-256 of the file of weights that the run
    started from, "" for new ones. order: of an ordered run, and of a training that started from one
    and draws its widths by the scores, the score and the number of samples. pruning: the fields of
    `Gradual`, none for a dense run. parts: of a training, what the task's model, data and loss are
    (`train.identity`), so that a task that was changed is another; none where that was not noted.
    constraints: the fields of `Constraints`, none where there are none. distillation: how narrow
    widths learn from the full one, as `tasks.objectives.DISTILLATIONS` has it.
    """

    task: str
    method: str
    seed: int
    recipe: Mapping[str, Any]
    source: str = ""
    order: Mapping[str, Any] = field(default_factory=dict)
    pruning: Mapping[str, Any] = field(default_factory=dict)
    parts: Mapping[str, Any] = field(default_factory=dict)
    constraints: Mapping[str, Any] = field(default_factory=dict)
    distillation: str = "auto"


@dataclass(frozen=True)
class Record:
    """What run.json says.

    command: as it was typed. draw: the fields of `Draw`, empty for an ordered run.
    versions: of what ran. started, finished: UTC, ISO 8601. metric: its name.
    results: split -> metric of the full network, once the run is finished.
    source: the file of weights that the run started from, "" for none. levels: the widths that it
    was trained along, from narrow to full.
    """

    settings: Settings
    command: str
    draw: Mapping[str, Any]
    status: Status
    started: str
    finished: str | None = None
    metric: str = ""
    results: Mapping[str, float] = field(default_factory=dict)
    source: str = ""
    levels: Sequence[Mapping[str, int]] = ()
    versions: Mapping[str, str] = field(default_factory=lambda: dict(_versions()))


@dataclass(frozen=True)
class Run:
    """The places in a run folder."""

    folder: Path

    @property
    def record_file(self) -> Path:
        """What made the run."""
        return self.folder / "run.json"

    @property
    def checkpoint(self) -> Path:
        """The state of an unfinished training."""
        return self.folder / "checkpoint.safetensors"

    @property
    def model(self) -> Path:
        """The trained weights at full size."""
        return self.folder / "model.safetensors"

    @property
    def scores(self) -> Path:
        """The scores of an ordered run."""
        return self.folder / "scores.safetensors"

    @property
    def frontier(self) -> Path:
        """Every measured width."""
        return self.folder / "frontier.json"

    @property
    def picture(self) -> Path:
        """The frontier as a picture."""
        return self.folder / "frontier.png"

    @property
    def page(self) -> Path:
        """The report."""
        return self.folder / "report.html"

    @property
    def picks(self) -> Path:
        """The chosen widths."""
        return self.folder / "picks.json"

    @property
    def trials(self) -> Path:
        """What searches have tried."""
        return self.folder / "search.jsonl"

    @property
    def files(self) -> tuple[Path, ...]:
        """All of these; other files in the folder are the user's."""
        return (
            self.checkpoint,
            self.model,
            self.scores,
            self.frontier,
            self.picture,
            self.page,
            self.picks,
            self.trials,
            self.record_file,
        )

    def record(self) -> Record:
        """What run.json says. Raises RunError when it is missing, damaged or foreign."""
        try:
            text = contents(self.record_file)
        except FileNotFoundError as error:
            raise RunError(_no_run(self.folder)) from error
        except OSError as error:
            raise RunError(
                f"{self.record_file} cannot be read ({error.strerror}); make it readable."
            ) from error
        except ValueError as error:
            raise self._damaged() from error
        try:
            return _read(unsealed(text))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise self._damaged() from error

    def _damaged(self) -> RunError:
        return RunError(
            f"{self.record_file} is damaged or was not written by this version of widthwise; "
            "train again with --overwrite, or give another folder."
        )

    def finished_record(self) -> Record:
        """The record of a run that is done. Raises RunError while it is not."""
        record = self.record()
        if record.status != "finished":
            raise RunError(
                f"The run in {self.folder} is not finished; continue it with: {record.command}"
            )
        return record

    def write(self, record: Record) -> None:
        """Replace run.json. Raises FileError."""
        write_whole(self.record_file, [sealed(asdict(record))])


def constraints_of(settings: Settings) -> Constraints:
    """What the run's axes must fulfil. Raises TypeError, ValueError for what is none."""
    return Constraints(**settings.constraints)


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Keep other widthwise commands out of `folder`, which is made if it is missing.

    What processes that were killed left in it is taken away. Raises RunError when another process
    holds it, or when it cannot be made.
    """
    made = [p for p in (folder, *folder.parents) if not p.exists()]
    with held(folder, _LOCK):
        tidy(folder)
        try:
            yield
        finally:
            _leave(folder, made)


def _leave(folder: Path, made: Sequence[Path]) -> None:
    """Remove a folder that a command made and left empty, so that it stands in nobody's way."""
    try:
        if made and [p.name for p in folder.iterdir()] == [_LOCK]:
            (folder / _LOCK).unlink()
            for each in made:
                each.rmdir()
    except OSError:
        pass  # it is not empty any more, or cannot be removed here


def claim(folder: Path, settings: Settings, *, overwrite: bool = False) -> tuple[Run, State]:
    """Whether `folder` can be, or already is, the folder of this run; changes nothing.

    A run of the same settings that was interrupted is to be continued, one that is finished is to
    be left alone, or trained on ("longer") where only more epochs are asked for. Raises RunError
    when the folder holds something else, unless `overwrite` is set and it is a run.
    """
    run = Run(folder)
    if not run.record_file.exists():
        names = [p.name for p in folder.iterdir() if p.name != _LOCK]
        strangers = [name for name in names if not left_over(name)]
        if strangers:
            raise RunError(
                f"{folder} is not empty and holds no run (it has {min(strangers)}); give another "
                "--out."
            )
        return run, "new"
    if overwrite:
        return run, "new"
    old = run.record()
    finished = old.status == "finished"
    if finished and run.checkpoint.exists() and _longer(old.settings, settings):
        return run, "longer"
    wrong = _difference(old.settings, settings)
    if wrong:
        raise RunError(
            f"{folder} holds a run with {wrong}; give another --out, or --overwrite to replace "
            "that run."
        )
    return run, "finished" if finished else "continued"


def _longer(old: Settings, new: Settings) -> bool:
    """Whether these are the settings of a run with more epochs; one that prunes is at its end."""
    before, now = (each.recipe.get("epochs", 0) for each in (old, new))
    same = replace(new, recipe={**new.recipe, "epochs": before})
    return now > before and not new.pruning and not _difference(old, same)


def begin(run: Run, state: State, record: Record) -> Record:
    """Start or continue a claimed run: clear what a run before it left, and write run.json.

    Returns the record as it was written: a continued run keeps the time it was first started.
    """
    if state == "new":
        clear(run)
    else:
        record = replace(record, started=run.record().started)
        if state == "longer":
            clear(run, but=(run.record_file, run.checkpoint, run.scores))
    run.write(record)
    return record


def members(folder: Path) -> list[Run]:
    """The runs in a folder: itself, or one for each of its seeds. Raises RunError for none."""
    if Run(folder).record_file.exists():
        return [Run(folder)]
    seeds = [path.parent for path in folder.glob("seed-*/run.json")]
    if not seeds:
        raise RunError(_no_run(folder))
    return [Run(seed) for seed in sorted(seeds, key=lambda p: (len(p.name), p.name))]


def read_frontier(folder: Path) -> Frontier:
    """The frontier of a run folder, or of the seeds in it. Raises RunError, FileError."""
    path = Run(folder).frontier
    if not path.exists():
        members(folder)  # a folder that holds no run is the nearer mistake
        raise RunError(f"{folder} has no frontier yet; measure one with: widthwise sweep {folder}")
    frontier = Frontier.load(path)
    if not frontier.points:
        raise RunError(f"{path} holds no points; measure again with: widthwise sweep {folder}")
    return frontier


def single(folder: Path) -> Run:
    """The one run in a folder. Raises RunError for none, or for a folder of several seeds."""
    runs = members(folder)
    if len(runs) > 1:
        raise RunError(
            f"{folder} holds the runs of {len(runs)} seeds; name one of them, for example "
            f"{runs[0].folder}."
        )
    return runs[0]


def now() -> str:
    """The time in UTC to the second, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _versions() -> Iterator[tuple[str, str]]:
    yield "python", platform.python_version()
    yield "torch", torch.__version__
    yield "widthwise", VERSION


def _no_run(folder: Path) -> str:
    if not folder.is_dir():
        return (
            f"There is no run folder {folder}; make one with: widthwise train TASK --out {folder}"
        )
    return f"{folder} is not a run folder (it has no run.json); give one that train or order wrote."


def clear(run: Run, but: tuple[Path, ...] = ()) -> None:
    """Remove what runs write, and nothing else that the user may keep there. Raises RunError."""
    try:
        for path in run.files:
            if path not in but:
                path.unlink(missing_ok=True)
    except OSError as error:
        raise RunError(
            f"{run.folder} cannot be cleared ({error.strerror or error}); make it writable, or "
            "give another --out."
        ) from error


def _difference(old: Settings, new: Settings) -> str:
    """What two settings differ in, as 'lr 0.1 rather than 0.2'; "" for nothing."""
    if old.method != new.method and ORDERED in (old.method, new.method):
        # Everything else differs as well.
        return f"method {old.method} rather than {new.method}"
    flat_old, flat_new = _flat(old), _flat(new)
    names = [n for n in {**flat_old, **flat_new} if flat_old.get(n) != flat_new.get(n)]
    said = (
        (n, *((_short(f[n]) if n == "source" else f.get(n)) for f in (flat_old, flat_new)))
        for n in names
    )
    plain = [f"{name} {a} rather than {b}" for name, a, b in said]
    known = old.parts and new.parts
    other = differences(_plain(old.parts), _plain(new.parts)) if known else []
    if len(other) > _TOLD:
        other = [*other[:_TOLD], f"{len(other) - _TOLD} more"]
    return ", ".join([*plain, *([f"another task now ({', '.join(other)})"] if other else [])])


def _short(source: str) -> str:
    return f"{source[:12]}..." if source else "none"


def _flat(settings: Settings) -> dict[str, Any]:
    tables = ("recipe", "order", "pruning", "parts", "constraints")
    own = {f.name: getattr(settings, f.name) for f in fields(Settings) if f.name not in tables}
    pruning = {f"pruning {name}": value for name, value in _plain(settings.pruning).items()}
    constraints = {f"constraint {n}": v for n, v in _plain(settings.constraints).items()}
    return own | _plain(settings.recipe) | _plain(settings.order) | pruning | constraints


def _plain(data: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON gives it back, so that what is read compares equal to what was written."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(data)))
    return plain


def _read(data: Any) -> Record:
    """A record from JSON. Raises ValueError, TypeError or KeyError for anything else."""
    settings = Settings(**data["settings"])
    levels = tuple(data.get("levels", ()))
    record = Record(**{**data, "settings": settings, "levels": levels})
    _need(record.finished is None or isinstance(record.finished, str), "a time")
    words = [settings.task, settings.method, record.command, record.started, record.metric]
    words += [settings.source, record.source]
    _need(all(isinstance(w, str) for w in (*words, *record.versions.values())), "a text")
    _need(type(settings.seed) is int, "the seed")
    tables = [settings.recipe, settings.order, settings.pruning, settings.parts]
    tables += [settings.constraints, record.draw]
    _need(all(isinstance(t, dict) for t in tables), "a table")
    constraints_of(settings)
    ordered = settings.order.keys() == {"score", "samples"}
    _need(ordered or not settings.order, "how it was ordered")
    _need(ordered or settings.method != ORDERED, "how it was ordered")
    _need(record.status in ("running", "interrupted", "finished"), "the status")
    _need(all(type(v) is float for v in record.results.values()), "a result")
    _need(all(Widths(level) is not None for level in record.levels), "a level")
    return record


def _need(condition: bool, what: str) -> None:
    if not condition:
        raise ValueError(what)
