"""What no client of the picker should send, byte for byte, and how it may be answered.

reply = await raw("http://127.0.0.1:8765", HOSTILE["paths"].request(random, Path("/a/secret")))
reply.status in HOSTILE["paths"].allowed
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

Pieces = Iterator[bytes | float]  # to send; a number is a pause in seconds
BUSY = 429  # with Retry-After: not now
PREDICT = b"POST /api/runs/0/predict HTTP/1.1\r\n"
_PATIENCE = 60.0


@dataclass(frozen=True)
class Reply:
    """status: 0 where the connection was closed without an answer."""

    status: int
    body: bytes


@dataclass(frozen=True)
class Attack:
    """request: random, a file outside of the run -> what is sent. allowed: statuses."""

    request: Callable[[random.Random, Path], Pieces]
    allowed: set[int]


async def raw(address: str, pieces: Pieces, point: str) -> Reply:
    """Send bytes as they are, and read to the end of the answer.

    {host} and {point} in them become the server's name and the id of a network.
    """
    place = urlsplit(address)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    host, name = place.netloc.encode(), point.encode()
    answer = bytearray()

    async def read() -> None:
        while data := await reader.read(65_536):
            answer.extend(data)

    async def write() -> None:
        for piece in pieces:
            if isinstance(piece, float):
                await asyncio.sleep(piece)
                continue
            writer.write(piece.replace(b"{host}", host).replace(b"{point}", name))
            await writer.drain()

    try:
        async with asyncio.timeout(_PATIENCE):
            # A server may answer, and close, before it was sent everything.
            done = await asyncio.gather(read(), write(), return_exceptions=True)
        for error in done:
            if error is not None and not isinstance(error, ConnectionError):
                raise error
    finally:
        writer.transport.abort()
    head, _, body = bytes(answer).partition(b"\r\n\r\n")
    status = head.split(b" ")[1:2]
    return Reply(int(status[0]) if status and status[0].isdigit() else 0, body)


def paths_to(file: Path) -> Sequence[bytes]:
    """Ways to write a path to a file, from outside of what is served."""
    up = [b"../" * n for n in (1, 2, 3, 8)]
    inner = str(file).lstrip("/").encode()
    near = [u + file.name.encode() for u in up[:3]] + [up[3] + inner]
    plain = [*near, b"/" + inner, b"//" + inner, b"file:///" + inner]
    once = [quote(p, safe="").encode() for p in plain]
    twice = [quote(p, safe="").encode() for p in once]
    back = [p.replace(b"/", b"\\") for p in plain] + [p.replace(b"/", b"%5c") for p in plain]
    odd = [p.replace(b"../", b"..;/") for p in near] + [p.replace(b"../", b"....//") for p in near]
    wide = [p.replace(b"../", b"%c0%ae%c0%ae%c0%af") for p in near]
    ended = [p + b"%00.safetensors" for p in once]
    return [*plain, *once, *twice, *back, *odd, *wide, *ended]


def _paths(chance: random.Random, file: Path) -> Pieces:
    found = chance.choice(paths_to(file))
    place = chance.choice(
        [b"/%s", b"/static/%s", b"/api/runs/%s", b"/api/runs/0/download/%s", b"%s",
         b"/api/runs/0/download/%s.safetensors", b"/api/runs/0/code/%s", b"/page.js/%s"]
    )  # fmt: skip
    yield b"GET " + place % found + b" HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"


def _nul(chance: random.Random, file: Path) -> Pieces:
    yield b"GET /\x00" + str(file).encode() + b" HTTP/1.1\r\nHost: {host}\r\n\r\n"


def _garbage(chance: random.Random, file: Path) -> Pieces:
    yield chance.randbytes(chance.randrange(1, 4000)) + b"\r\n\r\n"


def _header(chance: random.Random, file: Path) -> Pieces:
    """A header without end."""
    yield b"GET / HTTP/1.1\r\nHost: {host}\r\nX: "
    for _ in range(20):
        yield b"x" * 10_000
    yield b"\r\n\r\n"


def _body(content: bytes) -> bytes:
    head = b"Host: {host}\r\nContent-Type: application/json\r\nConnection: close\r\n"
    return PREDICT + head + b"Content-Length: %d\r\n\r\n" % len(content) + content


def _malformed(chance: random.Random, file: Path) -> Pieces:
    name = str(file).encode()
    yield _body(
        chance.choice(
            [b"", b"{", b"[" * 50_000, b"null", b"\xff\xfe\x00", b'{"point": 7}',
             b'{"point": "' + name + b'"}', b'{"point": "x", "examples": [1e999]}',
             b'{"point": "x", "drawing": [[' + b"9" * 5000 + b"]]}", b'{"point": "\\ud800"}']
        )
    )  # fmt: skip


def _oversized(chance: random.Random, file: Path) -> Pieces:
    yield _body(b'{"point": "' + b"x" * 3_000_000 + b'"}')


def _chunked(chance: random.Random, file: Path) -> Pieces:
    """A body that does not say how long it is, and does not end."""
    yield PREDICT + b"Host: {host}\r\nTransfer-Encoding: chunked\r\n\r\n"
    for _ in range(60):
        yield b"%x\r\n" % 50_000 + b"x" * 50_000 + b"\r\n"


def _ranges(chance: random.Random, file: Path) -> Pieces:
    some = chance.choice(
        [b"bytes=" + b"0-," * 3000, b"bytes=" + b"0-9," * 99, b"bytes=-1,0-0,9-1", b"bytes=a-b",
         b"lines=1", b"bytes=99999999999999999999-", b"bytes=0-99999999999999999999"]
    )  # fmt: skip
    yield b"GET /api/runs/0/download/{point}.safetensors HTTP/1.1\r\nHost: {host}\r\n"
    yield b"Connection: close\r\nRange: " + some + b"\r\n\r\n"


def _drops(chance: random.Random, file: Path) -> Pieces:
    """A request in drops, which is left."""
    yield b"GET / HT"
    yield 0.5
    yield b"TP/1.1\r\nHost: {host}\r\nConnection: close\r\n"
    yield 0.5
    yield b"X: y\r\n\r\n"


def _elsewhere(chance: random.Random, file: Path) -> Pieces:
    """Another site's page, or another name for this machine."""
    other = chance.choice(
        [b"Host: evil.example", b"Host: {host}\r\nOrigin: http://evil.example",
         b"Host: {host}\r\nSec-Fetch-Site: cross-site", b"Host: {host}.evil.example",
         b"Host: {host}\r\nOrigin: null", b"Host: [::1", b"Host: \xff"]
    )  # fmt: skip
    yield b"GET /api/runs HTTP/1.1\r\n" + other + b"\r\nConnection: close\r\n\r\n"


HOSTILE = {
    "paths": Attack(_paths, {400, 404, 405, 422}),
    "nul": Attack(_nul, {400}),
    "garbage": Attack(_garbage, {400}),
    "header": Attack(_header, {0, 400}),
    "malformed": Attack(_malformed, {400, 404, 422}),
    "oversized": Attack(_oversized, {0, 413}),
    "chunked": Attack(_chunked, {0, 413}),
    "ranges": Attack(_ranges, {200, 206, 400, 416, BUSY}),
    "drops": Attack(_drops, {200}),
    "elsewhere": Attack(_elsewhere, {400, 403}),
}
