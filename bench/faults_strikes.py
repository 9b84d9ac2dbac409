"""Faults: how each strikes a command, and what is looked at afterwards.

row = outcome(Trial(known["train"], "kill -9", random.Random(7), place, own_mounts=True))
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil

from faults_check import Finished, differences, fingerprint, finished, redone, unkept
from faults_child import Child, Inside, start
from faults_commands import Command, prepare

_HANGS: Final = 600.0  # seconds
_EPOCHS: Final = 4  # of the trainings in `faults_commands`


@dataclass(frozen=True)
class Undisturbed:
    """A command without a fault.

    start, end: the folder before and after. digests: of `end`. seconds: taken. moments, steps: how
    many there were. largest: file written, in bytes.
    """

    command: Command
    start: Path
    end: Path
    digests: dict[str, str]
    seconds: float
    moments: int
    steps: int
    largest: int
    grows: int


def undisturbed(command: Command, known: Mapping[str, Undisturbed], place: Path) -> Undisturbed:
    """Run a command after those that it needs. Raises RuntimeError when it fails."""
    begin, end = place / f"{command.name} start", place / f"{command.name} end"
    if command.before:
        shutil.copytree(known[command.before[-1]].end, begin)
    else:
        begin.mkdir()
        prepare(begin)
    shutil.copytree(begin, end)
    said, tally = place / f"{command.name} said", place / f"{command.name} steps"
    began = time.monotonic()
    if start(command.words, end, Inside(), said, tally).wait(_HANGS) != 0:
        raise RuntimeError(f"{command.name} fails undisturbed: {said.read_text()}")
    seconds = time.monotonic() - began
    before = {p.relative_to(begin) for p in begin.rglob("*")}
    new = [p for p in end.rglob("*") if p.is_file() and p.relative_to(end) not in before]
    return Undisturbed(
        command,
        begin,
        end,
        fingerprint(end),
        seconds,
        tally.with_suffix(".moments").stat().st_size,
        tally.stat().st_size,
        max(p.stat().st_size for p in [*new, end / "few.toml"]),
        int(tally.with_suffix(".memory").read_text()),
    )


@dataclass
class Trial:
    """One fault in one command. place: for its folder. own_mounts: whether it may be a disk."""

    known: Undisturbed
    fault: str
    random: random.Random
    place: Path
    own_mounts: bool
    hit: bool = False
    asked: bool = False  # to stop, so that nothing may be lost at all
    runs: list[tuple[Path, Path, Child]] = field(default_factory=list)  # said, steps, process
    wrong: list[str] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return self.place / "work"

    def begin(self, inside: Inside = Inside()) -> Child:  # noqa: B008  frozen
        """Start the command."""
        number = len(self.runs)
        said, steps = self.place / f"said {number}", self.place / f"steps {number}"
        for file in (said, steps, steps.with_suffix(".moments")):
            file.unlink(missing_ok=True)
        child = start(self.known.command.words, self.folder, inside, said, steps)
        self.runs.append((said, steps, child))
        return child

    def during(self, inside: Inside) -> int:
        """Run the command with a fault inside; its exit code."""
        return self.ended(self.begin(inside))

    def ended(self, child: Child, seconds: float = _HANGS) -> int:
        """Wait for it; -9 for one that hangs, which is wrong."""
        if child.wait(seconds) is None:
            self.wrong.append("it hangs")
            for each in [*child.below(), psutil.Process(child.pid)]:
                each.kill()
            child.wait(10)
        assert child.code is not None
        return child.code

    def under_way(self) -> Child:
        """The command, started a random time ago."""
        child = self.begin()
        child.wait(self.random.uniform(0.02, 0.95) * self.known.seconds)
        self.hit = child.code is None
        return child

    def moment(self) -> int:
        return self.random.randint(1, self.known.moments)

    def halfway(self) -> None:
        """A folder as a command leaves it that is killed at a random moment."""
        self.during(Inside("kill", self.moment()))


def outcome(trial: Trial) -> dict[str, Any]:
    """Let a fault strike, run the command again, and look at what is there."""
    known, folder = trial.known, trial.folder
    mounted = trial.own_mounts and trial.fault in ("full disk", "read-only folder")
    folder.mkdir()
    try:
        if mounted:
            _mount("-t", "tmpfs", "-o", "size=512m", "none", str(folder))
        shutil.copytree(known.start, folder, dirs_exist_ok=True)
        FAULTS[trial.fault](trial)
        for said, _, child in trial.runs:
            trial.wrong += complaints(child.code or 0, said.read_text(errors="replace"))
        before = finished(folder, known.command, known.steps // _EPOCHS)
        lost = _unkept(trial, before)
        if trial.ended(trial.begin()) != 0:
            trial.wrong.append(f"the next run fails: {_last(trial.runs[-1][0])}")
        trial.wrong += differences(known.digests, fingerprint(folder))
        lost += redone(before, folder, trial.runs[-1][1].stat().st_size, known.steps)
        done = {"steps": before.steps, "pieces": len(before.pieces), "trials": before.trials}
        return {"hit": trial.hit, "lost": lost, "wrong": trial.wrong, "kept": done} | {
            "codes": [child.code for _, _, child in trial.runs]
        }
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)
        shutil.rmtree(folder)


def _unkept(trial: Trial, before: Finished) -> int:
    """Steps that were taken and should have been kept. Two at once take each step once."""
    if not trial.known.command.trained:
        return 0
    taken, per_epoch = 0, trial.known.steps // _EPOCHS
    kept = [0]
    for _, steps, _ in trial.runs:
        taken = kept[-1] + steps.stat().st_size  # each goes on from what the one before kept
        kept.append(taken // per_epoch * per_epoch)
    asked = trial.asked and trial.runs[-1][2].code == 130
    return unkept(taken, before.steps, per_epoch, asked=asked) if len(trial.runs) == 1 else 0


def complaints(code: int, said: str) -> list[str]:
    """What is wrong with how a command failed; nothing with one that was killed or did not.

    One that is interrupted before it has begun need not say anything.
    """
    if code < 0:
        return []  # whatever libraries say when they crash for want of memory
    if "Traceback" in said:
        return [f"a traceback: {said.strip().splitlines()[-1]}"]
    sentences = [
        line for line in said.splitlines() if line.startswith(("Error: ", "Interrupted", "Aborted"))
    ]
    if code > 0 and len(sentences) != 1 and (code != 130 or said.strip()):
        return [f"exit code {code} with {len(sentences)} sentences"]
    return []


def _last(said: Path) -> str:
    return (said.read_text(errors="replace").strip().splitlines() or ["nothing said"])[-1]


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


# The faults. Each lets one strike and says in `trial.hit` whether it did.


def _kill(trial: Trial) -> None:
    child = trial.under_way()
    for process in child.below():
        process.kill()
    child.send(signal.SIGKILL)
    trial.ended(child)


def _kill_at_a_write(trial: Trial) -> None:
    trial.hit = trial.during(Inside("kill", trial.moment())) == -signal.SIGKILL


def _kill_inside_a_write(trial: Trial) -> None:
    at = trial.random.randint(1, trial.known.largest)
    trial.hit = trial.during(Inside("torn", at)) == -signal.SIGXFSZ


def _write_refused(trial: Trial) -> None:
    trial.during(Inside("no space", at := trial.moment()))
    trial.hit = trial.runs[-1][1].with_suffix(".moments").stat().st_size >= at


def _full_disk(trial: Trial) -> None:
    if not trial.own_mounts:
        at = trial.random.randint(1, trial.known.largest)
        trial.hit = trial.during(Inside("file size", at)) > 0
        return
    used = sum(p.stat().st_blocks * 512 for p in trial.folder.rglob("*")) + 4096
    room = trial.random.randint(0, trial.known.largest)
    folder = str(trial.folder)
    _mount("-o", f"remount,size={used + room}", folder)
    trial.hit = trial.during(Inside()) > 0
    _mount("-o", "remount,size=512m", folder)


def _read_only(trial: Trial) -> None:
    trial.halfway()
    trial.runs.clear()
    folder = trial.folder
    if trial.own_mounts:
        _mount("-o", "remount,ro", str(folder))
        trial.hit = trial.during(Inside()) > 0
        _mount("-o", "remount,rw", str(folder))
        return
    if os.geteuid() == 0:  # whom the rights of a folder do not concern
        return
    places = [folder, *(p for p in folder.rglob("*") if p.is_dir())]
    for place in places:
        place.chmod(0o555)
    trial.hit = trial.during(Inside()) > 0
    for place in places:
        place.chmod(0o755)


def _memory(trial: Trial) -> None:
    trial.hit = trial.during(Inside("memory", trial.random.randint(0, trial.known.grows // 3))) != 0


def _interrupt(trial: Trial) -> None:
    trial.asked = True
    child = trial.under_way()
    child.send(signal.SIGINT)
    trial.ended(child)


def _terminate(trial: Trial) -> None:
    trial.asked = True
    child = trial.under_way()
    child.send(signal.SIGTERM)
    trial.ended(child)


def _interrupt_at_a_write(trial: Trial) -> None:
    trial.asked = True
    trial.hit = trial.during(Inside("interrupt", trial.moment())) != 0


def _clock(trial: Trial) -> None:
    """Ten years on or back, in the next run and on all files."""
    trial.halfway()
    years = trial.random.choice((-10, 10))
    then = time.time() - years * 365.25 * 86400
    for path in trial.folder.rglob("*"):
        os.utime(path, (then, then))
    trial.during(Inside("clock", years))
    trial.hit = True


def _two_at_once(trial: Trial) -> None:
    first = trial.under_way()
    second = trial.begin()
    codes = trial.ended(first), trial.ended(second)
    if codes[0] != 0 and "in use" not in trial.runs[0][0].read_text():
        trial.wrong.append("the second process harms the first")


def _left_over(trial: Trial) -> None:
    """The lock of a process that was killed, and half a file beside each that is to be there."""
    trial.halfway()
    for name in trial.known.digests:
        if name.endswith("search.jsonl"):
            continue  # is written on, line by line
        place = trial.folder / name
        if place.parent.is_dir() and not (trial.known.start / name).exists():
            part = place.with_name(f".{place.name}.{trial.random.randbytes(6).hex()}.part")
            part.mkdir()
            (part / place.name).write_bytes(b"half")
    for lock in ("run", trial.known.command.trained, "compared"):
        if lock and (trial.folder / lock).is_dir():
            (trial.folder / lock / ".lock").write_text("4194304")
    trial.hit = True


def _worker(trial: Trial) -> None:
    child = trial.under_way()
    workers = [p for p in child.below() if _is_worker(p)]
    trial.hit = bool(workers)
    if workers:
        trial.random.choice(workers).kill()
    if trial.ended(child) != 0:
        trial.wrong.append("it does not survive the loss of a worker")


def _is_worker(process: psutil.Process) -> bool:
    words = _words(process)
    above = process.parent()
    fork = above is not None and words == _words(above)  # of the server that has imported all
    return fork if "forkserver" in " ".join(words) else "spawn_main" in " ".join(words)


def _parent_alone(trial: Trial) -> None:
    child = trial.under_way()
    below = child.below()
    child.send(signal.SIGKILL)
    trial.ended(child)
    _, alive = psutil.wait_procs(below, timeout=20)
    if alive:
        trial.wrong.append(f"{len(alive)} processes outlive it")
        for process in alive:
            process.kill()


def _words(process: psutil.Process) -> list[str]:
    try:
        words: list[str] = process.cmdline()
    except psutil.Error:
        return []
    return words


FAULTS: Final[dict[str, Callable[[Trial], None]]] = {
    "kill -9": _kill,
    "kill -9 at a write": _kill_at_a_write,
    "kill -9 inside a write": _kill_inside_a_write,
    "write refused": _write_refused,
    "full disk": _full_disk,
    "read-only folder": _read_only,
    "out of memory": _memory,
    "Ctrl-C": _interrupt,
    "Ctrl-C at a write": _interrupt_at_a_write,
    "SIGTERM": _terminate,
    "clock changed": _clock,
    "two at once": _two_at_once,
    "left over": _left_over,
    "worker killed": _worker,
    "parent alone killed": _parent_alone,
}
OF_COMPARE: Final = ("worker killed", "parent alone killed")
