"""Where the units of a comparison run: processes of this machine, or a Ray cluster.

    with Local(workers=2) as engine:
        for key, result in engine.run(square, {"a": (1,), "b": (2,)}):   # square(1), square(2)
            ...

Both run a unit again when its worker was lost, and yield a result as soon as it is there. An error
that the function raises is raised here, after the workers were stopped.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.context import BaseContext
from typing import Any, Final, TypeVar

from widthwise.common.messages import lacking
from widthwise.errors import RunError

K = TypeVar("K", bound=Hashable)
_LOST: Final = 3  # workers in a row, before anything is done again, until we give up


class Engine(ABC):
    """Runs functions of data elsewhere. An interface; a context manager."""

    @abstractmethod
    def run(
        self, function: Callable[..., Any], tasks: Mapping[K, tuple[Any, ...]]
    ) -> Iterator[tuple[K, Any]]:
        """(key, function(*arguments)) of every task, in the order in which they are done.

        function: importable, as the workers import it. Raises what it raises, and RunError when
        workers are lost again and again.
        """

    def __enter__(self) -> Engine:
        return self

    @abstractmethod
    def __exit__(self, *error: object) -> None:
        """Let go of what it holds."""


class Local(Engine):
    """Processes of this machine. workers: how many, as many as there are cores by default."""

    def __init__(self, workers: int | None = None) -> None:
        self.workers = workers or os.cpu_count() or 1

    def run(
        self, function: Callable[..., Any], tasks: Mapping[K, tuple[Any, ...]]
    ) -> Iterator[tuple[K, Any]]:
        """See `Engine.run`."""
        left = dict(tasks)
        lost = 0
        while left:
            done = len(left)
            try:
                for key, result in self._in_pool(function, left):
                    del left[key]
                    yield key, result
            except BrokenProcessPool:
                # One lost worker takes the pool with it, and all that was under way.
                lost = lost + 1 if len(left) == done else 0
                if lost == _LOST:
                    raise RunError(
                        f"{_LOST} worker processes in a row were killed while {next(iter(left))} "
                        "was to be measured; is there too little memory? Try fewer --workers."
                    ) from None

    def __exit__(self, *error: object) -> None:
        """Nothing: every pool ends with its tasks."""

    def _in_pool(
        self, function: Callable[..., Any], tasks: Mapping[K, tuple[Any, ...]]
    ) -> Iterator[tuple[K, Any]]:
        count = min(self.workers, len(tasks))
        with ProcessPoolExecutor(count, mp_context=_context(), initializer=_apart) as pool:
            with _unheard():  # the processes are started by the first task
                futures = {pool.submit(function, *args): key for key, args in tasks.items()}
            try:
                yield from _as_done(futures)
            except BaseException:  # an interrupt among them, and a consumer that wants no more
                _stop(pool)
                raise


def _context() -> BaseContext:
    """How workers are started: not as forks of this process, which may hang as it has threads.

    On Linux they are forks of a server that has imported what they run and has no threads, so that
    every worker but the first starts at once. Elsewhere, forks of what torch imports are not safe.
    """
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["widthwise.app.compare.cells"])
    return context


def _as_done(futures: Mapping[Future[Any], K]) -> Iterator[tuple[K, Any]]:
    waiting: set[Future[Any]] = {*futures}
    while waiting:
        finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
        # Results first: where a worker was lost, those that were done before are not.
        for future in sorted(finished, key=lambda f: f.exception() is not None):
            yield futures[future], future.result()


@contextmanager
def _unheard() -> Iterator[None]:
    """Ctrl-C is ignored inside, and by processes that are started inside while they import."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are not for other threads to handle
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def _apart() -> None:
    """Out of the reach of Ctrl-C, which only the process that was started by hand handles.

    A worker ends with that process, however it ends: it would hold what it works on, for good.
    """
    if hasattr(os, "setpgrp"):  # not on Windows
        os.setpgrp()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _stop(pool: ProcessPoolExecutor) -> None:
    """At once: what is under way is not waited for."""
    for process in list((pool._processes or {}).values()):
        process.terminate()
    pool.shutdown(wait=True, cancel_futures=True)


class Ray(Engine):
    """A Ray cluster. address: "auto", "ray://host:10001", ...; None starts one on this machine.

    Every machine needs widthwise and the task's data. workers: cores to use of this machine where
    the cluster is started here. Raises RunError where ray is not installed or cannot be reached.
    """

    def __init__(self, address: str | None = None, workers: int | None = None) -> None:
        try:
            import ray
        except ModuleNotFoundError as error:
            raise RunError(lacking("ray", "The Ray engine")) from error
        self.ray = ray
        try:
            ray.init(
                address=address,
                num_cpus=workers if address is None else None,
                log_to_driver=False,
                include_dashboard=False if address is None else None,
                configure_logging=False,
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise RunError(
                f"There is no Ray cluster at {address} ({error}); start one with: ray start --head"
            ) from error

    def run(
        self, function: Callable[..., Any], tasks: Mapping[K, tuple[Any, ...]]
    ) -> Iterator[tuple[K, Any]]:
        """See `Engine.run`."""
        ray = self.ray
        remote = ray.remote(num_cpus=1, max_retries=_LOST)(function)
        futures = {remote.remote(*args): key for key, args in tasks.items()}
        waiting = list(futures)
        try:
            while waiting:
                (future, *_), waiting = ray.wait(waiting)
                yield futures[future], self._result(future, futures[future])
        finally:
            for future in waiting:
                ray.cancel(future, force=True)

    def _result(self, future: Any, key: Hashable) -> Any:
        try:
            return self.ray.get(future)
        except self.ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except self.ray.exceptions.RayError as error:
            raise RunError(
                f"Workers were lost again and again while {key} was to be measured; is there too "
                "little memory? Try fewer --workers."
            ) from error

    def __exit__(self, *error: object) -> None:
        self.ray.shutdown()
