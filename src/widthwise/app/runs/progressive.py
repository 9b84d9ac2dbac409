"""A run's frontier as one progressive file: its best networks, each inside the next.

points = export_progressive(open_run(run), Path("net.safetensors"), most=8)
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from widthwise.app.runs.measuring import evaluation, same, statistics_batches
from widthwise.app.runs.opening import Opened
from widthwise.app.runs.storing import writable
from widthwise.app.tasks.noted import without_folder
from widthwise.errors import FileError
from widthwise.measure.frontier import Frontier, Point
from widthwise.store.manifest import Measured
from widthwise.store.progressive.reader import Progressive
from widthwise.store.progressive.writer import save_progressive


def nested(points: Sequence[Point], most: int) -> list[Point]:
    """Points that lie inside each other, narrow to wide; at most so many, the widest among them.

    points: from few bytes to many. From the last one down, what does not lie inside the one before
    is left out; of too many, those in even steps stay.
    """
    kept = list(points[-1:])
    for point in reversed(points[:-1]):
        above = kept[-1].widths
        if point.widths != above and all(point.widths[a] <= above[a] for a in above):
            kept.append(point)
    kept.reverse()
    if len(kept) > most:
        last = len(kept) - 1
        kept = [kept[last - round(i * last / max(1, most - 1))] for i in reversed(range(most))]
    return kept


def export_progressive(
    opened: Opened, out: Path, most: int, bits: int | None = None
) -> tuple[Point, ...]:
    """Write the best points of a run's frontier that nest as one file, and read it back.

    Statistics of batch norms are re-estimated for each, as `cut` does. bits: of a weight, None
    as it is; the metrics in the file are measured on the quantized networks. A frontier of
    reconstructed cuts gives its widths but not its fit: each network has a fit of its own, and
    fitted networks do not lie inside each other. Returns the points, narrow to wide. Raises
    FileError, DataError.
    """
    writable(out)
    frontier = Frontier.load(opened.run.frontier)
    points = nested(frontier.best(), most)
    task, data = opened.task, opened.task.splits()
    batches = statistics_batches(task, data)
    modules = [_cut(opened, point, batches) for point in points]
    measure = evaluation(task, data, frontier.split)
    temporary = out.with_name(f".{secrets.token_hex(6)}.{out.name}")
    levels = [point.widths for point in points]
    made_by = without_folder(task.reference)

    def noted(module: nn.Module) -> Measured:
        return Measured(frontier.metric, measure(module), frontier.split)

    def stored(metrics: Sequence[Measured] | None) -> list[Measured]:
        """What is measured of the networks in a file that is written with such metrics."""
        save_progressive(
            opened.net, temporary, levels, metrics=metrics, modules=modules, bits=bits, task=made_by
        )
        with Progressive.open(temporary) as file:
            return [noted(file.load(task.model, level=level)) for level in range(len(levels))]

    try:
        # What is quantized is measured from a first file, for it is no longer what was cut.
        metrics = [noted(module) for module in modules] if bits is None else stored(None)
        for said, found in zip(metrics, stored(metrics), strict=True):
            if not same(found.value, said.value):
                raise FileError(
                    f"The network read back from {out.name} has {said.name} {found.value:.6g} and "
                    f"not {said.value:.6g}; its model's class may keep state that is no "
                    "parameter or buffer."
                )
        temporary.replace(out)
    except OSError as error:
        raise FileError(f"{out} could not be written ({error.strerror}); give another.") from error
    finally:
        temporary.unlink(missing_ok=True)
    return tuple(points)


def _cut(opened: Opened, point: Point, batches: list[Any]) -> nn.Module:
    return opened.net.cut(point.widths, recalibrate=batches)
