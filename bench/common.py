"""What the benchmark scripts share: describing the machine and storing results."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from widthwise.version import VERSION

RESULTS = Path(__file__).parent / "results"


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
