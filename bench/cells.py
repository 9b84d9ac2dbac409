"""A store of measured cells, so that a benchmark that was killed goes on."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Found = dict[str, Any]


class Cells:
    """What has been measured, one line of JSON each.

    Every file of the folder is read; what is new is appended to the one named. Processes that work
    on different cells at the same time use different names.

    total: how many cells there are, for the progress that is printed.
    """

    def __init__(self, folder: Path, name: str, total: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path, self.total, self.new, self.began = folder / name, total, 0, time.monotonic()
        self.found: dict[str, Found] = {}
        for path in sorted(folder.glob("*.jsonl")):
            for line in path.read_text().splitlines():
                try:
                    cell = json.loads(line)
                except json.JSONDecodeError:
                    continue  # the line at which a run was killed
                self.found[cell["key"]] = cell["found"]

    def has(self, parts: Sequence[object], settings: Any) -> bool:
        """Whether it is there already."""
        return _key(parts, settings) in self.found

    def get(self, parts: Sequence[object], settings: Any, make: Callable[[], Found]) -> Found:
        """The result of this name, measured with these settings, once."""
        key = _key(parts, settings)
        if key not in self.found:
            began = time.monotonic()
            found = json.loads(json.dumps(make()))
            with self.path.open("a") as file:
                # Begun with a line break, for the last line may be one at which a run was killed.
                file.write("\n" + json.dumps({"key": key, "found": found}) + "\n")
            self.found[key], self.new = found, self.new + 1
            spent = time.monotonic() - self.began
            print(
                f"{', '.join(map(str, parts))}: {time.monotonic() - began:.0f} s;"
                f" {self.new} new of {self.total} cells in {spent / 60:.1f} min",
                flush=True,
            )
        return self.found[key]


def _key(parts: Sequence[object], settings: Any) -> str:
    sign = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    return "/".join([*map(str, parts), sign])
