"""`widthwise search`: what it stores is within the budget, and it goes on where it was stopped."""

from __future__ import annotations

from pathlib import Path

import pytest

import widthwise as ww
from command_line import fails, widthwise, works
from widthwise.app.report.picks import load_picks
from widthwise.app.runs import searches
from widthwise.app.runs.folder import Run
from widthwise.app.runs.measuring import evaluation
from widthwise.app.runs.opening import open_run
from widthwise.app.tasks.resolve import resolve
from widthwise.measure.evaluation import Evaluation

BUDGET = ("--max-bytes", "4kB")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("search") / "run"
    works("train", "digits", "--out", out, "--epochs", 6)
    return out


def test_the_best_is_stored_and_read_back(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "small.safetensors"
    said = works("search", folder, *BUDGET, "--trials", 6, "--out", out)
    assert out.stat().st_size <= 4000
    variant = ww.variant_of(out)
    assert f"fc1 {variant.widths['fc1']}" in said
    assert "Best of 6 within the budget: valid" in said
    assert "bits" in said
    assert f"Next: widthwise export {out} --task digits" in said.replace("\n", " ")
    (pick,) = load_picks(Run(folder).picks)
    assert (pick.name, pick.bytes, pick.widths) == ("small", out.stat().st_size, variant.widths)
    assert "bits" in pick.post_process
    assert pick.test is not None
    assert pick.test > 0.5
    # The same command measures nothing anew.
    trials = Run(folder).trials.read_bytes()
    again = tmp_path / "again.safetensors"
    works("search", folder, *BUDGET, "--trials", 6, "--out", again)
    assert again.read_bytes() == out.read_bytes()
    assert Run(folder).trials.read_bytes().startswith(trials)
    assert b'"state":1' not in Run(folder).trials.read_bytes()[len(trials) :]
    assert ww.load(out, resolve("digits").model) is not None


def test_training_holds_zeros_and_bits_and_the_budget(folder: Path, tmp_path: Path) -> None:
    plain, out = tmp_path / "plain.safetensors", tmp_path / "trained.safetensors"
    works("search", folder, *BUDGET, "--trials", 8, "--out", plain)
    works("search", folder, *BUDGET, "--trials", 8, "--out", out, "--epochs", 2)
    assert out.stat().st_size <= 4000
    before, after = ww.variant_of(plain), ww.variant_of(out)
    assert before.bits or after.bits  # another finalist may be the best once all are trained
    noted = {pick.name: pick for pick in load_picks(Run(folder).picks)}
    assert noted["trained"].post_process.endswith("fine-tune")
    assert noted["trained"].valid != noted["plain"].valid


def test_a_stopped_search_says_how_to_go_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "x.safetensors"
    words = ("search", folder, *BUDGET, "--trials", 3, "--seed", 5, "--out", out)

    def stopped(*_: object) -> float:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Evaluation, "__call__", stopped)
        result = widthwise(*words)
    assert result.exit_code == 130
    again = result.stderr.split("same command: ")[1].split()
    assert again[:3] == ["widthwise", "search", str(folder)]
    works(*again[1:])
    assert out.exists()


def test_it_searches_along_the_frontier(folder: Path) -> None:
    opened = open_run(Run(folder))
    assert searches.RunSearch(opened, ww.Budget(max_bytes=4000))._levels() == ()
    works("sweep", folder, "--num-widths", 4, "--no-latency")
    levels = searches.RunSearch(opened, ww.Budget(max_bytes=4000))._levels()
    assert 1 <= len(levels) <= 4
    assert {*levels[-1]} == {*opened.net.free}


def test_what_cannot_be(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.safetensors"
    asked = ("search", folder, "--out", out, "--trials", 1)
    assert "at most 90 bytes; the nearest has" in fails(*asked, "--max-bytes", 90)
    assert "Give a budget" in fails(*asked)
    assert "belongs to the run" in fails(*asked[:3], Run(folder).trials, *BUDGET)
    assert widthwise(*asked, *BUDGET, "--lr", 0.1).exit_code == 2
    assert not out.exists()
    before = Run(folder).trials.read_bytes()
    try:
        Run(folder).trials.write_text("no journal\n")
        assert "search.jsonl is damaged" in fails(*asked, *BUDGET)
    finally:
        Run(folder).trials.write_bytes(before)


def test_ordered_runs_are_reconstructed(tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "x.safetensors"
    works("train", "digits", "--out", tmp_path / "plain", "--epochs", 3, "--method", "plain")
    works("order", "digits", "--from", tmp_path / "plain", "--out", run, "--samples", 300)
    works("search", run, *BUDGET, "--trials", 2, "--out", out)
    (pick,) = load_picks(Run(run).picks)
    opened = open_run(Run(run))
    bare = ww.apply(opened.net, ww.variant_of(out)).module
    assert pick.valid is not None
    assert pick.valid > evaluation(opened.task, opened.task.splits(), "valid")(bare)
