"""The demo: train once on small digits, cut three sizes, and check every number that is shown.

Each cut is stored as safetensors and as ONNX; both files are read back and measured on the test
images. A number that differs from the one first measured ends the demo with an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import torch

from widthwise.app.report.picks import Pick
from widthwise.app.runs import cuts, exports, measuring, opening, sweeps, training
from widthwise.app.runs.folder import hold
from widthwise.app.runs.postprocessing import PostProcess
from widthwise.app.runs.record import Settings
from widthwise.app.tasks.resolve import resolve
from widthwise.errors import FileError
from widthwise.measure.frontier import Frontier
from widthwise.store.file import load

TASK: Final = "digits"
SIZES: Final = (("large", 1.0), ("medium", 0.25), ("tiny", 0.1))  # name, share of the full bytes


@dataclass(frozen=True)
class Cut:
    """One size of the demo. budget: bytes. onnx: metric of the ONNX file on the test images."""

    budget: int
    pick: Pick
    onnx_bytes: int
    onnx: float


@dataclass(frozen=True)
class Demo:
    """What the demo made."""

    frontier: Frontier
    opened: opening.Opened
    cuts: tuple[Cut, ...]


def run(
    folder: Path,
    *,
    command: str,
    progress: bool,
    epochs: int | None = None,
    overwrite: bool = False,
) -> Demo:
    """Run the demo in `folder`; what it finds trained there it does not train again.

    Raises FileError when a file that is read back does not give what was reported.
    """
    recipe = asdict(resolve(TASK).recipe)
    settings = Settings(TASK, "default", 0, recipe | ({} if epochs is None else {"epochs": epochs}))
    with hold(folder), _one_thread():
        found, _ = training.train(
            settings, folder, command=command, overwrite=overwrite, progress=progress
        )
        opened = opening.open_run(found)
        frontier = sweeps.sweep_run(opened, progress=progress)
        full = max(p.bytes for p in frontier.points)
        cuts = tuple(_cut(opened, frontier, name, round(share * full)) for name, share in SIZES)
    return Demo(frontier, opened, cuts)


def _cut(opened: opening.Opened, frontier: Frontier, name: str, budget: int) -> Cut:
    folder, task = opened.run.folder, opened.task
    point = frontier.pick(max_bytes=budget)
    stored, exported = folder / f"{name}.safetensors", folder / f"{name}.onnx"
    (pick,) = cuts.cut(opened, [point.widths], [stored])
    exports.export(load(stored, build=task.model), task, exported, "onnx")
    served = exports.onnx_metric(exported, task, task.splits())
    _agree(stored.name, "bytes", pick.bytes, point.bytes)
    if (
        PostProcess.DISTILL not in pick.post_process
    ):  # with which it is better than what was measured
        _agree(stored.name, f"valid {frontier.metric}", pick.valid, point.metric)
    _agree(exported.name, f"test {frontier.metric}", served, pick.test)
    return Cut(budget, pick, exported.stat().st_size, served)


def _agree(file: str, what: str, found: float | None, reported: float | None) -> None:
    if found is None or reported is None or not measuring.same(found, reported):
        raise FileError(
            f"{file} has {what} {found} and not {reported} as was reported; this is a mistake in "
            "widthwise, please report it."
        )


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread: for matrices this small, several would mostly wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
