"""One hostile file given to a loader: what came of it, in what time and memory.

    judged(loader, path, data, expected)      # "refused" or "loaded"; raises WrongError

What may come of it is one sentence (an error that widthwise raises on purpose) or the network that
was written. Anything else is wrong, and so are more than a second or 200 MB.
"""

from __future__ import annotations

import resource
import signal
import time
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from hostile_loaders import NAMES, Loader
from widthwise.errors import WidthwiseError

SECONDS = 1.0
MEMORY = 200 * 10**6  # bytes above what the process had
LONGEST = 2_100  # characters of a message
_ALARM = 30.0  # seconds by the clock, on a machine that may be busy
_LIMIT = 3 * 2**30  # of address space above that of the start: more is an error at once


class WrongError(Exception):
    """A file that got something else than an error in one sentence or an exact load."""


class _HangError(BaseException):
    """Raised by an alarm; no reader catches it."""


@dataclass(frozen=True)
class Verdict:
    """outcome: "refused" or "loaded". seconds: of the processor. memory: bytes above the start."""

    outcome: str
    seconds: float
    memory: int


class Guard:
    """Judges files, one after another, in this process."""

    def __init__(self, folder: Path, seconds: float = SECONDS) -> None:
        """seconds: of the processor, that a file may take."""
        self.folder, self.seconds = folder, seconds
        self.start = _memory()

    def expected(self, name: str, loader: Loader, data: bytes) -> object:
        """What a valid file holds."""
        return loader.load(self._written(name, data))

    def judged(self, name: str, loader: Loader, data: bytes, expected: object = None) -> Verdict:
        """What came of a file. expected: what must have been loaded, None for anything.

        Raises WrongError, with what was wrong.
        """
        path = self._written(name, data)
        _forget_peak()
        began = time.process_time()
        outcome, found = "loaded", None
        try:
            with _alarm(_ALARM), warnings.catch_warnings():
                warnings.simplefilter("error")
                found = loader.load(path)
        except WidthwiseError as error:
            outcome = "refused"
            _one_sentence(error)
        except _HangError:
            raise WrongError("hangs") from None
        except Exception as error:
            raise WrongError(f"{type(error).__name__}: {str(error)[:300]}") from error
        seconds, memory = time.process_time() - began, _peak() - self.start
        if outcome == "loaded" and expected is not None and found != expected:
            raise WrongError("another network, without a word")
        if seconds > self.seconds:
            raise WrongError(f"takes {seconds:.2f} s")
        if memory > MEMORY:
            raise WrongError(f"takes {memory / 1e6:.0f} MB")
        self._clean(path)
        return Verdict(outcome, seconds, memory)

    def _written(self, name: str, data: bytes) -> Path:
        path = self.folder / NAMES.get(name, "file")
        path.write_bytes(data)
        return path

    def _clean(self, path: Path) -> None:
        """Nothing but the file itself may have come into being."""
        strangers = [p for p in self.folder.iterdir() if p != path]
        if any(p.suffix != ".lock" for p in strangers):
            raise WrongError(f"wrote {strangers[0].name!r}")


def limit_memory() -> None:
    """Let what asks for gigabytes fail here, rather than the machine."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size + _LIMIT, hard))


def _one_sentence(error: WidthwiseError) -> None:
    text = str(error)
    odd = not text.isprintable() or not 10 < len(text) <= LONGEST
    if odd or "Traceback" in text or " object at 0x" in text:
        raise WrongError(f"no sentence: {text[:300]!a}")


@contextmanager
def _alarm(seconds: float) -> Any:
    def ring(number: int, frame: FrameType | None) -> None:
        raise _HangError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    return _status("VmHWM")


def _memory() -> int:
    return _status("VmRSS")


def _status(name: str) -> int:
    text = Path("/proc/self/status").read_text()
    return int(text.split(f"{name}:")[1].split()[0]) * 1024
