"""Runs that are pruned while they are trained, from the command line to the stored files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from command_line import fails, widthwise, works
from widthwise.app.report.picks import load_picks
from widthwise.app.runs import opening
from widthwise.app.runs.folder import Run
from widthwise.store.file import read

SPARSE = ("--epochs", 6, "--batch-size", 64, "--sparsity", 0.8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sparse") / "run"
    works("train", "digits", "--out", out, *SPARSE)
    works("sweep", out, "--num-widths", 6)
    return out


def zeros(path: Path) -> float:
    weights = [t for t in read(path)[0].values() if t.dim() == 2]
    return sum(int((t == 0).sum()) for t in weights) / sum(t.numel() for t in weights)


def test_the_run_says_how_it_was_pruned(folder: Path) -> None:
    record = Run(folder).record()
    assert record.settings.pruning["sparsity"] == 0.8
    assert record.command.endswith("--sparsity 0.8")
    assert zeros(Run(folder).model) == pytest.approx(0.8, abs=0.01)


def test_every_width_is_sparse_and_its_bytes_are_those_of_the_file(
    folder: Path, tmp_path: Path
) -> None:
    points = json.loads(Run(folder).frontier.read_text())["points"]
    for i, point in enumerate(points[:: max(1, len(points) // 4)]):
        out = tmp_path / f"{i}.safetensors"
        named = [word for a, w in point["widths"].items() for word in ("--width", f"{a}={w}")]
        works("cut", folder, "--out", out, *named)
        assert out.stat().st_size == point["bytes"]
        assert zeros(out) == pytest.approx(0.8, abs=0.04)


@pytest.mark.parametrize("post_process", ["distill", "fine-tune"])
def test_post_processing_leaves_zeros_alone(
    folder: Path, tmp_path: Path, post_process: str
) -> None:
    plain, out = tmp_path / "plain.safetensors", tmp_path / "touched.safetensors"
    works("cut", folder, "--fraction", 0.5, "--out", plain)
    works("cut", folder, "--fraction", 0.5, "--out", out, "--post-process", post_process)
    assert zeros(out) == zeros(plain)
    noted = {pick.name: pick.post_process for pick in load_picks(Run(folder).picks)}
    assert noted["plain"] == ""
    assert noted["touched"] == post_process
    assert out.read_bytes() != plain.read_bytes()


def test_a_dense_run_is_stored_dense(tmp_path: Path) -> None:
    works("train", "digits", "--out", tmp_path / "run", "--epochs", 1)
    assert Run(tmp_path / "run").record().settings.pruning == {}
    assert opening.open_run(Run(tmp_path / "run")).pack == "none"


def test_feedback_and_sam(tmp_path: Path) -> None:
    out = tmp_path / "run"
    works("train", "digits", "--out", out, *SPARSE, "--dpf", "--sam", 0.05, "--scope", "layer")
    record = Run(out).record()
    assert record.settings.pruning["dpf"] is True
    assert record.settings.recipe["sam"] == 0.05
    assert "--dpf" in record.command.split()
    assert zeros(Run(out).model) == pytest.approx(0.8, abs=0.01)
    # The command that the run keeps is the one that makes it.
    words = record.command.split()[1:]
    assert works(*words).startswith("Finished before")


def test_what_cannot_be(folder: Path, tmp_path: Path) -> None:
    other = fails("train", "digits", "--out", folder, *SPARSE[:-1], 0.9)
    assert "pruning sparsity 0.8 rather than 0.9" in other
    for words, said in (
        (("--prune-start", 0.5), "give --sparsity too"),
        (("--sparsity", 1), "between 0 and 1"),
        (("--sparsity", 0.5, "--prune-start", 0.9), "first one the smaller"),
        (("--sam", -1), "above 0"),
    ):
        wrong = widthwise("train", "digits", "--out", tmp_path / "run", *words)
        assert wrong.exit_code == 2
        assert said in " ".join(wrong.stderr.replace("│", " ").split())
        assert not (tmp_path / "run").exists()
