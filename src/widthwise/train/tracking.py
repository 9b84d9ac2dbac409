"""What every epoch came to, written down by the trackers of Accelerate.

    fit(..., run=RunConfig(folder="runs/a", log="csv"))                  # runs/a/history.csv
    fit(..., run=RunConfig(folder="runs/a", log=("csv", "tensorboard")))  # and runs/a/tensorboard

A run that goes on goes on in the same files.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from widthwise.common.atomic import write_whole
from widthwise.errors import TrainingError

if TYPE_CHECKING:
    from accelerate import Accelerator


class Tracker(StrEnum):
    """Where epochs are written: a table, or events for TensorBoard."""

    CSV = "csv"
    TENSORBOARD = "tensorboard"


CSV: Final = "history.csv"
EVENTS: Final = "tensorboard"


def check_trackers(log: Sequence[Tracker], folder: Path | None) -> None:
    """Raise ValueError without a folder, and TrainingError where a package is not installed."""
    if log and folder is None:
        raise ValueError("log is written into the folder of a run; give folder, too.")
    if Tracker.TENSORBOARD in log:
        from accelerate.utils import is_tensorboard_available  # here, as in `accelerator_for`

        if not is_tensorboard_available():
            raise TrainingError(
                "Logs for TensorBoard need a package that is not installed; install it with: "
                "pip install 'widthwise[log]'"
            )


def trackers(log: Sequence[Tracker], folder: Path | None) -> dict[str, Any]:
    """What an Accelerator is made with for these trackers."""
    if not log or folder is None:
        return {}
    from accelerate.utils import ProjectConfiguration

    each = [_table(folder / CSV) if name is Tracker.CSV else name.value for name in log]
    # Accelerate puts events in a folder of the project's name.
    place = ProjectConfiguration(project_dir=str(folder), logging_dir=str(folder))
    return {"log_with": each, "project_config": place}


def named(log: str | Sequence[str]) -> tuple[Tracker, ...]:
    """The trackers of these names, each once. Raises ValueError for others."""
    names = [log] if isinstance(log, str) else log
    try:
        return tuple(dict.fromkeys(map(Tracker, names)))
    except ValueError as error:
        raise ValueError(f"log is {log!r}; give 'csv', 'tensorboard' or both.") from error


@contextmanager
def tracked(accelerator: Accelerator, log: Sequence[Tracker]) -> Iterator[None]:
    """Inside, `accelerator.log` writes."""
    if not log:
        yield
        return
    accelerator.init_trackers(EVENTS)
    try:
        yield
    finally:
        # Not end_training, which also ends the processes' group.
        for tracker in accelerator.trackers:
            tracker.finish()


def _table(path: Path) -> Any:
    """A tracker that writes a table: a row for each epoch, a column for each value."""
    from accelerate.tracking import GeneralTracker

    class Table(GeneralTracker):  # type: ignore[misc]  # here, for its base is Accelerate's
        name = "csv"
        requires_logging_directory = False

        @property
        def tracker(self) -> Path:
            return path

        def log(self, values: dict[str, Any], step: int | None = None, **more: Any) -> None:
            write_row(path, {"epoch": step or 0, **values})

    return Table()


def write_row(path: Path, row: dict[str, Any]) -> None:
    """Put a row into a CSV file in the place of the rows of its epoch and of later ones.

    Rows with other columns are of another training, and left out. Raises FileError.
    """
    rows: list[dict[str, Any]] = []
    if path.exists():
        with path.open(newline="") as file:
            rows = [old for old in csv.DictReader(file) if old.keys() == row.keys()]
    kept = [old for old in rows if int(old["epoch"]) < row["epoch"]]
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, [*row], lineterminator="\n")
    table.writeheader()
    table.writerows([*kept, row])
    write_whole(path, [text.getvalue().encode()])
