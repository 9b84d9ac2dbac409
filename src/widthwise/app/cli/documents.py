"""What --json prints: the same things under the same names, whatever the command.

A file or folder is a path, a metric its name, a result the value on a split, a size a number of
bytes. docs/tour.md lists all names.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from widthwise.app.report.picks import Pick
from widthwise.app.runs.folder import Run
from widthwise.app.runs.record import State
from widthwise.measure.frontier import Frontier, Point


def of_run(run: Run, state: State) -> dict[str, Any]:
    """A finished run. state: how the command found it."""
    record = run.record()
    return {
        "run": run.folder,
        "state": state,
        "method": record.settings.method,
        "seed": record.settings.seed,
        "metric": record.metric,
        "results": record.results,
        "extra_metrics": record.extra_metrics,
        "history": [
            {
                "epoch": number,
                "loss": epoch["loss"],
                "results": {} if epoch["metric"] is None else {"valid": epoch["metric"]},
                "seconds": epoch["seconds"],
            }
            for number, epoch in enumerate(record.history, 1)
        ],
    }


def of_pick(file: Path, pick: Pick, metric: str) -> dict[str, Any]:
    """A network that was stored, read back and measured."""
    return {
        "file": file,
        "bytes": pick.bytes,
        "widths": pick.widths,
        "metric": metric,
        "results": _results(valid=pick.valid, test=pick.test),
        "post_process": pick.post_process,
    }


def of_point(frontier: Frontier, point: Point) -> dict[str, Any]:
    """A width that was measured."""
    found = asdict(point) | {"widths": point.widths, "metric": frontier.metric}
    return found | {
        "results": _results(**{frontier.split: point.metric}),
        "post_process": frontier.post_process,
    }


def _results(**values: float | None) -> Mapping[str, float]:
    return {split: value for split, value in values.items() if value is not None}
