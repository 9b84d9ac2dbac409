"""What a command left in its folder, so that two runs can be held against each other.

before = finished(folder, command)          # after the fault
wrong = differences(fingerprint(reference), fingerprint(folder))
lost = redone(before, folder, command)      # after the command was run again
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from faults_commands import Command
from widthwise.common.lock import is_lock

# Times of day and how long something took differ from run to run, and checksums over them.
_TIMES: Final = {
    "started",
    "finished",
    "seconds",
    "processor",
    "latency_ms",
    "own_seconds",
    "shared_seconds",
}
_SUMS: Final = {"sha256", "checksum"}
_CLOCK = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00")
_SHOWS_TIMES: Final = ("comparison", "curves", "latency", "cost")  # of a comparison: page, pictures


def fingerprint(folder: Path) -> dict[str, str]:
    """File -> digest of all that it holds but times; of locks and empty folders, nothing."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir():
            if not any(path.iterdir()):
                found[name + "/"] = ""
        elif not is_lock(path.name):
            found[name] = hashlib.sha256(_content(path)).hexdigest()[:16]
    return found


def _content(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix == ".json":
        return json.dumps(_timeless(json.loads(data)), sort_keys=True).encode()
    if path.name == "checkpoint.safetensors":
        return _checkpoint(data)
    if path.name == "search.jsonl":
        return json.dumps(_trials(path), sort_keys=True).encode()
    if path.suffix == ".csv":
        rows = list(csv.DictReader(io.StringIO(data.decode())))
        kept = [{k: v for k, v in row.items() if not _is_time(k)} for row in rows]
        return json.dumps(kept, sort_keys=True).encode()
    if path.suffix in (".html", ".png", ".svg") and path.stem.startswith(_SHOWS_TIMES):
        return b"there"
    return _CLOCK.sub(b"then", data) if path.suffix == ".html" else data


def _is_time(name: str) -> bool:
    return "second" in name or "latency" in name or name.endswith(" ms") or name in _TIMES


def _timeless(data: Any) -> Any:
    if isinstance(data, dict):
        return {k: _timeless(v) for k, v in data.items() if k not in _TIMES | _SUMS}
    return [_timeless(v) for v in data] if isinstance(data, list) else data


def _checkpoint(data: bytes) -> bytes:
    """Its tensors as they are, its metadata without times and the checksum that covers them."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"] = _timeless(json.loads(header["__metadata__"]["widthwise"]))
    return json.dumps(header, sort_keys=True).encode() + data[end:]


def _trials(path: Path) -> list[Any]:
    """The trials of a journal, by number, as its reader sees them."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with tempfile.TemporaryDirectory() as place:
        copy = shutil.copy(path, Path(place) / path.name)  # reading makes locks
        backend = optuna.storages.journal.JournalFileBackend(str(copy))
        storage = optuna.storages.JournalStorage(backend)
        return [
            [t.number, t.state.name, t.values, t.params, t.user_attrs, str(t.constraints)]
            for study in storage.get_all_studies()
            for t in storage.get_all_trials(study._study_id, deepcopy=False)
        ]


def differences(wanted: dict[str, str], found: dict[str, str]) -> list[str]:
    """What is missing, left over, or another, in words; nothing where the folders are equal."""
    return [
        *(f"{name} is missing" for name in wanted if name not in found),
        *(f"{name} is left over" for name in found if name not in wanted),
        *(f"{n} is another" for n, d in found.items() if n in wanted and d != wanted[n]),
    ]


@dataclass(frozen=True)
class Finished:
    """Work that was done and kept.

    steps: of a training's optimizer, in its checkpoint. pieces: file -> its identity, of shared
    trainings and units. trials: of a search.
    """

    steps: int
    pieces: dict[str, tuple[int, int]]
    trials: int


def finished(folder: Path, command: Command, per_epoch: int = 0) -> Finished:
    """What a folder holds of finished work. per_epoch: steps of a training's epoch."""
    pieces = [p for place in ("trained", "units") for p in folder.glob(f"compared/{place}/*.json")]
    return Finished(
        _steps(folder / command.trained, per_epoch) if command.trained else 0,
        {p.name: _identity(p) for p in pieces},
        sum(_told(folder / "run" / "search.jsonl").values()) if command.name == "search" else 0,
    )


def redone(before: Finished, folder: Path, steps: int, of: int) -> int:
    """How many finished pieces, trials or steps were done again after a fault.

    steps: that the optimizer took after it, of the `of` of an undisturbed run.
    """
    after = {p.name: _identity(p) for p in folder.glob("compared/*/*.json")}
    pieces = sum(after.get(name) != identity for name, identity in before.pieces.items())
    trials = sum(times - 1 for times in _told(folder / "run" / "search.jsonl").values())
    return pieces + trials + max(0, steps - (of - before.steps))


def unkept(taken: int, kept: int, per_epoch: int, *, asked: bool) -> int:
    """How many steps a checkpoint lacks that it should have.

    taken: by all processes since the beginning; kept: in the checkpoint. One is written after every
    epoch, before the next begins, and at once where a run is asked to stop.
    """
    epochs, over = divmod(taken, per_epoch)
    owed = taken if asked else (epochs if over else max(0, epochs - 1)) * per_epoch
    return max(0, owed - kept)


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_ino, found.st_mtime_ns


def _steps(run: Path, per_epoch: int) -> int:
    from widthwise.train import checkpoint

    found = checkpoint.load(run)
    if found is None:
        return 0
    # A training along levels has two phases, and its second counts its own steps.
    before: Any = found.run.get("warm_up", [])
    return len(before) * per_epoch + found.step


def _told(journal: Path) -> Counter[int]:
    """Trial -> how often the journal says that it ended."""
    told: Counter[int] = Counter()
    if journal.exists():
        for line in journal.read_bytes().splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue  # the last line, not written to its end
            if entry.get("op_code") == _ENDED and entry.get("state") in _ENDS:
                told[entry["trial_id"]] += 1
    return told


_ENDED: Final = 6  # of optuna's journal: the state of a trial is set
_ENDS: Final = (1, 2, 3)  # complete, pruned, failed
