"""A command in a process of its own, and faults that strike inside it.

    child = start(words, folder, Inside("kill", 7), said=Path("err.txt"), tally=Path("steps"))
    code = child.wait(60)

The process is a fork of one that has imported everything, so that it is there at once; it is a real
process to signals, limits and the file system. A *moment* is a point where files change: one is
opened for writing, synced, renamed, or removed, a folder is made, or a rename was done.
"""

from __future__ import annotations

import datetime
import errno
import os
import resource
import signal
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NoReturn

import psutil

Strike = Literal["none", "kill", "no space", "interrupt", "file size", "torn", "memory", "clock"]
_YEARS: Final = 10 * 365.25 * 86400
_WRITING: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_DIRECTORY
_CHANGES: Final = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")


@dataclass(frozen=True)
class Inside:
    """A fault inside the process.

    kill, no space, interrupt: at moment number `at`, from 1. file size: no file gets larger than
    `at` bytes, as on a full disk. torn: killed as a file would. memory: `at` more bytes at most.
    clock: `at` years forward, or back, from the first moment on.
    """

    strike: Strike = "none"
    at: int = 0


class Child:
    """A command under way."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.code: int | None = None

    def wait(self, seconds: float) -> int | None:
        """Its exit code, minus the signal that ended it; None while it runs."""
        end = time.monotonic() + seconds
        while self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > end:
                break
            else:
                time.sleep(0.005)
        return self.code

    def send(self, number: int) -> None:
        """A signal to it."""
        if self.wait(0) is None:
            os.kill(self.pid, number)

    def below(self) -> list[psutil.Process]:
        """The processes that it started, and theirs."""
        if self.wait(0) is not None:
            return []
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self.pid).children(recursive=True)
        return []


def start(words: tuple[str, ...], folder: Path, inside: Inside, said: Path, tally: Path) -> Child:
    """Run `widthwise words` in a folder.

    said: a file for what it says. tally: one for a dot for each step of an optimizer; in one beside
    it, for each moment, and in another the bytes that it grew by.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if not pid:
        _child(words, folder, inside, said, tally)
    return Child(pid)


def _child(
    words: tuple[str, ...], folder: Path, inside: Inside, said: Path, tally: Path
) -> NoReturn:
    code = 99
    try:
        os.setpgrp()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        out = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.chdir(folder)
        _count_steps(tally)
        _Moments(inside, tally.with_suffix(".moments")).watch(Path.cwd())
        has = _memory()
        _limit(inside, has)
        code = _run(words)
        tally.with_suffix(".memory").write_text(str(_peak() - has))
    except BaseException:  # noqa: BLE001  nothing of it may reach what called `start`
        traceback.print_exc()
    finally:
        with suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _run(words: tuple[str, ...]) -> int:
    from widthwise.app.cli.main import app

    try:
        app(list(words), prog_name="widthwise")
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    return 0


def _count_steps(tally: Path) -> None:
    from torch.optim.optimizer import register_optimizer_step_post_hook

    file = os.open(tally, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def done(*_: Any) -> None:
        os.write(file, b".")

    register_optimizer_step_post_hook(done)


def _memory() -> int:
    """Bytes of address space."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def _peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmPeak"))


def _limit(inside: Inside, has: int) -> None:
    if inside.strike in ("file size", "torn"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (inside.at, inside.at))
        # Python ignores the signal, so that a write fails; otherwise it kills.
        handler = signal.SIG_IGN if inside.strike == "file size" else signal.SIG_DFL
        signal.signal(signal.SIGXFSZ, handler)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    elif inside.strike == "memory":
        resource.setrlimit(resource.RLIMIT_AS, (has + inside.at, has + inside.at))


class _Moments:
    """Counts the moments in a folder, and strikes at one."""

    def __init__(self, inside: Inside, log: Path) -> None:
        self.inside = inside
        self.number = 0
        self.log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def watch(self, folder: Path) -> None:
        """From now on."""
        self.folder = str(folder)
        fsync = os.fsync

        def synced(handle: Any) -> None:
            self._moment()
            fsync(handle)

        os.fsync = synced
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        writing = event == "open" and (arguments[2] or 0) & _WRITING
        if (writing or event in _CHANGES) and self._inside(arguments[0]):
            self._moment()

    def _inside(self, place: Any) -> bool:
        if not isinstance(place, str | bytes | os.PathLike):
            return False
        path = os.fsdecode(place)
        return not path.startswith("/") or path.startswith(self.folder)

    def _moment(self) -> None:
        self.number += 1
        os.write(self.log, b".")
        strike, at = self.inside.strike, self.inside.at
        if strike == "clock" and self.number == 1:
            _shift_clock(at * _YEARS / 10)
        if self.number != at:
            return
        if strike == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif strike == "interrupt":
            signal.raise_signal(signal.SIGINT)
        elif strike == "no space":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _shift_clock(seconds: float) -> None:
    """What Python says of the time; monotonic clocks know of no change."""
    from widthwise.app.runs import record

    now, nanoseconds = time.time, time.time_ns
    time.time = lambda: now() + seconds
    time.time_ns = lambda: nanoseconds() + int(seconds * 1e9)

    class Shifted(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Any:
            return datetime.datetime.fromtimestamp(time.time(), tz)

    record.datetime = Shifted
