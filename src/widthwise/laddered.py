"""A run's frontier as one progressive file: its best networks, each inside the next.

points = export_progressive(open_run(run), Path("net.safetensors"), most=8)
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from widthwise.errors import FileError, RunError
from widthwise.measure.frontier import Frontier, Point
from widthwise.measure.recalibrate import has_statistics, recalibrate
from widthwise.steps import Opened, evaluation, same, statistics_batches, writable
from widthwise.store.manifest import Measured
from widthwise.store.progressive import Progressive
from widthwise.store.save_progressive import save_progressive


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


def export_progressive(opened: Opened, out: Path, most: int) -> tuple[Point, ...]:
    """Write the best points of a run's frontier that nest as one file, and read it back.

    Statistics of batch norms are estimated anew for each, as `cut` does. Returns the points, narrow
    to wide. Raises FileError, DataError, and RunError where the points were compensated: each was
    fitted by itself then, and none is inside another.
    """
    writable(out)
    frontier = Frontier.load(opened.run.frontier)
    if frontier.touch_up:
        raise RunError(
            f"The frontier of {opened.run.folder} has cuts that were fitted by themselves, so that "
            "none lies inside another; sweep it again with --no-compensate."
        )
    points = nested(frontier.best(), most)
    task, data = opened.task, opened.task.splits()
    batches = statistics_batches(task, data)
    modules = [_cut(opened, point, batches) for point in points]
    measure = evaluation(task, data, frontier.split)
    metrics = [Measured(frontier.metric, measure(module), frontier.split) for module in modules]
    beside = out.with_name(f".{secrets.token_hex(6)}.{out.name}")
    try:
        ladder = [point.widths for point in points]
        save_progressive(opened.net, beside, ladder, metrics=metrics, modules=modules)
        with Progressive.open(beside) as file:
            for rung, noted in enumerate(metrics):
                value = measure(file.load(task.model, rung=rung))
                if not same(value, noted.value):
                    raise FileError(
                        f"The network read back from {out.name} has {noted.name} {value:.6g} and "
                        f"not {noted.value:.6g}; its model's class may keep state that is no "
                        "parameter or buffer."
                    )
        beside.replace(out)
    except OSError as error:
        raise FileError(f"{out} could not be written ({error.strerror}); give another.") from error
    finally:
        beside.unlink(missing_ok=True)
    return tuple(points)


def _cut(opened: Opened, point: Point, batches: list[Any]) -> nn.Module:
    module = opened.net.cut(point.widths)
    return recalibrate(module, batches) if has_statistics(module) else module
