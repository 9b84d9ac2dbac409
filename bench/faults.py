"""Faults in real commands: what was lost, and what came out another than without them.

    python bench/faults.py                              # every command with every fault, once
    python bench/faults.py --faults 220 --write         # twice, and store bench/results/faults.json
    python bench/faults.py --commands train sweep --faults 10
    python bench/faults.py --undisturbed                # digests of what the commands write

Each command is run undisturbed, then with a fault at a random moment, and then once more without:
that must end with the files of the undisturbed run, byte for byte but for times, with nothing left
over and nothing done again that was finished. While a fault lasts, a command that fails must say so
in one sentence. The same number gives the same fault; faults that come after so many seconds strike
where the machine happens to be, and count only when the command was under way.

Every result is kept in a log as soon as it is there, so that a run can be interrupted and goes on
where it stopped; give another --log to begin anew. As root, full and read-only disks are real ones
(a tmpfs that nobody else sees); otherwise a limit on files, and a folder without a right to write.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import record
from faults_commands import COMMANDS
from faults_strikes import FAULTS, OF_COMPARE, Trial, Undisturbed, outcome, undisturbed

LOG = Path(tempfile.gettempdir()) / "widthwise-faults.jsonl"
_OWN = "WIDTHWISE_FAULTS_OWN_MOUNTS"


def pairs(commands: list[str]) -> list[tuple[str, str]]:
    """(command, fault), in an order that mixes them; those that take longest come last."""
    found = [(c, f) for c in commands for f in FAULTS if f not in OF_COMPARE or c == "compare"]
    random.Random(0).shuffle(found)
    return sorted(found, key=lambda pair: pair[0] == "compare")


def run(numbers: list[int], commands: list[str], log: Path) -> None:
    """Inject the faults of these numbers; each result is added to the log at once."""
    every = pairs(commands)
    known: dict[str, Undisturbed] = {}
    with tempfile.TemporaryDirectory(prefix="widthwise-faults-") as place, log.open("a") as out:
        for done, number in enumerate(numbers, start=1):
            command, fault = every[number % len(every)]
            _know(command, known, Path(place))
            began = time.monotonic()
            trial = Trial(
                known[command],
                fault,
                random.Random(number),
                Path(place),
                bool(os.environ.get(_OWN)),
            )
            row = {"number": number, "command": command, "fault": fault, **outcome(trial)}
            row["seconds"] = round(time.monotonic() - began, 1)
            out.write(json.dumps(row) + "\n")
            out.flush()
            _say(done, len(numbers), row)


def _say(done: int, of: int, row: dict[str, Any]) -> None:
    what = "; ".join(row["wrong"]) or ("as without it" if row["hit"] else "came too late")
    lost = f", {row['lost']} lost" if row["lost"] else ""
    print(f"{done}/{of} {row['command']}, {row['fault']}: {what}{lost} ({row['seconds']} s)")
    sys.stdout.flush()


def _know(name: str, known: dict[str, Undisturbed], place: Path) -> None:
    """What a command, and those before it, do when nothing disturbs them."""
    for each in (*COMMANDS[name].before, name):
        if each not in known:
            known[each] = undisturbed(COMMANDS[each], known, place)


def digests(commands: list[str]) -> dict[str, dict[str, str]]:
    """Command -> file -> digest of all but times, when nothing disturbs them."""
    _import_all()
    with tempfile.TemporaryDirectory(prefix="widthwise-faults-") as place:
        known: dict[str, Undisturbed] = {}
        for name in commands:
            _know(name, known, Path(place))
        return {name: known[name].digests for name in commands}


def rows(log: Path, faults: int, commands: list[str]) -> Iterator[dict[str, Any]]:
    """What the log holds of the first `faults` numbers."""
    every = pairs(commands)
    if log.exists():
        for line in log.read_text().splitlines():
            row = json.loads(line)
            pair = every[row["number"] % len(every)]
            if row["number"] < faults and pair == (row["command"], row["fault"]):
                yield row


def summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of a run."""
    hit = [row for row in found if row["hit"]]
    wrong = [row for row in found if row["wrong"]]
    table: dict[str, dict[str, int]] = {}
    for row in hit:
        of = table.setdefault(row["fault"], {})
        of[row["command"]] = of.get(row["command"], 0) + 1
    return {
        "faults": len(hit),
        "too_late": len(found) - len(hit),
        "lost": sum(row["lost"] for row in found),
        "wrong": len(wrong),
        "what_was_wrong": [
            {k: row[k] for k in ("number", "command", "fault", "wrong")} for row in wrong
        ],
        "kept": {k: sum(row["kept"][k] for row in hit) for k in ("steps", "pieces", "trials")},
        "struck": {fault: dict(sorted(of.items())) for fault, of in sorted(table.items())},
        "minutes": round(sum(row["seconds"] for row in found) / 60, 1),
    }


def _own_mounts() -> None:
    """Start this script again where its mounts are its own, if the system allows that."""
    if _OWN in os.environ or os.geteuid() != 0 or shutil.which("unshare") is None:
        return
    if os.system("unshare -m mount -t tmpfs none /mnt 2>/dev/null") == 0:  # noqa: S605
        os.environ[_OWN] = "1"
        os.execvp("unshare", ["unshare", "-m", sys.executable, *sys.argv])  # noqa: S606


def _import_all() -> None:
    """What the commands import, so that their processes need not."""
    import accelerate
    import matplotlib.backends.backend_agg
    import onnxruntime
    import onnxscript
    import optuna
    import plotly
    import pydantic
    import sklearn.datasets
    import torch

    from widthwise.app.cli import main

    for name in main.COMMANDS:
        main.command(name)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    assert all((accelerate, matplotlib, onnxruntime, onnxscript, optuna, plotly, pydantic, sklearn))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--faults", type=int, default=None, help="how many; by default every one")
    parser.add_argument("--commands", nargs="+", choices=[*COMMANDS], default=[*COMMANDS])
    parser.add_argument("--without", nargs="+", choices=[*FAULTS], default=[], help="not these")
    parser.add_argument("--log", type=Path, default=LOG, help="where results are kept")
    parser.add_argument("--write", action="store_true", help="store the figures")
    parser.add_argument("--undisturbed", action="store_true", help="inject nothing; print digests")
    options = parser.parse_args()
    commands = [name for name in COMMANDS if name in options.commands]
    if options.undisturbed:
        print(json.dumps(digests(commands), indent=1))
        return
    _own_mounts()
    count = options.faults or len(pairs(commands))
    known = {row["number"] for row in rows(options.log, count, commands)}
    if known:
        print(f"{len(known)} of {count} faults are in {options.log} already.")
    every = pairs(commands)
    left_out = {n for n in range(count) if every[n % len(every)][1] in options.without}
    numbers = [n for n in range(count) if n not in known | left_out]
    if numbers:
        _import_all()
        run(numbers, commands, options.log)
    found = summary(list(rows(options.log, count, commands)))
    print(json.dumps(found, indent=1))
    if options.write:
        print(f"written to {record('faults', found)}")
    if found["wrong"] or found["lost"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
