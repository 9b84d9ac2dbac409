"""The picker under load and attack: many clients at once, some of them hostile.

    python bench/serve_load.py                       # a run of its own, 64 clients, 60 seconds
    python bench/serve_load.py --run runs/demo --clients 8 --seconds 5
    python bench/serve_load.py --write               # into bench/results/serve_load.json

A real `widthwise serve` runs in a process of its own. Clients open the page, read the API, try
networks of random widths, download files, leave downloads and go on with them, and send what no
client should: paths out of the run, broken JSON, bodies without end, requests in drops, names and
origins of other sites. Every answer is looked at: its status must be one that this kind of request
may have, and nothing of a secret file beside the run may be in it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2 as httpx
import psutil

from common import record
from serve_attacks import BUSY, HOSTILE, raw

GOOD = {200, 206}
TIMED = ("page", "view", "try")  # whose latency is held against that of an idle server
MB = 10**6


@dataclass
class Seen:
    """What came back.

    statuses: by kind of request. milliseconds: of those of the kinds in TIMED that were not told
    to come back. mistakes: in words, of which there must be none. memory: of the server, bytes,
    evenly spaced in time.
    """

    secret: bytes
    statuses: dict[str, Counter[int]] = field(default_factory=dict)
    milliseconds: dict[str, list[float]] = field(default_factory=dict)
    mistakes: Counter[str] = field(default_factory=Counter)
    memory: list[int] = field(default_factory=list)

    def note(self, kind: str, status: int, allowed: set[int], body: bytes = b"") -> None:
        """Keep an answer, and whether it is one that may be. status: 0 for none."""
        self.statuses.setdefault(kind, Counter())[status] += 1
        if status not in allowed:
            self.mistakes[f"{kind}: status {status}"] += 1
        if self.secret in body or b"root:x:0" in body:
            self.mistakes[f"{kind}: a file from outside of the run"] += 1


@dataclass(frozen=True)
class Run:
    """What there is to ask for. points: ids, and the bytes of each one's file."""

    address: str
    points: dict[str, int]
    full: str


class Client:
    """One of many. Its requests follow from its number."""

    def __init__(self, number: int, run: Run, seen: Seen, outside: Path) -> None:
        self.random, self.busy = random.Random(number), False
        self.run, self.seen, self.outside = run, seen, outside
        self.web = httpx.AsyncClient(base_url=run.address, timeout=60)
        self.kinds: dict[str, tuple[int, Callable[[], Awaitable[None]]]] = {
            "page": (4, self.page),
            "view": (4, self.view),
            "try": (12, self.attempt),
            "draw": (2, self.draw),
            "lost": (1, self.lost),
            "download": (4, self.download),
            "onnx": (1, self.onnx),
            "resume": (3, self.resume),
            **{name: (1, lambda name=name: self.hostile(name)) for name in HOSTILE},
        }

    async def work(self, until: float) -> None:
        """Ask one thing after the other."""
        names = [name for name, (share, _) in self.kinds.items() for _ in range(share)]
        async with self.web:
            while time.monotonic() < until:
                name = self.random.choice(names)
                began = time.monotonic()
                self.busy = False
                try:
                    await self.kinds[name][1]()
                except (httpx.HTTPError, OSError, asyncio.IncompleteReadError) as error:
                    self.seen.mistakes[f"{name}: {type(error).__name__}"] += 1
                took = 1000 * (time.monotonic() - began)
                if self.busy:
                    await asyncio.sleep(1)  # as it was told to
                elif name in TIMED:
                    self.seen.milliseconds.setdefault(name, []).append(took)

    def point(self) -> str:
        return self.random.choice(list(self.run.points))

    async def get(self, kind: str, path: str, **headers: str) -> httpx.Response:
        got = await self.web.get(path, headers=headers)
        self.take(kind, got)
        return got

    def take(self, kind: str, got: httpx.Response) -> None:
        self.seen.note(kind, got.status_code, {*GOOD, BUSY}, got.content)
        if got.status_code == BUSY:
            self.busy = True
            if got.headers.get("retry-after") != "1":
                self.seen.mistakes[f"{kind}: no word of when to try again"] += 1

    async def page(self) -> None:
        await self.get("page", self.random.choice(["/", "/page.js", "/page.css"]))

    async def view(self) -> None:
        await self.get("view", "/api/runs/0")

    async def attempt(self) -> None:
        ids = [self.random.randrange(100) for _ in range(12)]
        await self.ask("try", {"point": self.point(), "examples": ids})

    async def draw(self) -> None:
        size = self.random.choice([28, 112])
        pixels = [[255 * (abs(x - y) < 4) for x in range(size)] for y in range(size)]
        await self.ask("draw", {"point": self.point(), "drawing": pixels})

    async def ask(self, kind: str, question: dict[str, Any]) -> None:
        self.take(kind, await self.web.post("/api/runs/0/predict", json=question))

    async def lost(self) -> None:
        await self.get("lost", f"/api/runs/0/differences/{self.point()}")

    async def download(self) -> None:
        name = self.point()
        got = await self.get("download", f"/api/runs/0/download/{name}.safetensors")
        if got.status_code == 200 and len(got.content) != self.run.points[name]:
            self.seen.mistakes["download: a file of another size"] += 1

    async def onnx(self) -> None:
        await self.get("onnx", f"/api/runs/0/download/{self.run.full}.onnx", Range="bytes=0-99")

    async def resume(self) -> None:
        """Leave a download in the middle, and go on with it."""
        path = f"/api/runs/0/download/{self.point()}.safetensors"
        async with self.web.stream("GET", path) as got:
            if got.status_code == BUSY:
                await got.aread()
                self.take("resume", got)
                return
            tag, first = got.headers["etag"], b""
            async for piece in got.aiter_raw(500):
                first += piece
                if len(first) >= 500:
                    break
        rest = await self.get("resume", path, **{"Range": f"bytes={len(first)}-", "If-Range": tag})
        if rest.status_code == BUSY:
            return
        whole = await self.get("resume", path)
        if whole.status_code == 200 and first + rest.content != whole.content:
            self.seen.mistakes["resume: other bytes than in one go"] += 1

    async def hostile(self, name: str) -> None:
        attack = HOSTILE[name]
        pieces = attack.request(self.random, self.outside)
        reply = await raw(self.run.address, pieces, self.run.full)
        self.seen.note(name, reply.status, attack.allowed, reply.body)


def asked(address: str) -> Run:
    """What a server shows."""
    shown = httpx.get(f"{address}/api/runs/0", timeout=60).json()
    return Run(address, {c["id"]: c["bytes"] for c in shown["choices"]}, shown["full"])


async def warmed(run: Run, seen: Seen) -> None:
    """Ask for everything once, so that what is kept is there and what grows later is no cache."""
    client = Client(0, run, seen, Path())
    async with client.web:
        for name in run.points:
            await client.ask("try", {"point": name, "examples": [0]})
            await client.get("download", f"/api/runs/0/download/{name}.safetensors")
        await client.onnx()
        await client.lost()


async def alone(run: Run, seen: Seen) -> None:
    """What the requests in TIMED take of a server that has nothing else to do."""
    client = Client(0, Run(run.address, {run.full: run.points[run.full]}, run.full), seen, Path())
    async with client.web:
        for name in TIMED:
            await client.kinds[name][1]()  # once before it counts
            seen.milliseconds[name] = []
            for _ in range(20):
                began = time.monotonic()
                await client.kinds[name][1]()
                seen.milliseconds[name].append(1000 * (time.monotonic() - began))


async def load(run: Run, seen: Seen, outside: Path, clients: int, seconds: float, pid: int) -> None:
    """Let so many clients ask for so long. pid: of the server."""
    until = time.monotonic() + seconds
    process = psutil.Process(pid)

    async def watch() -> None:
        while time.monotonic() < until:
            seen.memory.append(process.memory_info().rss)
            await asyncio.sleep(seconds / 120)

    many = [Client(number, run, seen, outside) for number in range(clients)]
    await asyncio.gather(watch(), *(one.work(until) for one in many))
    seen.memory.append(process.memory_info().rss)


def levels_off(memory: Sequence[int]) -> bool:
    """Whether the last quarter is at most a tenth and 20 MB above the second one, in the median."""
    quarter = max(1, len(memory) // 4)
    second, last = memory[quarter : 2 * quarter], memory[-quarter:]
    return statistics.median(last) <= 1.1 * statistics.median(second) + 20 * MB


def percentile(values: Sequence[float], share: float) -> float:
    """The value that so many are at most."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def summary(busy: Seen, idle: Seen, seconds: float) -> dict[str, Any]:
    """What is written. Latencies are multiples of the median of an idle server's."""
    rest = {kind: statistics.median(times) for kind, times in idle.milliseconds.items()}
    total = Counter[int]()
    for counts in busy.statuses.values():
        total.update(counts)
    memory = [round(m / MB) for m in busy.memory]
    shares = (0.5, 0.95, 0.99)
    return {
        "seconds": seconds,
        "requests": sum(total.values()),
        "statuses": {str(k): v for k, v in sorted(total.items())},
        "by kind": {k: {str(s): n for s, n in c.items()} for k, c in busy.statuses.items()},
        "mistakes": dict(busy.mistakes),
        "idle ms": {kind: round(ms, 2) for kind, ms in rest.items()},
        "times that, under load": {
            kind: {f"p{100 * p:.0f}": round(percentile(times, p) / rest[kind], 1) for p in shares}
            for kind, times in busy.milliseconds.items()
        },
        "memory MB": {
            "start": memory[0],
            "middle": memory[len(memory) // 2],
            "end": memory[-1],
            "peak": max(memory),
        },
        "memory levels off": levels_off(busy.memory),
    }


@contextmanager
def serving(folder: Path) -> Iterator[tuple[str, int]]:
    """`widthwise serve` on a free port: its address and the id of its process."""
    command = [sys.executable, "-m", "widthwise", "serve", str(folder), "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"}
    ) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://[\d.]+:\d+", process.stdout.readline())
            if found is None:
                raise SystemExit("The server did not start.")
            yield found[0], process.pid
            if process.poll() is not None:
                raise SystemExit("The server is gone.")
        finally:
            process.terminate()


def measured(folder: Path, clients: int, seconds: float) -> dict[str, Any]:
    """Serve a run, load the server, and see that it still answers."""
    secret = secrets.token_hex(16)
    outside = folder.resolve().parent / "secret.txt"
    outside.write_text(secret)
    idle, busy = Seen(secret.encode()), Seen(secret.encode())
    try:
        with serving(folder) as (address, pid):
            run = asked(address)
            fresh = psutil.Process(pid).memory_info().rss
            asyncio.run(warmed(run, idle))
            asyncio.run(alone(run, idle))
            asyncio.run(load(run, busy, outside, clients, seconds, pid))
            after = asked(address)
    finally:
        outside.unlink()
    if after != run:
        busy.mistakes["after: the run is shown otherwise"] += 1
    busy.mistakes.update(idle.mistakes)
    found = {"clients": clients} | summary(busy, idle, seconds)
    found["memory MB"] = {"first answer": round(fresh / MB)} | found["memory MB"]
    return found


def trained(folder: Path) -> Path:
    """A small run."""
    for words in (["train", "digits", "--out", folder], ["sweep", folder, "--num-widths", 40]):
        command = [sys.executable, "-m", "widthwise", *map(str, words)]
        subprocess.run(command, check=True, capture_output=True)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, help="a run folder that was swept")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--write", action="store_true", help="into bench/results")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = given.run or trained(Path(place) / "run")
        found = measured(folder, given.clients, given.seconds)
    print(json.dumps(found, indent=1))
    if given.write:
        print(record("serve_load", found))
    if found["mistakes"] or not found["memory levels off"]:
        raise SystemExit("The server did not do what it must; see the mistakes above.")


if __name__ == "__main__":
    main()
