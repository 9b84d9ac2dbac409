"""Which figures in bench/results are older than the code that they speak of.

    python scripts/stale_results.py             # every result, with the commits since
    python scripts/stale_results.py sweep       # one of them, with those commits' subjects

A result speaks of the modules of widthwise that its script imports. It was measured at the commit
that it notes; older ones note a date only, and count from the last commit of the day before.
"""

from __future__ import annotations

import argparse
import ast
import json
import subprocess
from datetime import date, timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src"


def script_of(result: str) -> Path:
    """The benchmark that stored a result of this name, such as "sweep" or "comparison-mnist"."""
    named = {"comparison": "comparisons", "gpu": "gpu_cases"}
    stem = named.get(result.partition("-")[0], result)
    places = [
        ROOT / "bench" / f"{stem}.py",
        ROOT / "bench" / stem,
        ROOT / "bench" / f"serve_{stem}",
    ]
    return next((place for place in places if place.exists()), ROOT / "bench")


def code_of(script: Path) -> list[Path]:
    """The files of widthwise that a script, or any in a folder of them, imports itself."""
    files = sorted(script.rglob("*.py")) if script.is_dir() else [script]
    names: set[str] = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                names |= {node.module, *(f"{node.module}.{a.name}" for a in node.names)}
            elif isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
    ours = {n for n in names if n.startswith("widthwise.")}
    places = {SOURCE / f"{n.replace('.', '/')}.py" for n in ours}
    return sorted(p for p in places if p.exists()) or [SOURCE / "widthwise"]


def since(found: dict[str, Any], paths: list[Path], root: Path = ROOT) -> list[str]:
    """The commits, one line each, that changed these files after a result was measured."""
    if "commit" in found:
        first = str(found["commit"])
    else:
        before = date.fromisoformat(found["date"]) - timedelta(days=1)
        first = _git(root, "rev-list", "-1", f"--before={before} 23:59:59 +0000", "HEAD").strip()
    span = f"{first}..HEAD" if first else "HEAD"
    return _git(root, "log", "--oneline", span, "--", *map(str, paths)).splitlines()


def _git(root: Path, *words: str) -> str:
    git = ["git", "-C", str(root)]
    done = subprocess.run([*git, *words], capture_output=True, text=True, check=True)  # noqa: S603
    return done.stdout


def main() -> None:
    """Print a line for each result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="RESULT")
    options = parser.parse_args()
    for path in sorted((ROOT / "bench" / "results").glob("*.json")):
        if options.names and path.stem not in options.names:
            continue
        found = json.loads(path.read_text())
        commits = since(found, code_of(script_of(path.stem)))
        said = f"{len(commits)} commits since" if commits else "as the code is"
        print(f"{path.stem:32} {found.get('commit', found['date']):12} {said}")
        for line in commits if options.names else ():
            print(f"    {line}")


if __name__ == "__main__":
    main()
