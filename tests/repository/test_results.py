"""Figures that are older than their code are told."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path

import pytest

import common
from places import ROOT

SCRIPTS = ROOT / "scripts"
sys.path.insert(0, str(SCRIPTS))
import stale_results  # noqa: E402

RESULTS = sorted((SCRIPTS.parent / "bench" / "results").glob("*.json"))


@pytest.mark.parametrize("name", [path.stem for path in RESULTS])
def test_every_result_has_a_script_whose_code_is_known(name: str) -> None:
    code = stale_results.code_of(stale_results.script_of(name))
    assert code
    assert all(path.exists() for path in code)


def test_a_result_speaks_of_what_its_script_imports() -> None:
    code = stale_results.code_of(stale_results.script_of("sweep"))
    told = [str(path.relative_to(stale_results.SOURCE)) for path in code]
    assert "widthwise/measure/sweep.py" in told
    assert "widthwise/serve/app.py" not in told


def git(folder: Path, *words: str) -> str:
    own = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    done = subprocess.run(
        ["git", "-C", str(folder), *own, *words], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_commits_since_a_result_are_those_that_changed_its_code(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    code, other = tmp_path / "code.py", tmp_path / "other.py"
    for number, path in enumerate([code, other, code]):
        path.write_text(str(number))
        git(tmp_path, "add", path.name)
        git(tmp_path, "commit", "-qm", f"{path.stem} {number}")
    first = git(tmp_path, "rev-list", "--max-parents=0", "HEAD")
    (only,) = stale_results.since({"commit": first}, [code], tmp_path)
    assert only.endswith("code 2")
    assert stale_results.since({"commit": "HEAD"}, [code], tmp_path) == []
    assert len(stale_results.since({"date": "2000-01-01"}, [code], tmp_path)) == 2
    later = str(date.today() + timedelta(days=3))
    assert stale_results.since({"date": later}, [code], tmp_path) == []


def test_results_note_the_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = common.commit()
    monkeypatch.setattr(common, "RESULTS", tmp_path / "results")
    path = common.record("some", [1])
    assert json.loads(path.read_text())["results"] == [1]
    monkeypatch.undo()
    there = subprocess.run(["git", "-C", str(SCRIPTS), "status"], capture_output=True, check=False)
    assert bool(said) == (there.returncode == 0)
