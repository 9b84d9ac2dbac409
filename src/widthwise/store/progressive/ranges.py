"""Ranges of bytes from a file, or from any web server, and no more than are needed.

    source = opened("https://example.org/net.safetensors")     # or a path
    source.read(0, 2048)          # fewer only where it ends
    source.close()

From a server each range is one request (RFC 9110, section 14). One that knows no ranges sends
everything, of which only what is needed is read: its answer is kept open until it is closed, so
that reading on does not begin again. What was interrupted is continued where it stopped. That the
file is still the same is asked for (If-Range) and checked. A server that sends hardly anything is
given up (connecting.py, SLOWEST).
"""

from __future__ import annotations

import http.client
import os
import re
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Final
from urllib import request
from urllib.error import HTTPError, URLError

from widthwise.common import web
from widthwise.common.jsonfile import ordinary
from widthwise.errors import FileError

SLOWEST: Final = 1000  # bytes a second, once connecting.TIMEOUT has gone by
TRIES: Final = 4  # in a row that bring nothing
PAUSE = 0.25  # seconds before the second try; twice as long before each further one

_CHUNK: Final = 1024**2
_RANGE: Final = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", re.ASCII)
_INTERRUPTED: Final = (URLError, OSError, http.client.HTTPException)


class ByteSource(ABC):
    """Bytes by their place. name: in messages. size: in bytes, None where it is unknown."""

    name: str
    size: int | None

    @abstractmethod
    def read(self, start: int, end: int) -> bytes:
        """The bytes from start to before end, or to the end of the source. Raises FileError."""

    @abstractmethod
    def close(self) -> None:
        """Let go of what is open; it may still be read from."""


class Begun(ByteSource):
    """A source whose first bytes were read, which are not asked for again."""

    def __init__(self, source: ByteSource, first: bytes) -> None:
        self.name, self.source, self.first = source.name, source, first

    @property
    def size(self) -> int | None:  # type: ignore[override]
        """The size of the source, which it may say late."""
        return self.source.size

    def read(self, start: int, end: int) -> bytes:
        """As of the source."""
        known = self.first[start:end]
        rest = max(start, len(self.first))
        return known + (self.source.read(rest, end) if rest < end else b"")

    def close(self) -> None:
        """Let go of the source."""
        self.source.close()


def whole(source: ByteSource, most: int) -> bytes | None:
    """All of it; None where it is larger, of which nothing is read.

    Something was read before, so that its size is known. Raises FileError where it is not.
    """
    if source.size is None:
        raise FileError(
            f"{source.name} is served without its size; download it first, or serve it from a "
            "plain web server."
        )
    return source.read(0, source.size) if source.size <= most else None


def on_the_web(place: str | os.PathLike[str]) -> bool:
    """Whether it is written as an address, and not as a path."""
    return isinstance(place, str) and "://" in place


def opened(place: str | os.PathLike[str]) -> ByteSource:
    """A file, or what is at an http or https address. Raises FileError for other addresses."""
    if not isinstance(place, str) or not on_the_web(place):
        return _File(Path(place))
    if place.partition("://")[0].lower() not in ("http", "https"):
        raise FileError(f"{place} is not an address of http or https; download the file first.")
    return _Web(place)


class _File(ByteSource):
    def __init__(self, path: Path) -> None:
        self.name, self.path = str(path), path
        try:
            self.size = ordinary(path)
        except OSError as error:
            raise self._unreadable(error) from error

    def read(self, start: int, end: int) -> bytes:
        try:
            with self.path.open("rb") as file:
                file.seek(start)
                return file.read(end - start)
        except OSError as error:
            raise self._unreadable(error) from error

    def close(self) -> None:
        pass

    def _unreadable(self, error: OSError) -> FileError:
        return FileError(
            f"{self.name} cannot be read ({error.strerror or error}); give a file that widthwise "
            "saved."
        )


class _Web(ByteSource):
    """A file on a server. validator: what the server said of its version, once it was asked."""

    def __init__(self, url: str) -> None:
        self.name, self.url = url, url
        self.size: int | None = None
        self.validator: tuple[str, str] | None = None
        self._opener = web.opener()
        self._began, self._received = 0.0, 0  # when reading began, and bytes since then
        self._answer: http.client.HTTPResponse | None = None  # of everything, being read
        self._at = 0  # how far it was read

    def read(self, start: int, end: int) -> bytes:
        got = bytearray()
        tries = 0
        self._began, self._received = time.monotonic(), 0
        while len(got) < end - start and not self._ends_at(start + len(got)):
            before = len(got)
            problem = "it sends fewer bytes than it said"
            try:
                self._continue(got, start, end)
            except _INTERRUPTED as error:
                self.close()
                problem = _reason(error)
            except ValueError as error:
                self.close()
                raise FileError(
                    f"{self.name} is no address, or answered in a form that is none of the web's "
                    f"({str(error)[:200]}); check the address."
                ) from error
            tries = 0 if len(got) > before else tries + 1
            if tries == TRIES:
                raise FileError(f"{self.name} cannot be read ({problem}); try again later.")
            if tries:
                time.sleep(PAUSE * 2 ** (tries - 1))
        return bytes(got)

    def close(self) -> None:
        if self._answer is not None:
            self._answer.close()
            self._answer = None

    def _ends_at(self, place: int) -> bool:
        return self.size is not None and place >= self.size

    def _continue(self, got: bytearray, start: int, end: int) -> None:
        """Read on from where it stopped, until the end or an interruption."""
        place = start + len(got)
        if self._answer is None or self._at > place:
            self.close()
            self._ask(place, end)
        answer = self._answer
        assert answer is not None
        while self._at < end:
            ahead = place - self._at  # of a server that begins at the first byte
            piece = answer.read1(min(_CHUNK, ahead if ahead > 0 else end - self._at))
            if not piece:
                self.close()
                return
            self._at += len(piece)
            if ahead <= 0:
                got += piece
            self._received += len(piece)
            self._fast_enough()
        if answer.status == 206:
            self.close()

    def _fast_enough(self) -> None:
        """Raise FileError for a server that would keep its reader for ever."""
        seconds = time.monotonic() - self._began - web.TIMEOUT
        if seconds > 0 and self._received < SLOWEST * seconds:
            raise FileError(f"{self.name} comes too slowly; try again later.")

    def _ask(self, start: int, end: int) -> None:
        """Request a range. Raises FileError for an answer that is none of this file."""
        headers = {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
        if self.validator and not self.validator[1].startswith("W/"):
            headers["If-Range"] = self.validator[1]
        asked = request.Request(self.url, headers=headers)  # noqa: S310 - http and https alone
        try:
            answer = self._opener.open(asked, timeout=web.TIMEOUT)
        except HTTPError as error:
            with error:
                if error.code >= 500 or error.code in (408, 429):
                    raise URLError(f"it answers {error.code}") from error
                raise FileError(
                    f"{self.name} cannot be read (it answers {error.code} {error.reason}); check "
                    "the address."
                ) from error
        try:
            self._at = self._begins(answer, start, end)
        except BaseException:
            answer.close()
            raise
        self._answer = answer

    def _begins(self, answer: http.client.HTTPResponse, start: int, end: int) -> int:
        """Where an answer begins. Raises FileError where it is no part of the file."""
        self._same(answer)
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            raise FileError(f"{self.name} is sent in a compressed form; serve it as it is.")
        if answer.status == 200:
            length = answer.headers.get("Content-Length", "")
            self._whole(length if length.isdecimal() and length.isascii() else "*")
            return 0
        found = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        if answer.status != 206 or not found:
            raise FileError(
                f"{self.name} is answered with status {answer.status} and no range of bytes; "
                "serve it from a plain web server."
            )
        first, last = int(found[1]), int(found[2])
        if first != start or not first <= last < end:
            raise FileError(
                f"{self.name} is answered with other bytes ({first} to {last}) than were asked "
                "for; serve it from a plain web server."
            )
        self._whole(found[3])
        return first

    def _whole(self, size: str) -> None:
        """Note the size of the whole file, or check that it is the same."""
        if size == "*":
            return
        if self.size is not None and self.size != int(size):
            raise self._changed()
        self.size = int(size)

    def _same(self, answer: http.client.HTTPResponse) -> None:
        """Note which version of the file is sent, or check that it is the same."""
        names = ("ETag", "Last-Modified")
        found = next(((n, answer.headers[n]) for n in names if answer.headers[n]), None)
        if self.validator is not None and found != self.validator:
            raise self._changed()
        self.validator = found

    def _changed(self) -> FileError:
        return FileError(f"{self.name} changed while it was read; open it again.")


def _reason(error: BaseException) -> str:
    reason = getattr(error, "reason", None) or error
    return str(reason) or type(error).__name__
