"""Nothing is lost: a sample of `bench/faults.py`, its checkers on broken input, and each cure."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import typer

import faults
from faults_check import Finished, differences, fingerprint, finished, redone, unkept
from faults_commands import COMMANDS
from faults_strikes import complaints
from places import TESTS
from widthwise.app.cli import common
from widthwise.app.compare import matrix
from widthwise.app.runs.folder import claim, hold
from widthwise.app.runs.record import Settings
from widthwise.common import lock
from widthwise.common.atomic import atomic_replace, left_over, write_whole
from widthwise.errors import FileError
from widthwise.store.tensorfile import write as write_tensors

# ---------------------------------------------------------------- the harness


def test_a_sample_of_faults(tmp_path):
    log = tmp_path / "log.jsonl"
    words = [sys.executable, faults.__file__, "--commands", "train", "order", "--faults", "8"]
    # Where memory ends differs from run to run, and so does what libraries say then.
    words += ["--without", "out of memory"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [*words, "--log", str(log)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    found = faults.summary(rows)
    assert len(rows) == 7
    assert found["faults"] >= 4  # some may come too late
    assert (found["lost"], found["wrong"]) == (0, 0)
    # What is in the log is not done again.
    again = subprocess.run(
        [*words, "--log", str(log)], env=environment, capture_output=True, text=True, check=True
    )
    assert "7 of 8 faults are in" in again.stdout
    assert len(log.read_text().splitlines()) == 7


def test_every_command_meets_every_fault():
    every = faults.pairs([*COMMANDS])
    assert len(every) == len(set(every)) >= 100
    assert {command for command, _ in every} == set(COMMANDS)


def test_what_differs_is_told(tmp_path):
    import torch

    first, second = tmp_path / "first", tmp_path / "second"
    (first / "run").mkdir(parents=True)
    write_tensors(first / "run" / "model.safetensors", {"w": torch.zeros(3)}, "{}")
    (first / "run" / "run.json").write_text('{"started": "then", "results": {"valid": 0.5}}')
    (first / "run" / ".lock").touch()
    shutil.copytree(first, second)
    (second / "run" / "run.json").write_text('{"started": "now", "results": {"valid": 0.5}}')
    (second / "run" / ".lock").unlink()
    wanted = fingerprint(first)
    assert differences(wanted, fingerprint(second)) == []

    write_tensors(second / "run" / "model.safetensors", {"w": torch.tensor([0, 0, 1e-30])}, "{}")
    (second / "run" / "run.json").write_text('{"started": "now", "results": {"valid": 0.6}}')
    (second / "run" / ".x.0123456789ab.part").touch()
    (second / "run" / "empty").mkdir()
    assert differences(wanted, fingerprint(second)) == [
        "run/.x.0123456789ab.part is left over",
        "run/empty/ is left over",
        "run/model.safetensors is another",
        "run/run.json is another",
    ]
    (second / "run" / "model.safetensors").unlink()
    assert "run/model.safetensors is missing" in differences(wanted, fingerprint(second))


def test_work_that_is_done_again_is_counted(tmp_path):
    unit = tmp_path / "compared" / "units" / "elastic-4000-0.json"
    unit.parent.mkdir(parents=True)
    unit.write_text("[]")
    before = finished(tmp_path, COMMANDS["compare"])
    assert redone(before, tmp_path, 0, 0) == 0
    write_whole(unit, [b"[]"])  # the same, measured again
    assert redone(before, tmp_path, 0, 0) == 1
    unit.unlink()
    assert redone(before, tmp_path, 0, 0) == 1

    nothing = Finished(0, {}, 0)
    kept = replace(nothing, steps=30)
    assert redone(kept, tmp_path, 50, 80) == 0
    assert redone(kept, tmp_path, 53, 80) == 3

    (tmp_path / "run").mkdir()
    ends = [{"op_code": 6, "trial_id": t, "state": 1, "values": [0.5]} for t in (0, 1, 1)]
    (tmp_path / "run" / "search.jsonl").write_text("".join(json.dumps(e) + "\n" for e in ends))
    assert redone(nothing, tmp_path, 0, 0) == 1


def test_steps_that_were_not_kept_are_counted():
    assert unkept(20, 20, 20, asked=False) == 0
    assert unkept(39, 20, 20, asked=False) == 0
    assert unkept(40, 20, 20, asked=False) == 0  # killed before the checkpoint was whole
    assert unkept(41, 20, 20, asked=False) == 20
    assert unkept(41, 40, 20, asked=True) == 1  # asked to stop, it keeps the very last


def test_failures_without_a_sentence_are_told():
    assert complaints(0, "Trained: run") == []
    assert complaints(-9, "epoch 1 of 4") == []
    assert complaints(1, "epoch 1\nError: run is in use by another widthwise process; wait.") == []
    assert complaints(130, "") == []  # before it had begun
    assert complaints(130, "epoch 1") == ["exit code 130 with 0 sentences"]
    assert complaints(1, "epoch 1") == ["exit code 1 with 0 sentences"]
    assert complaints(1, "Error: a\nError: b") == ["exit code 1 with 2 sentences"]
    said = "Traceback (most recent call last):\n  File x\nOSError: No space"
    assert complaints(1, said) == ["a traceback: OSError: No space"]


# ---------------------------------------------------------------- what a kill leaves behind

KILLED = """
import os, signal, sys
from pathlib import Path
from widthwise.common.atomic import atomic_replace, write_whole

def chunks():
    yield b"half"
    print("writing", flush=True)
    sys.stdin.read()

place = Path(sys.argv[1])
if sys.argv[2] == "file":
    write_whole(place, chunks())
else:
    with atomic_replace(place) as made:
        made.write_bytes(b"half")
        print("writing", flush=True)
        sys.stdin.read()
"""


@pytest.mark.sample(1)
@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_a_killed_process_leaves_goes_with_the_next_write(tmp_path, what):
    path, other = tmp_path / "model.st", tmp_path / "model.st.json"
    (tmp_path / "own.part").touch()  # of the user
    words = [sys.executable, "-c", KILLED, str(path), what]
    writer = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "writing\n"
        (part,) = tmp_path.glob(".*.part")
        assert left_over(part.name)
        write_whole(path, [b"mine"])
        assert part.exists()  # its process lives
    finally:
        writer.kill()
        writer.communicate()
    write_whole(other, [b"of another name"])
    assert part.exists()
    if what == "file":
        with atomic_replace(path) as made:
            made.write_bytes(b"whole")
    else:
        write_whole(path, [b"whole"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.st", "model.st.json", "own.part"]
    assert path.read_bytes() == b"whole"


def test_what_is_looked_at_and_refused_takes_no_place(tmp_path):
    path = tmp_path / "model.st"
    path.write_bytes(b"before")

    def write(error: Exception) -> None:
        with atomic_replace(path) as made:
            made.write_bytes(b"after")
            raise error

    with pytest.raises(FileError, match="not as good"):
        write(FileError("It is not as good; save it again."))
    with pytest.raises(FileError, match=r"model\.st could not be written \(No space"):
        write(OSError(28, "No space left on device"))
    assert path.read_bytes() == b"before"
    assert [p.name for p in tmp_path.iterdir()] == ["model.st"]


def _half(folder: Path, name: str) -> None:
    """What a process leaves that was killed while it wrote a file."""
    part = folder / f".{name}.0123456789ab.part"
    part.mkdir()
    (part / name).write_text("{")


def test_a_run_that_was_killed_at_its_first_write_begins_again(tmp_path):
    with hold(tmp_path):
        _half(tmp_path, "run.json")
        _, state = claim(tmp_path, Settings("digits", "default", 0, {}))
    assert state == "new"
    with hold(tmp_path):
        assert [p.name for p in tmp_path.iterdir()] == [".lock"]


def test_a_link_is_not_what_a_process_left(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "work").touch()
    (tmp_path / ".a.0123456789ab.part").symlink_to(tmp_path / "mine")
    write_whole(tmp_path / "a", [b"whole"])
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["work"]


def test_without_locks_nobody_is_kept_out_and_nothing_is_taken_away(tmp_path, monkeypatch):
    def missing(handle: int, *, blocking: bool) -> bool:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(lock, "lock_descriptor", missing)
    _half(tmp_path, "a")
    with hold(tmp_path), hold(tmp_path):
        write_whole(tmp_path / "a", [b"whole"])
    names = [".a.0123456789ab.part", ".lock", "a"]
    assert sorted(p.name for p in tmp_path.iterdir()) == names


def test_checkpoints_of_a_training_that_is_done_do_not_stay(tmp_path):
    trained = tmp_path / "trained"
    for name in ("plain-0", "elastic-0"):
        (trained / name).mkdir(parents=True)
        (trained / name / "checkpoint.safetensors").touch()
    (trained / "plain-0.json").write_text('{"seconds": 1.0}')
    _half(trained, "plain-0.json")
    matrix._tidy(tmp_path)
    assert sorted(p.name for p in trained.iterdir()) == ["elastic-0", "plain-0.json"]


PARENT = """
import os, sys, time
from comparison_helpers import sleeps
from widthwise.app.compare.engines import Local

if __name__ == "__main__":
    with Local(2) as engine:
        for key, _ in engine.run(sleeps, {"a": (0.0,), "b": (60.0,)}):
            print(key, flush=True)
"""


def test_workers_end_with_their_parent(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    path = os.pathsep.join([str(TESTS), *sys.path])
    parent = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    try:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "a\n"
        below = psutil.Process(parent.pid).children(recursive=True)
        assert len(below) >= 2
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        parent.stdout.close()  # type: ignore[union-attr]
    _, alive = psutil.wait_procs(below, timeout=20)
    assert not alive


# ---------------------------------------------------------------- in one sentence


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(28, "No space left on device", "a/b"), "for a/b (No space left on device)"),
        (MemoryError(), "too little memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "too little"),
        (ImportError("x.so: failed to map segment from shared object"), "too little memory"),
    ],
)
def test_what_the_machine_refuses_is_one_sentence(error, sentence, capsys):
    @common.cli_errors
    def command() -> None:
        raise error

    with pytest.raises(typer.Exit) as ended:
        command()
    assert ended.value.exit_code == 1
    said = capsys.readouterr().err
    assert said.startswith("Error: ")
    assert sentence in said
    assert said.count("\n") == 1


def test_what_comes_of_too_little_memory_is_that_too(capsys):
    @common.cli_errors
    def command() -> None:
        try:
            raise MemoryError
        except MemoryError:
            int("x")  # such as a clean-up that fails in its turn

    with pytest.raises(typer.Exit):
        command()
    assert "too little memory" in capsys.readouterr().err


def test_ctrl_c_anywhere_is_one_word(capsys):
    @common.cli_errors
    def command() -> None:
        raise KeyboardInterrupt

    with pytest.raises(typer.Exit) as ended:
        command()
    assert ended.value.exit_code == 130
    assert capsys.readouterr().err == "Interrupted.\n"


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("shapes"),
        ImportError("name"),
        BrokenPipeError(32, ""),
        FileNotFoundError(2, ""),
    ],
)
def test_mistakes_of_programs_are_shown_as_they_are(error):
    scope = {"error": error}
    exec(compile("def command():\n    raise error", "<ours>", "exec"), scope)
    with pytest.raises(type(error)):
        common.cli_errors(scope["command"])()


def test_mistakes_in_the_users_code_are_one_sentence_with_the_place(capsys):
    @common.cli_errors
    def command() -> None:
        raise RuntimeError("shapes")

    with pytest.raises(typer.Exit) as ended:
        command()
    assert ended.value.exit_code == 1
    assert re.match(r"Error: RuntimeError: shapes \(.*test_faults\.py:\d+", capsys.readouterr().err)


@pytest.fixture(params=[signal.default_int_handler, signal.SIG_IGN], ids=["heard", "ignored"])
def _ctrl_c(request):
    """Ctrl-C is heard, or ignored as in what a script begins in the background."""
    before = signal.signal(signal.SIGINT, request.param)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_ctrl_c")
@pytest.mark.parametrize(
    "guard", [lambda: common.interruptible("widthwise"), common.all_or_nothing]
)
def test_sigterm_is_ctrl_c(guard, capsys):
    def work() -> None:
        with guard():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(typer.Exit) as ended:
        work()
    assert ended.value.exit_code == 130
    assert "Interrupted; " in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == before
