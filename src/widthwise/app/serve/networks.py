"""Networks of chosen sizes, made when they are asked for: a few in memory, a few as files.

One thing is computed at a time: the machine is not made faster by more, and torch's tracing does
not like company. Who waits is counted, and too many are sent away.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from threading import BoundedSemaphore, Lock
from typing import Final, Generic, Literal, TypeVar

from torch import nn

from widthwise.app.report.text import milliseconds
from widthwise.app.runs import cuts, exports, opening, storing
from widthwise.app.serve.examples import Gallery
from widthwise.app.serve.runs_view import Known, Shown, pick_file
from widthwise.common.units import format_size
from widthwise.errors import RunError
from widthwise.measure.cost import latency_ms, one_example, runtime
from widthwise.store.file import load
from widthwise.task import Splits

V = TypeVar("V")
Form = Literal["safetensors", "onnx"]
RUNS: Final = 2  # opened at once
NETWORKS: Final = 64
FILES: Final = 64
ROOM: Final = 10**9  # bytes, of the networks in memory and of the files each
WAITING: Final = 12
PATIENCE: Final = 60.0  # seconds that a request waits for those before it


class BusyError(RunError):
    """Too many requests wait for the network."""


class GoneError(RunError):
    """There is no such network in the run, or no longer."""


class Recent(Generic[V]):
    """The values made last: at most so many, and the last one besides others within ROOM bytes.

    size: of a value, in bytes. drop: called on each that has to go.
    """

    def __init__(
        self,
        most: int,
        size: Callable[[V], int] = lambda value: 0,
        drop: Callable[[V], None] = lambda value: None,
    ) -> None:
        self.most, self.size, self.drop = most, size, drop
        self.kept: OrderedDict[object, V] = OrderedDict()

    def get(self, key: object, make: Callable[[], V]) -> V:
        """The value of a key, made when there is none."""
        if key not in self.kept:
            self.kept[key] = make()
            while len(self.kept) > 1 and self._full():
                self.drop(self.kept.popitem(last=False)[1])
        self.kept.move_to_end(key)
        return self.kept[key]

    def _full(self) -> bool:
        return len(self.kept) > self.most or sum(map(self.size, self.kept.values())) > ROOM


class RunWithData:
    """An opened run with its data."""

    def __init__(self, opened: opening.Opened) -> None:
        self.opened = opened
        self.data: Splits = opened.task.splits()

    @cached_property
    def gallery(self) -> Gallery:
        """Its test split."""
        return Gallery(self.opened.task, self.data.test)


@dataclass(frozen=True)
class RunnableNetwork:
    """A network that can be run.

    latency: milliseconds for one example here. runtime: what ran it. bytes: of its tensors.
    """

    module: nn.Module
    latency: str
    runtime: str
    bytes: int


@dataclass(frozen=True)
class Download:
    """A file to download. name: what it is called there. sha256: of its content."""

    path: Path
    name: str
    sha256: str

    @property
    def bytes(self) -> int:
        """The size of the file."""
        return self.path.stat().st_size


class Networks:
    """The networks of all runs that are served. folder: for files, removed by whoever made it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._turn, self._places = Lock(), BoundedSemaphore(WAITING)
        self._benches: Recent[RunWithData] = Recent(RUNS)
        self._made: Recent[RunnableNetwork] = Recent(NETWORKS, lambda made: made.bytes)
        self._files: Recent[Download] = Recent(
            FILES, lambda file: file.bytes, lambda old: old.path.unlink(missing_ok=True)
        )

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Everything below is called inside, one request at a time. Raises BusyError."""
        if not self._places.acquire(blocking=False):
            raise BusyError("Too many requests are waiting; try again in a moment.")
        try:
            if not self._turn.acquire(timeout=PATIENCE):
                raise BusyError("Those before this request took too long; try again in a moment.")
            try:
                yield
            finally:
                self._turn.release()
        finally:
            self._places.release()

    def bench(self, shown: Shown) -> RunWithData:
        """The opened run. Raises RunError, FileError, TaskError, DataError."""
        return self._benches.get(shown.stamp, lambda: RunWithData(opening.open_run(shown.run)))

    def network(self, shown: Shown, choice: str) -> RunnableNetwork:
        """A network of a run, as `widthwise cut` makes it. Raises GoneError, WidthwiseError."""
        found = known(shown, choice)
        return self._made.get((shown.stamp, choice), lambda: self._network(shown, found))

    def file(self, shown: Shown, choice: str, form: Form) -> Download:
        """Its file, which has been read back and measured. Raises GoneError, WidthwiseError."""
        found = known(shown, choice)
        key = (shown.stamp, choice, form)
        return self._files.get(key, lambda: self._file(shown, choice, found, form))

    def lent(self, shown: Shown, choice: str, form: Form) -> Download:
        """The same under a name of its own, which stays until whoever asked removes it."""
        found = self.file(shown, choice, form)
        path = self._folder / f"{secrets.token_hex(8)}.{form}"
        os.link(found.path, path)
        return replace(found, path=path)

    def _network(self, shown: Shown, found: Known) -> RunnableNetwork:
        bench = self.bench(shown)
        task = bench.opened.task
        module = _module(shown, bench, found).eval()
        took = latency_ms(module, *one_example(task.example()), seconds=0.05)
        held = sum(t.nbytes for t in module.state_dict().values())
        return RunnableNetwork(module, f"{milliseconds(took)} ms", runtime(module), held)

    def _file(self, shown: Shown, choice: str, found: Known, form: Form) -> Download:
        bench = self.bench(shown)
        path = self._folder / f"{secrets.token_hex(8)}.{form}"
        source = found.pick and pick_file(shown.folder, found.pick)
        if form == "onnx":
            safe = source or self.file(shown, choice, "safetensors").path
            task = bench.opened.task
            exports.export(load(safe, build=task.model), task, path, "onnx")
        elif source:
            path.write_bytes(source.read_bytes())
        else:
            opened, kept = bench.opened, bench.opened.net.complete(found.point.widths)
            module = _module(shown, bench, found)
            storing.store_checked(
                opened.net, kept, module, path, opened.task, bench.data, opened.pack
            )
        with path.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        return Download(path, file_name(shown, path.stat().st_size, form), digest)


def file_name(shown: Shown, size: int, form: Form) -> str:
    """What a downloaded file is called: task and its own size, 'digits-8.40kB.safetensors'."""
    task = re.sub(r"[^A-Za-z0-9]+", "-", shown.task.rpartition("/")[2]).strip("-") or "network"
    return f"{task}-{format_size(size).replace(' ', '')}.{form}"


def _module(shown: Shown, bench: RunWithData, found: Known) -> nn.Module:
    opened = bench.opened
    if found.pick is not None:
        path = pick_file(shown.folder, found.pick)
        if path is None:
            raise GoneError(f"The file of {found.pick.name} is gone; choose another network.")
        return load(path, build=opened.task.model)
    kept = opened.net.complete(found.point.widths)
    how = cuts.usual_post_processing(
        opened, kept
    )  # and no distillation: somebody waits for the page
    return cuts.make(opened, [kept], bench.data, [how])[0].module


def known(shown: Shown, choice: str) -> Known:
    """A network of a run by its id. Raises GoneError."""
    if choice not in shown.known:
        raise GoneError("The run holds no such network, or no longer; load the page again.")
    return shown.known[choice]
