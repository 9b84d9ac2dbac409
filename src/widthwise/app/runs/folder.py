"""A run folder: what one training (or one ordering of trained weights) made, and what made it.

    runs/x/
        run.json                  settings, command, versions, and how far the run came
        checkpoint.safetensors    written while training; the same command continues from it
        model.safetensors         the trained weights at full size
        scores.safetensors        of an ordered run: its features' scores, in their order
        frontier.json             every measured width
        frontier.png  report.html
        history.csv  tensorboard/ what every epoch came to, where `train --log` asked for it
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

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from widthwise.app.runs.record import Record, Settings, State, difference, longer, read_record
from widthwise.common.atomic import left_over, tidy, write_whole
from widthwise.common.jsonfile import contents, sealed, unsealed
from widthwise.common.lock import held, is_lock
from widthwise.errors import RunError
from widthwise.measure.frontier import Frontier
from widthwise.train.tracking import CSV, EVENTS

_LOCK: Final = ".lock"


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
    def table(self) -> Path:
        """What every epoch came to, where that was asked for."""
        return self.folder / CSV

    @property
    def events(self) -> Path:
        """The same for TensorBoard: a folder."""
        return self.folder / EVENTS

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
            self.table,
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
            return read_record(unsealed(text))
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
        if made and all(is_lock(p.name) for p in folder.iterdir()):
            for lock in folder.iterdir():
                lock.unlink()
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
        names = [p.name for p in folder.iterdir()]
        strangers = [name for name in names if not (is_lock(name) or left_over(name))]
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
    if finished and run.checkpoint.exists() and longer(old.settings, settings):
        return run, "longer"
    wrong = difference(old.settings, settings)
    if wrong:
        raise RunError(
            f"{folder} holds a run with {wrong}; give another --out, or --overwrite to replace "
            "that run."
        )
    return run, "finished" if finished else "continued"


def begin(run: Run, state: State, record: Record) -> Record:
    """Start or continue a claimed run: clear what a run before it left, and write run.json.

    Returns the record as it was written: a continued run keeps the time it was first started.
    """
    if state == "new":
        clear(run)
    else:
        record = replace(record, started=run.record().started)
        if state == "longer":
            clear(run, but=(run.record_file, run.checkpoint, run.scores, run.table))
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
        if run.events.is_dir() and run.record_file not in but:
            shutil.rmtree(run.events)
    except OSError as error:
        raise RunError(
            f"{run.folder} cannot be cleared ({error.strerror or error}); make it writable, or "
            "give another --out."
        ) from error
