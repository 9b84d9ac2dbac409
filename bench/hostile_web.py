"""A progressive file read from a web server that does not behave: the plan comes before the file.

    data = plan("endless", 3) + file            # so bytes of the plan are mutated like others
    load(path_with_data, build)                 # reads the file over loopback, as the plan says

A plan is 16 bytes: two a request, what is wrong and how much; after eight requests it begins anew.
"""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from torch import nn

from widthwise.common import web
from widthwise.store.progressive import ranges
from widthwise.store.progressive.reader import load_progressive

PLAN = 16
FAULTS = (
    *("none", "none", "none", "whole", "short", "long", "shifted", "endless", "chunked"),
    *("bad chunks", "redirect", "redirect elsewhere", "redirect page", "loop", "status", "length"),
    *("lengths", "range", "no range", "header bomb", "long line", "continues", "silent", "drip"),
    *("garbage", "gzip", "empty", "other size", "etag", "old http", "cut header", "nothing"),
)
_ODD = (b"-1", b"0", b"1e9", b"99999999999999999999", b"", b"abc", b"+5", b"0x10", b"5, 5", b"\xff")
_PLACES = (
    b"file:///etc/passwd", b"ftp://127.0.0.1/x", b"http://[::bad/", b"//", b"http://", b"data:,x",
    b"javascript:1", b"http://" + b"a" * 300 + b"/", b"http://127.0.0.1:1/", b"http://127.0.0.1:99999/",
    b"http://\xff\xfe/", b"gopher://x/", b"http://user:pw@127.0.0.1:1/", b"?", b"http://127.0.0.1:x/",
)  # fmt: skip


def plan(*steps: tuple[str, int]) -> bytes:
    """The bytes of a plan; no steps: a server without fault."""
    given = b"".join(bytes([FAULTS.index(fault), amount]) for fault, amount in steps)
    return given.ljust(PLAN, b"\0")


def load(path: Path, build: Callable[[], nn.Module]) -> nn.Module:
    """The network of a file behind its plan, read from a server that follows the plan."""
    data = path.read_bytes()
    with _hurried(), serving(data[:PLAN].ljust(PLAN, b"\0"), data[PLAN:]) as url:
        return load_progressive(url, build)


@contextmanager
def _hurried() -> Any:
    """Waiting times of a test rather than of the world."""
    before = web.TIMEOUT, ranges.PAUSE
    web.TIMEOUT, ranges.PAUSE = 0.2, 0.0  # type: ignore[misc]
    try:
        yield
    finally:
        web.TIMEOUT, ranges.PAUSE = before  # type: ignore[misc]


@contextmanager
def serving(steps: bytes, data: bytes) -> Any:
    """Its address. One thread answers one request after another."""
    server = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()
    thread = threading.Thread(target=_serve, args=(server, steps, data, stop), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/net.safetensors"
    finally:
        stop.set()
        with suppress(OSError), socket.create_connection(server.getsockname(), timeout=1):
            pass
        thread.join(timeout=5)
        server.close()


def _serve(server: socket.socket, steps: bytes, data: bytes, stop: threading.Event) -> None:
    count = 0
    while True:
        client, _ = server.accept()
        with client:
            if stop.is_set():
                return
            client.settimeout(2)
            step = steps[2 * count % PLAN : 2 * count % PLAN + 2]
            count += 1
            with suppress(OSError):
                asked = _asked(client)
                _answer(client, FAULTS[step[0] % len(FAULTS)], step[1], asked, data, stop)


def _asked(client: socket.socket) -> tuple[int, int]:
    text = b""
    while b"\r\n\r\n" not in text and (more := client.recv(65536)):
        text += more
    found = re.search(rb"bytes=(\d+)-(\d+)", text)
    return (int(found[1]), int(found[2]) + 1) if found else (0, 2048)


def _answer(
    client: socket.socket, fault: str, n: int, asked: tuple[int, int], data: bytes, stop: Any
) -> None:
    first, end = asked
    body = data if fault in ("whole", "etag") else data[first:end]
    odd = _ODD[n % len(_ODD)]
    at = first + n if fault == "shifted" else first
    total = len(data) + (n + 1 if fault == "other size" else 0)
    said = b"bytes %d-%d/%d" % (at, at + len(body) - 1, total)
    lines = {
        b"Content-Length": odd if fault == "length" else b"%d" % len(body),
        b"Content-Range": odd if fault == "range" else said,
        b"ETag": b'"%d"' % (n if fault == "etag" else 1),
    }
    status = b"200 OK" if fault == "whole" else b"206 Partial Content"
    if fault == "no range":
        del lines[b"Content-Range"]
    elif fault == "short":
        body = body[: n % (len(body) + 1)]
    elif fault == "long":
        body += bytes(n * 100)
    elif fault in ("chunked", "bad chunks"):
        del lines[b"Content-Length"]
        lines[b"Transfer-Encoding"] = b"chunked"
        size = odd if fault == "bad chunks" else b"%x" % len(body)
        body = size + b"\r\n" + body + b"\r\n0\r\n\r\n"
    elif fault == "gzip":
        lines[b"Content-Encoding"] = b"gzip"
    elif fault == "status":
        status = (
            b"404 Not",
            b"500 No",
            b"416 No",
            b"204 No",
            b"301 Moved",
            b"999 \xff",
            b"1",
            b"401",
        )[n % 8]
    elif fault == "lengths":
        lines[b"Content-Length"] += b"\r\nContent-Length: " + odd
    elif fault.startswith("redirect") or fault == "loop":
        status, lines[b"Location"] = b"302 Found", b"/moved%d" % n
        if fault == "redirect elsewhere":
            lines[b"Location"] = _PLACES[n % len(_PLACES)]
        if fault == "redirect page":
            del lines[b"Content-Length"]
    if fault in ("nothing", "silent"):
        return _wait(client, stop) if fault == "silent" else None
    if fault == "garbage":
        return client.sendall(data[n : n + 300] or b"\0")
    if fault == "old http":
        return client.sendall(body)
    if fault == "continues":
        return _forever(client, b"HTTP/1.1 100 Continue\r\n\r\n" * 50)
    text = b"HTTP/1.1 " + status + b"\r\n"
    text += b"".join(k + b": " + v + b"\r\n" for k, v in lines.items())
    if fault == "header bomb":
        text += b"".join(b"X-%d: y\r\n" % i for i in range(n * 50))
    if fault == "long line":
        text += b"X: " + b"y" * 1000 * n + b"\r\n"
    if fault == "cut header":
        return client.sendall(text[: n * 2])
    client.sendall(text + b"\r\n" + (b"" if fault in ("empty", "drip") else body))
    if fault in ("endless", "redirect page"):
        return _forever(client, bytes(65536))
    if fault == "drip":
        for place in range(len(body)):
            if stop.wait(0.01):
                return None
            client.sendall(body[place : place + 1])
    return None


def _forever(client: socket.socket, piece: bytes) -> None:
    """Send until nobody reads; a reader who does not stop is found out by a gigabyte."""
    for _ in range(2**30 // len(piece)):
        client.sendall(piece)


def _wait(client: socket.socket, stop: Any) -> None:
    client.settimeout(2)
    client.recv(1)
