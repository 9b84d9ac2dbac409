"""A budget in bytes can be one of the file that is shipped, whatever its format."""

import json

import pytest

from command_line import fails, works
from widthwise.app.runs import exports, opening
from widthwise.app.runs.folder import Run, read_frontier
from widthwise.errors import BudgetError
from widthwise.measure.frontier import Frontier, Point
from widthwise.variant import Widths


def frontier(*sizes):
    """Points whose metric grows with their bytes."""
    points = [
        Point(Widths({"a": i + 1}), 0.5 + i / 100, None, size, size // 4, size, None)
        for i, size in enumerate(sizes)
    ]
    return Frontier(tuple(points), "accuracy", True, "valid", "here")


def test_the_file_that_is_shipped_fits():
    some = frontier(1000, 2000, 4000, 8000, 16000)
    asked = []

    def size_of(point):
        asked.append(point.bytes)
        return 3 * point.bytes + 500 + (200 if point.bytes == 8000 else 0)

    assert some.pick(max_bytes=13_000, size_of=size_of).bytes == 4000
    assert some.pick(max_bytes="24.6kB", size_of=size_of).bytes == 4000  # 8000 is predicted to fit
    assert some.pick(max_bytes=24_700, size_of=size_of).bytes == 8000
    assert some.pick(max_bytes=10**6, size_of=size_of, max_params=1500).bytes == 4000
    with pytest.raises(BudgetError, match=r"at most 3.00 kB \(3000 bytes\).*3.50 kB"):
        some.pick(max_bytes=3000, size_of=size_of)
    with pytest.raises(BudgetError, match="accuracy"):
        some.pick(max_bytes=10**6, size_of=size_of, min_metric=0.9)
    asked.clear()
    many = frontier(*range(1000, 100_000, 1000))
    many.pick(max_bytes=60_000, size_of=size_of)
    assert len(asked) <= 6


def test_sizes_that_do_not_follow_are_asked_for():
    """A prediction that is wrong everywhere costs the best fit, never the budget."""
    some = frontier(1000, 2000, 4000, 8000)
    found = some.pick(max_bytes=5000, size_of=lambda p: {8000: 9000, 1000: 3000}.get(p.bytes, 5001))
    assert found.bytes == 1000


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "digits"
    works("train", "digits", "--out", folder, "--epochs", 1)
    works("sweep", folder, "--num-widths", 4, "--no-latency")
    return folder


@pytest.mark.sample(1)
@pytest.mark.parametrize("int8", [False, True])
def test_pick_cut_and_export_count_the_same_file(run, int8, tmp_path):
    opened = opening.open_run(Run(run))
    real = exports.shipped_size(opened, "onnx", int8=int8)
    points = sorted(read_frontier(run).points, key=lambda p: p.bytes)
    most = real(points[-2])  # the largest is too large by its ONNX file
    budget = ["--max-bytes", most, "--format", "onnx", *(["--int8"] if int8 else [])]
    picked = json.loads(works("pick", run, *budget, "--json"))
    assert picked["shipped_bytes"] <= most
    assert picked["shipped_bytes"] == real(
        next(p for p in points if dict(p.widths) == picked["widths"])
    )
    file, onnx = tmp_path / "small.safetensors", tmp_path / "small.onnx"
    said = works("cut", run, *budget, "--out", file)
    assert "As ONNX" in said
    assert ("--int8" in said.splitlines()[-1]) == int8
    works("export", file, *budget[2:], "--out", onnx)
    assert onnx.stat().st_size == picked["shipped_bytes"]
    if not int8:
        works("export", run, *budget, "--out", onnx)
        assert onnx.stat().st_size <= most


def test_what_no_budget_counts_is_said(run, tmp_path):
    assert "smallest gives" in fails("pick", run, "--max-bytes", 100, "--format", "onnx")
    assert "--format onnx" in fails("pick", run, "--max-bytes", 100, "--int8")
    file = tmp_path / "a.safetensors"
    works("cut", run, "--fraction", 0.5, "--out", file)
    assert "swept run" in fails("export", file, "--max-bytes", "5kB", "--out", tmp_path / "a.onnx")
