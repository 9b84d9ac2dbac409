"""Run folders: what they say, who may use them, and that nothing is lost."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from widthwise.app.runs.folder import Run, begin, claim, hold, members, single
from widthwise.app.runs.record import Record, Settings
from widthwise.errors import RunError
from widthwise.train.recipe import Recipe

SETTINGS = Settings("digits", "default", 0, asdict(Recipe(epochs=3)))


def record(settings: Settings = SETTINGS, status: str = "running") -> Record:
    return Record(settings, "widthwise train digits --out x", {"p": 0.9}, status, "2030-01-01")


def started(folder: Path, status: str = "running", settings: Settings = SETTINGS) -> Run:
    folder.mkdir(parents=True, exist_ok=True)
    run, state = claim(folder, settings)
    begin(run, state, record(settings, status))
    return run


def test_a_record_reads_back_as_it_was_written(tmp_path):
    run = started(tmp_path / "x")
    read = run.record()
    assert read.settings.recipe == json.loads(json.dumps(SETTINGS.recipe))
    assert replace(read, settings=SETTINGS) == replace(record(), versions=read.versions)
    assert set(read.versions) == {"python", "torch", "widthwise"}


def test_the_same_settings_continue_and_find_the_finished_run(tmp_path):
    run = started(tmp_path)
    assert claim(tmp_path, SETTINGS)[1] == "continued"
    run.write(record(status="finished"))
    assert claim(tmp_path, SETTINGS)[1] == "finished"


def test_a_continued_run_keeps_the_time_of_its_start(tmp_path):
    run = started(tmp_path)
    later = replace(record(), started="2031-01-01")
    assert begin(run, "continued", later).started == "2030-01-01"
    assert run.record().started == "2030-01-01"


def test_other_settings_are_refused_by_name(tmp_path):
    started(tmp_path)
    other = replace(SETTINGS, seed=1, recipe=asdict(Recipe(epochs=4)))
    with pytest.raises(RunError, match=r"seed 0 rather than 1, epochs 3 rather than 4") as error:
        claim(tmp_path, other)
    assert "--overwrite" in str(error.value)
    assert "--out" in str(error.value)


def test_overwriting_clears_the_run_and_keeps_what_is_not_of_it(tmp_path):
    run = started(tmp_path, "finished")
    (tmp_path / "notes.txt").write_text("mine")
    run.model.write_bytes(b"old")
    run.picks.write_text("[]")
    other = replace(SETTINGS, seed=1)
    _, state = claim(tmp_path, other, overwrite=True)
    assert run.model.exists()  # nothing is lost before the new run begins
    begin(run, state, record(other))
    assert not run.model.exists()
    assert not run.picks.exists()
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert run.record().settings.seed == 1


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_other_things_is_left_alone(tmp_path, overwrite):
    (tmp_path / "thesis.tex").write_text("dear")
    with pytest.raises(RunError, match=r"thesis\.tex"):
        claim(tmp_path, SETTINGS, overwrite=overwrite)


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "null", "{}", '{"settings": 3}', "\x00\xff", "[" * 100_000,
        '{"settings": {"task": 1, "method": "a", "seed": 0, "recipe": {}}}',
        '{"settings": {"task": "a", "method": "ordered", "seed": 0, "recipe": {}}, "command": "",'
        ' "draw": {}, "status": "finished", "started": ""}',
    ],
)  # fmt: skip
def test_a_damaged_record_is_one_sentence(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(RunError, match="damaged") as error:
        Run(tmp_path).record()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("status", "done"), ("results", {"test": "good"}), ("results", {"test": 1}),
        ("versions", {"torch": 2}), ("command", None), ("extra", 1), ("draw", []),
    ],
)  # fmt: skip
def test_a_record_with_one_wrong_entry_is_refused(tmp_path, name, value):
    run = started(tmp_path)
    data = json.loads(run.record_file.read_text())
    run.record_file.write_text(json.dumps(data | {name: value}))
    with pytest.raises(RunError, match="damaged"):
        run.record()


def test_missing_folders_and_folders_without_a_run_are_told_apart(tmp_path):
    with pytest.raises(RunError, match="There is no run folder"):
        members(tmp_path / "nothing")
    with pytest.raises(RunError, match=r"no run\.json"):
        members(tmp_path)


def test_an_unfinished_run_says_how_to_finish_it(tmp_path):
    with pytest.raises(RunError, match=r"not finished.*widthwise train digits --out x"):
        started(tmp_path).finished_record()


def test_seeds_come_in_the_order_of_their_numbers(tmp_path):
    for seed in (10, 2, 0):
        started(tmp_path / f"seed-{seed}")
    assert [run.folder.name for run in members(tmp_path)] == ["seed-0", "seed-2", "seed-10"]
    with pytest.raises(RunError, match="seed-0"):
        single(tmp_path)
    assert single(tmp_path / "seed-2").folder.name == "seed-2"


HOLD = """
import sys, time
from pathlib import Path
from widthwise.app.runs.folder import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_in_use_is_refused_until_its_process_dies(tmp_path):
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(RunError, match="in use"), hold(tmp_path):
            pass
        # Killed, so that it cannot clean up: the lock file stays, the lock does not.
        other.send_signal(signal.SIGKILL)
    finally:
        other.kill()
        other.communicate()
    with hold(tmp_path):
        assert (tmp_path / ".lock").exists()


def test_a_folder_is_free_again_after_use(tmp_path):
    for _ in range(2):
        with hold(tmp_path / "new"):
            pass
    with pytest.raises(ZeroDivisionError), hold(tmp_path / "new"):
        raise ZeroDivisionError
    with hold(tmp_path / "new"):
        pass


def test_a_file_in_the_place_of_the_folder_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be used"), hold(tmp_path / "file"):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_record_is_one_sentence(tmp_path):
    run = started(tmp_path)
    run.record_file.chmod(0)
    with pytest.raises(RunError, match="readable"):
        run.record()
