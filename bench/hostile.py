"""Hostile files for every loader: 100,000 each, none of which may crash, hang or lie.

    python bench/hostile.py                                   # 2,000 a loader
    python bench/hostile.py --loader plain --loader web --examples 100000
    python bench/hostile.py --examples 100000 --write         # and bench/results/hostile.json

A valid file is changed: its bytes at random (the loader must notice, or load what was written), or
its inside, with lengths and checksums made right again, so that what stands behind them is reached
(the loader must refuse it in one sentence, or load it). Files that reached lines of widthwise that
none before had reached are changed further. Each load may take a second and 200 MB; a worker that
dies or hangs is a finding too. Counts are kept in a log, block by block, so that a run can be
interrupted and goes on; give another --log to begin anew. Findings are kept as files beside it.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch

import hostile_forging
from common import record
from hostile_guard import Guard, WrongError, limit_memory
from hostile_loaders import LOADERS, UNSEALED, seeds
from hostile_mutations import changed
from hostile_web import PLAN

LOG = Path(tempfile.gettempdir()) / "widthwise-hostile.jsonl"
BLOCK = 500  # files judged between two notes in the log
WATCHED = 50  # of them, so many with the lines that they reach
MOST_KEPT = 200  # files of a loader that are changed further
SOURCES = str(Path(hostile_forging.__file__).parents[1] / "src" / "widthwise")


class Lines:
    """Which lines of widthwise run, by `sys.settrace`; slow, so that it watches some loads only."""

    def __init__(self) -> None:
        self.seen: set[tuple[CodeType, int]] = set()
        self.new = False

    def __enter__(self) -> None:
        self.new = False
        sys.settrace(self._call)

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _call(self, frame: FrameType, event: str, argument: object) -> Any:
        return self._line if frame.f_code.co_filename.startswith(SOURCES) else None

    def _line(self, frame: FrameType, event: str, argument: object) -> Any:
        place = frame.f_code, frame.f_lineno
        if place not in self.seen:
            self.seen.add(place)
            self.new = True
        return self._line


def hostile(
    name: str, draw: random.Random, valid: list[bytes], kept: list[bytes]
) -> tuple[bytes, int | None]:
    """A changed file, and the place of the valid one that it may still be; None where it may not.

    valid: files of the loader. kept: changed ones that are to be changed further.
    """
    kind, at = LOADERS[name].kind, draw.randrange(len(valid))
    if kind == "web":
        data = _hostile_web(draw, valid[at])
        return data, _cut_off([file[PLAN:] for file in valid], data[PLAN:], at)
    raw = draw.random()
    if kept and raw < 0.2:
        return hostile_forging.resealed(kind, changed(draw.choice(kept), draw)), None
    if raw < 0.4:
        data = changed(valid[at], draw)
        # A journal whose last lines are missing is that of a search that was stopped earlier.
        stopped = kind == "lines" and valid[at].startswith(data[: data.rfind(b"\n") + 1])
        older = kind == "json" and b'"sha256"' not in valid[at]
        return data, None if name in UNSEALED or stopped or older else _cut_off(valid, data, at)
    if raw < 0.5:
        return hostile_forging.resealed(kind, changed(valid[at], draw)), None
    return hostile_forging.forged(kind, valid[at], draw), None


def _cut_off(valid: list[bytes], data: bytes, at: int) -> int:
    """Which valid file this is, where it is one cut off behind a level; else the one it was."""
    return valid.index(data) if data in valid else at


def _hostile_web(draw: random.Random, data: bytes) -> bytes:
    steps = b"".join(bytes([draw.randrange(256), draw.randrange(256)]) for _ in range(PLAN // 2))
    quiet = draw.randrange(PLAN // 2)
    steps = b"\0" * 2 * quiet + steps[2 * quiet :]
    file = data[PLAN:]
    return steps + (changed(file, draw) if draw.random() < 0.3 else file)


def block(
    name: str, number: int, valid: list[bytes], findings: Path, at_hand: Path
) -> dict[str, Any]:
    """Judge the files of one block; the same number gives the same files.

    findings: where those are kept with which something is wrong. at_hand: for the file that is
    being judged, which is all that a worker that dies leaves.
    """
    draw, loader = random.Random(f"{name} {number}"), LOADERS[name]
    lines, kept, counts = Lines(), [], Counter[str]()
    slowest, most, wrong = 0.0, 0, []
    began = time.process_time()
    with tempfile.TemporaryDirectory(dir=_memory_disk()) as place:
        guard = Guard(Path(place))
        expected = [guard.expected(name, loader, data) for data in valid]
        for count in range(BLOCK):
            data, at = hostile(name, draw, valid, kept)
            (at_hand / f"{name} {number}").write_bytes(data)
            try:
                due = None if at is None else expected[at]
                if count < WATCHED and loader.kind != "web":
                    with lines:
                        _unmeasured(guard, name, data)
                    if lines.new:
                        kept = [*kept, data][-MOST_KEPT:]
                verdict = guard.judged(name, loader, data, due)
            except WrongError as error:
                counts["wrong"] += 1
                (findings / f"{name}-{number}-{count}").write_bytes(data)
                wrong.append({"file": f"{name}-{number}-{count}", "what": str(error)})
                continue
            counts[verdict.outcome] += 1
            slowest, most = max(slowest, verdict.seconds), max(most, verdict.memory)
    (at_hand / f"{name} {number}").unlink()
    return {
        "loader": name, "block": number, "files": BLOCK, **counts, "findings": wrong,
        "slowest": slowest, "memory": most, "seconds": time.process_time() - began,
    }  # fmt: skip


def _unmeasured(guard: Guard, name: str, data: bytes) -> None:
    """A load for the lines that it reaches; what is wrong with it is judged later."""
    with suppress(Exception):
        LOADERS[name].load(guard._written(name, data))


def _memory_disk() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - a folder of its own there


def start() -> None:
    """A worker begins."""
    torch.set_num_threads(1)
    limit_memory()


def run(names: list[str], examples: int, log: Path, processes: int) -> None:
    """Judge what is not in the log yet."""
    done = {(row["loader"], row["block"]) for row in rows(log)}
    left = [
        (name, number)
        for number in range(-(-examples // BLOCK))
        for name in names
        if (name, number) not in done
    ]
    findings = log.with_suffix(".findings")
    findings.mkdir(exist_ok=True)
    at_hand = Path(tempfile.mkdtemp(dir=_memory_disk()))
    with tempfile.TemporaryDirectory() as folder:
        valid = seeds(Path(folder))
    began, total = time.monotonic(), len(left)
    while left:
        try:
            _blocks(left, valid, (findings, at_hand), log, processes, (began, total))
        except BrokenProcessPool:
            dead = max(at_hand.iterdir(), key=lambda path: path.stat().st_mtime)
            name, _, number = dead.name.rpartition(" ")
            kept = findings / f"{name}-{number}-died"
            shutil.copy(dead, kept)
            found = [{"file": kept.name, "what": "the worker died"}]
            row = {"loader": name, "block": int(number), "files": 1, "wrong": 1, "findings": found}
            _note(log, row | {"slowest": 0.0, "memory": 0, "seconds": 0.0})
            left.remove((name, int(number)))
    shutil.rmtree(at_hand)
    print()


def _blocks(
    left: list[tuple[str, int]], valid: dict[str, list[bytes]], places: tuple[Path, Path],
    log: Path, processes: int, progress: tuple[float, int],
) -> None:  # fmt: skip
    """Judge some of what is left, and take it away there.

    Not all, so that workers are replaced now and then: ProcessPoolExecutor can do that too, and may
    then stop for good. Raises BrokenProcessPool for a dead worker.
    """
    began, total = progress
    with ProcessPoolExecutor(processes, get_context("spawn"), start) as pool:
        some = left[: 100 * processes]
        futures = {pool.submit(block, n, k, valid[n], *places): (n, k) for n, k in some}
        for future in as_completed(futures):
            row = future.result()
            left.remove(futures[future])
            _note(log, row)
            for finding in row["findings"]:
                print(f"\n{finding['file']}: {finding['what']}")
            rate = (total - len(left)) / (time.monotonic() - began)
            print(f"{len(left)} blocks left, {len(left) / rate / 60:.0f} min", end="\r", flush=True)


def _note(log: Path, row: dict[str, Any]) -> None:
    with log.open("a") as out:
        out.write(json.dumps(row) + "\n")


def rows(log: Path) -> list[dict[str, Any]]:
    """What the log holds."""
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of a run, by loader."""
    table = {}
    for name in LOADERS:
        mine = [row for row in found if row["loader"] == name]
        if mine:
            table[name] = {
                "files": sum(row["files"] for row in mine),
                "refused": sum(row.get("refused", 0) for row in mine),
                "loaded": sum(row.get("loaded", 0) for row in mine),
                "wrong": sum(row.get("wrong", 0) for row in mine),
                "slowest_seconds": round(max(row["slowest"] for row in mine), 3),
                "most_megabytes": round(max(row["memory"] for row in mine) / 1e6, 1),
                "processor_seconds": round(sum(row["seconds"] for row in mine)),
            }
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--loader", action="append", choices=list(LOADERS), help="all by default")
    parser.add_argument("--examples", type=int, default=2000, help="files for each loader")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--log", type=Path, default=LOG, help="where results are kept")
    parser.add_argument("--write", action="store_true", help="store the figures")
    options = parser.parse_args()
    names = options.loader or list(LOADERS)
    run(names, options.examples, options.log, options.processes)
    wanted = range(-(-options.examples // BLOCK))
    found = [r for r in rows(options.log) if r["loader"] in names and r["block"] in wanted]
    figures = summary(found)
    print(json.dumps(figures, indent=1))
    if options.write:
        print(f"written to {record('hostile', figures)}")
    if any(row["wrong"] for row in figures.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
