"""What the benchmark scripts share: describing the machine and storing results."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from widthwise.version import VERSION

RESULTS = Path(__file__).parent / "results"


def main(
    doc: str | None,
    name: str,
    measure: Callable[..., Any],
    kept: Callable[[Any], bool] = lambda found: True,
    **options: Any,
) -> int:
    """What a script does: measure on one thread, print, store with --write; 1 for a bound missed.

    options: what `measure` is given, with the defaults; one that is a tuple takes several.
    """
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="store the figures in bench/results")
    for option, default in options.items():
        some = isinstance(default, tuple)
        kind, count = (type(default[0]), "+") if some else (type(default), None)
        parser.add_argument(f"--{option}", type=kind, nargs=count, default=default)
    given = vars(parser.parse_args())
    write = given.pop("write")
    torch.set_num_threads(1)
    found = measure(**given)
    print(json.dumps(found, indent=1))
    if write:
        print(record(name, found))
    return int(not kept(found))


def seconds(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Of one call. clock: `time.process_time` for those of the processor."""
    began = clock()
    work()
    return clock() - began


def apart(work: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns in a new process on one thread, whose memory is its own."""
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = ""
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [x.split(":", 1)[1] for x in info.read_text().splitlines() if "model name" in x]
        model = names[0].strip() if names else ""
    return {
        "processor": model or platform.processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "widthwise": VERSION,
        "threads": torch.get_num_threads(),
    }


def today() -> str:
    """The date of a result."""
    return f"{datetime.now(UTC):%Y-%m-%d}"


def commit() -> str:
    """The commit of the code that is measured; "" where there is no repository."""
    words = ["git", "-C", str(RESULTS.parent), "rev-parse", "--short=10", "HEAD"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def machines(path: Path) -> dict[str, Any]:
    """This one, with the processors of what was stored in a file before."""
    here = machine()
    if path.exists():
        before = json.loads(path.read_text())["machine"]["processor"].split(" and ")
        here["processor"] = " and ".join(dict.fromkeys([*before, here["processor"]]))
    return here


def record(name: str, results: Any, *, added: bool = False) -> Path:
    """Write results with date, commit and machine to bench/results/<name>.json.

    added: to what was stored before, so that its processor is named too.
    """
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    here = machines(path) if added else machine()
    content = {"date": today(), "commit": commit(), "machine": here, "results": results}
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path
