"""`widthwise bench`, and networks that are really timed; no test says how long anything takes."""

import importlib.util
import json
import shlex
import shutil

import pytest
import torch
from torch import nn

import widthwise as ww
from command_line import fails, widthwise, works
from widthwise.app.cli.bench import EXAMPLES
from widthwise.app.cli.main import command
from widthwise.app.report.picks import Pick, save_picks
from widthwise.app.runs import timings
from widthwise.app.runs.folder import Run
from widthwise.app.tasks.mlp import MLP
from widthwise.benchmark import granularity as grains
from widthwise.benchmark import speed, timing
from widthwise.benchmark.speed import BOTH, speeds
from widthwise.benchmark.timing import Spread
from widthwise.errors import CaptureError


@pytest.fixture(autouse=True)
def _hasty(monkeypatch):
    """Calls are timed as briefly as can be."""
    monkeypatch.setattr(timing, "_BLOCK", 1e-6)
    monkeypatch.setattr(timing, "_PASSES", (1, 1))


def without(monkeypatch, *missing):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name in missing else found(name, *a)
    )


# Networks.


class Fixed(nn.Module):
    """A network of one batch size."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 4)

    def forward(self, x):
        return self.fc(x.reshape(4, 6))


class Unexportable(nn.Module):
    """What it does cannot be captured."""

    def forward(self, x):
        return torch.tensor(x.sum().item()) if x.sum().item() > 0 else x


def test_all_networks_are_timed_in_both_runtimes_at_both_batches():
    full, small = MLP(8, 8, 3).train(), MLP(8, 4, 3).eval()
    found = speeds({"full": full, "small": small}, (torch.randn(4, 8),), repeats=6, threads=1)
    assert [(r.runtime, r.batch, r.network) for r in found.rows] == [
        (runtime, batch, name)
        for runtime in BOTH
        for batch in (1, 32)
        for name in ("full", "small")
    ]
    assert found.notes == ()
    for row in found.rows:
        assert row.threads == 1
        ms = row.milliseconds
        assert 0 < ms.low <= ms.median <= ms.high
        assert row.ratio.low <= row.ratio.median <= row.ratio.high
        if row.network == "full":
            assert row.ratio == Spread(1, 1, 1)
    assert full.training
    assert not small.training


def test_token_sequences_keep_their_length_and_named_inputs_their_names():
    seen = []

    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.fc = nn.Embedding(20, 8), nn.Linear(8, 5)

        def forward(self, tokens, mask):
            if not torch.compiler.is_compiling():
                seen.append((tuple(tokens.shape), tuple(mask.shape)))
            return self.fc(self.embedding(tokens) * mask[..., None])

    tokens, mask = torch.zeros(3, 7, dtype=torch.int64), torch.ones(3, 7)
    found = speeds({"full": Reader()}, (), {"mask": mask, "tokens": tokens}, repeats=6)
    assert found.notes == ()
    assert {row.batch for row in found.rows} == {1, 32}
    assert {((1, 7), (1, 7)), ((32, 7), (32, 7))} <= set(seen)


@pytest.mark.parametrize("package", ["onnxruntime", "onnxscript"])
def test_without_onnx_runtime_there_are_the_figures_of_pytorch(package, monkeypatch):
    without(monkeypatch, package)
    found = speeds({"full": MLP(8, 8, 3)}, (torch.randn(4, 8),), repeats=6)
    assert {row.runtime for row in found.rows} == {"PyTorch"}
    assert found.notes == (
        f"ONNX Runtime was not timed: it needs {package}, which is not installed; install it with: "
        "pip install 'widthwise[onnx]'",
    )


def test_what_cannot_be_exported_is_timed_in_pytorch():
    found = speeds({"full": Unexportable()}, (torch.randn(4, 8),), repeats=6)
    assert {row.runtime for row in found.rows} == {"PyTorch"}
    (note,) = found.notes
    assert note.startswith("ONNX Runtime was not timed: Unexportable cannot be exported to ONNX")
    assert "try the other format" not in note


def test_a_network_of_one_batch_size_is_timed_at_that(monkeypatch):
    without(monkeypatch, "onnx")
    found = speeds({"full": Fixed()}, (torch.randn(4, 6),), repeats=6)
    assert [(row.runtime, row.batch) for row in found.rows] == [("PyTorch", 4)]
    assert [note.partition(",")[0] for note in found.notes[:2]] == [
        "Batch 1 was not timed",
        "Batch 32 was not timed",
    ]


def test_inputs_that_no_batch_can_be_made_of_are_refused():
    with pytest.raises(CaptureError, match="no batch whose size could vary"):
        speeds({"full": MLP(8, 8, 3)}, ())
    with pytest.raises(CaptureError, match=r"fails on the example .*; give another"):
        speeds({"full": MLP(8, 8, 3)}, (torch.randn(4, 9),))


def test_a_network_is_timed_around_half_of_its_widths():
    net = ww.Elastic(MLP(64, 64, 10), torch.randn(4, 64))
    found = grains.granularity(net, repeats=6, runtimes=("PyTorch",), batches=(1,))
    (row,) = found.rows
    assert (row.runtime, row.batch, row.coarsest) == ("PyTorch", 1, 16)
    assert list(row.longer) == [1, 4, 8]
    assert found.around == {"fc1": 32, "fc2": 32}
    assert row.recommended in (None, 1, 4, 8, 16)


def test_narrow_and_bound_axes_say_so():
    narrow = grains.granularity(ww.Elastic(MLP(64, 16, 10), torch.randn(4, 64)))
    assert narrow.rows == ()
    assert narrow.notes == (
        "Half of the axes have less than 32 features, too few to tell multiples apart.",
    )
    asked = ww.Constraints(multiple_of={"*": 8})
    bound = grains.granularity(ww.Elastic(MLP(64, 64, 10), torch.randn(4, 64), constraints=asked))
    assert bound.rows == ()
    assert "leave no width to choose" in bound.notes[0]


# The command.


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "digits"
    works("train", "digits", "--out", folder, "--epochs", 1)
    return folder


@pytest.fixture(scope="module")
def swept(run):
    works("sweep", run, "--num-widths", 5)
    return run


@pytest.fixture
def picked(swept):
    """The run with picks; two are of the same widths."""
    picks = [
        Pick("whole", {}, 36_000, 0.9),
        Pick("half", {"fc1": 32, "fc2": 32}, 14_000, 0.9),
        Pick("again", {"fc1": 32, "fc2": 32}, 9_000, 0.9),
        Pick("quarter", {"fc1": 16}, 12_000, 0.9),
    ]
    save_picks(Run(swept).picks, picks)
    yield swept
    Run(swept).picks.unlink()


def test_a_run_without_a_sweep_says_what_to_do(tmp_path, run):
    other = tmp_path / "run"
    other.mkdir()
    for name in ("run.json", "model.safetensors"):
        (other / name).write_bytes((run / name).read_bytes())
    assert f"measure one with: widthwise sweep {other}" in fails("bench", other)
    assert "make one with: widthwise train" in fails("bench", tmp_path / "nowhere")


def test_picks_are_timed_in_both_runtimes(picked, monkeypatch):
    monkeypatch.setattr(speed, "_in_onnx_runtime", lambda modules, how: speed._in_pytorch(modules))
    before = {path: path.read_bytes() for path in picked.iterdir() if path.is_file()}
    result = widthwise("bench", picked, "--repeats", 6, "--threads", 1, "--no-granularity")
    assert result.exit_code == 0, result.output
    shown = result.stdout
    assert "digits: how fast on this machine" in shown
    for word in ("full, whole", "half, again", "quarter", "PyTorch", "ONNX Runtime"):
        assert word in shown
    assert "1 thread; an example is 8 x 8 float32. Medians of 6 rounds" in shown
    sentences = [line for line in shown.splitlines() if " % smaller" in line]
    assert [line.partition(":")[0] for line in sentences] == ["half, again", "quarter"]
    assert "multiple" not in shown
    assert result.stderr == ""
    assert before == {path: path.read_bytes() for path in picked.iterdir() if path.is_file()}


def test_without_picks_the_best_within_some_sizes_are_timed(swept, monkeypatch):
    without(monkeypatch, "onnxruntime")
    result = widthwise("bench", swept, "--repeats", 6, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [n["name"] for n in found["networks"]] == ["full", "50 %", "25 %", "10 %"]
    assert found["networks"][0]["widths"] == {"fc1": 64, "fc2": 64}
    assert found["networks"][0]["smaller"] == 0
    assert all(0.4 < n["smaller"] < 1 for n in found["networks"][1:])
    keys = {(row["network"], row["runtime"], row["batch"]) for row in found["speeds"]}
    names = [n["name"] for n in found["networks"]]
    assert keys == {(name, "PyTorch", batch) for name in names for batch in (1, 32)}
    verdicts = {row["verdict"] for row in found["speeds"]}
    assert verdicts <= {"faster", "slower", "not faster", "unclear"}
    assert [row["batch"] for row in found["granularity"]] == [1, 32]
    assert [list(row["longer"]) for row in found["granularity"]] == [["1", "4", "8"]] * 2
    assert found["granularity"][0]["recommended"] in (None, 1, 4, 8, 16)
    assert found["notes"] == [
        "ONNX Runtime was not timed: it needs onnxruntime, which is not installed; install it "
        "with: pip install 'widthwise[onnx]'"
    ]
    assert len(found["runtimes"]) == 1
    shown = widthwise("bench", swept, "--repeats", 6, "--no-granularity")
    assert "Note: ONNX Runtime was not timed" in shown.stderr


def test_of_several_seeds_the_first_is_timed(swept, tmp_path, monkeypatch):
    shutil.copytree(swept, tmp_path / "seed-0")
    shutil.copytree(swept, tmp_path / "seed-1")
    (tmp_path / "frontier.json").write_bytes(Run(swept).frontier.read_bytes())
    save_picks(Run(tmp_path).picks, [Pick("narrow", {"fc1": 8}, 9_000)])
    monkeypatch.setattr(timings, "speeds", lambda *_, **__: speed.Speeds(()))
    found = timings.bench(tmp_path, granular=False)
    assert [(n.name, dict(n.widths)) for n in found.networks] == [
        ("full", {"fc1": 64, "fc2": 64}),
        ("narrow", {"fc1": 8, "fc2": 64}),
    ]
    assert found.picked


def test_a_run_of_one_width_has_nothing_to_compare():
    net = ww.Elastic(MLP(64, 64, 10), torch.randn(4, 8, 8))
    point = ww.Point(net.full(), 0.9, None, 36_000, 1, 1, None)
    frontier = ww.Frontier((point,), "accuracy", True, "valid", "none")
    (only,) = timings.chosen(net, frontier, [])
    assert (only.name, only.smaller) == ("full", 0)


def test_ctrl_c_stops_it_in_one_line(swept, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(speed, "in_turns", stopped)
    before = torch.get_num_threads()
    result = widthwise("bench", swept, "--threads", before + 1)
    assert result.exit_code == 130
    assert result.stderr.splitlines() == ["Interrupted; the same command begins again."]
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("words", [("--repeats", 5), ("--threads", 0)])
def test_impossible_numbers_are_refused(swept, words):
    result = widthwise("bench", swept, *words)
    assert result.exit_code == 2
    assert words[0] in result.stderr


def test_help_shows_examples_that_can_be_parsed():
    shown = " ".join(works("bench", "--help").split())
    for example in EXAMPLES:
        assert example in shown
        command("bench").make_context("bench", shlex.split(example.partition(" >")[0])[2:])
