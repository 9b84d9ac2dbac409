"""The command line: from training to a file in one go, and one sentence for everything bad."""

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnxruntime
import pytest
import torch

from command_line import fails, widthwise, works
from widthwise.app import demo as demonstration
from widthwise.app.cli import cut, demo, export, inspect, main, order, pick, prune, sweep, train
from widthwise.app.report.picks import Pick, load_picks, save_picks
from widthwise.app.runs import exports, measuring, storing, training
from widthwise.app.runs.folder import Run, hold
from widthwise.app.tasks import data as public_data
from widthwise.app.tasks.resolve import resolve
from widthwise.common.jsonfile import unsealed
from widthwise.measure.frontier import Frontier
from widthwise.store.file import load, read_manifest

COMMANDS = {
    "demo": demo.EXAMPLES,
    "inspect": inspect.EXAMPLES,
    "train": train.EXAMPLES,
    "order": order.EXAMPLES,
    "sweep": sweep.EXAMPLES,
    "pick": pick.EXAMPLES,
    "cut": cut.EXAMPLES,
    "prune": prune.EXAMPLES,
    "export": export.EXAMPLES,
}
TASKS = """
import torch
from torch.nn import functional as F
from widthwise.app.tasks.digits import task as digits
from dataclasses import replace

class Branching(torch.nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x

class Strange(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = torch.nn.Linear(64, 8), torch.nn.Linear(8, 10)
    def forward(self, x):
        return self.last(torch.fft.fft(self.first(x.flatten(1))).real)

def mine():
    return replace(digits(), name="mine")

def branching():
    return replace(mine(), model=Branching)

def strange():
    return replace(mine(), model=Strange)

def broken():
    raise RuntimeError("no luck today")
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A finished run of a few epochs, swept at a few widths; to be copied before it is changed."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    works("train", "digits", "--out", folder, "--epochs", 4)
    works("sweep", folder, "--num-widths", 5)
    return folder


@pytest.fixture
def run(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def tasks(tmp_path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(TASKS)
    return path


# Help.


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_examples(command):
    shown = " ".join(works(command, "--help").split())
    assert "Example" in shown
    for example in COMMANDS[command]:
        assert example in shown


@pytest.mark.parametrize("example", [e for some in COMMANDS.values() for e in some])
def test_examples_can_be_parsed(example):
    program, name, *words = shlex.split(example)
    assert program == "widthwise"
    main.command(name).make_context(name, words)


def test_the_program_lists_its_commands_and_says_its_version():
    shown = widthwise().output
    assert all(command in shown for command in COMMANDS)
    assert re.fullmatch(r"widthwise \d+\.\d+\.\d+\S*\n", works("--version"))


# From training to a file.


def test_a_trained_run_says_what_made_it(trained):
    record = Run(trained).record()
    assert record.status == "finished"
    assert record.settings.recipe["epochs"] == 4
    assert record.command == f"widthwise train digits --out {trained} --epochs 4"
    reloaded = load(Run(trained).model, build=resolve("digits").model)
    task = resolve("digits")
    for split in ("valid", "test"):
        assert measuring.evaluation(task, task.splits(), split)(reloaded) == record.results[split]


def test_a_sweep_writes_the_frontier_the_picture_and_the_page(trained):
    run = Run(trained)
    frontier = Frontier.load(run.frontier)
    assert len(frontier.points) == 5
    assert frontier.seeds == (0,)
    levels = run.record().levels
    widths = [dict(p.widths) for p in frontier.points]
    assert (widths[0], widths[-1]) == (levels[0], levels[-1])  # what was trained, and not below
    assert run.picture.read_bytes().startswith(b"\x89PNG")
    page = run.page.read_text()
    for point in frontier.points:
        assert f"{100 * point.metric:.2f} %" in page


def test_a_budget_is_filled_between_two_measured_widths(run, tmp_path):
    out, points = tmp_path / "small.safetensors", Frontier.load(Run(run).frontier).points
    below, above = sorted(points, key=lambda p: p.bytes)[1:3]
    limit = (below.bytes + 3 * above.bytes) // 4
    works("cut", run, "--max-bytes", str(limit), "--out", out, "--post-process", "none")
    found = read_manifest(out).widths
    assert below.bytes < 0.9 * limit < out.stat().st_size <= limit
    assert all(below.widths[name] <= width <= above.widths[name] for name, width in found.items())


def test_pick_cut_and_export_agree_on_the_numbers(run, tmp_path):
    frontier = Frontier.load(Run(run).frontier)
    measured = frontier.pick(max_bytes=10_000)
    limit = str(measured.bytes)  # nothing wider fits
    picked = json.loads(works("pick", run, "--max-bytes", limit, "--json"))
    small = tmp_path / "small.safetensors"
    said = works("cut", run, "--max-bytes", limit, "--out", small)
    assert small.stat().st_size == picked["bytes"] == measured.bytes
    assert read_manifest(small).widths == picked["widths"]
    noted = load_picks(Run(run).picks)
    assert [p.name for p in noted] == ["small"]
    assert noted[0].valid >= picked["results"]["valid"] - 1e-6  # a distillation may make it better
    assert picked["results"]["valid"] == pytest.approx(measured.metric, abs=1e-6)
    bare = tmp_path / "bare.safetensors"
    how = f"--post-process={frontier.post_process or 'none'}"
    works("cut", run, "--max-bytes", limit, "--out", bare, how)
    as_swept = next(p for p in load_picks(Run(run).picks) if p.name == "bare")
    assert as_swept.valid == pytest.approx(picked["results"]["valid"], abs=1e-6)
    assert f"test {100 * (noted[0].test or 0):.2f} %" in said
    assert "small" in Run(run).page.read_text()

    task = resolve("digits")
    works("export", small, "--task", "digits", "--out", tmp_path / "small.onnx")
    served = exports.onnx_metric(tmp_path / "small.onnx", task, task.splits())
    assert served == noted[0].test
    works("export", run, "--format", "torch", "--out", tmp_path / "full.pt2")
    program = torch.export.load(tmp_path / "full.pt2").module()
    x = torch.randn(3, 8, 8)
    full = load(Run(run).model, build=task.model)
    torch.testing.assert_close(program(x), full(x))


def test_a_distillation_is_held_to_what_the_sweep_found(run, tmp_path):
    """A sweep that says that the network is perfect as it is: then no distillation is kept."""
    frontier = Frontier.load(Run(run).frontier)
    perfect = replace(frontier, points=tuple(replace(p, metric=1.0) for p in frontier.points))
    perfect.save(Run(run).frontier)
    small = f"--max-bytes={min(p.bytes for p in frontier.points)}"
    works("cut", run, small, "--out", tmp_path / "small.safetensors")
    found = next(p for p in load_picks(Run(run).picks) if p.name == "small")
    assert (found.valid, found.post_process) == (1.0, frontier.post_process)
    replace(perfect, split="test").save(Run(run).frontier)  # which says nothing of validation data
    works("cut", run, small, "--out", tmp_path / "small.safetensors")
    found = next(p for p in load_picks(Run(run).picks) if p.name == "small")
    assert found.valid < 1.0
    assert "distill" in found.post_process


def test_a_file_in_its_run_folder_needs_no_task(run):
    works("cut", run, "--width", "fc1=16", "--out", run / "own.safetensors")
    assert read_manifest(run / "own.safetensors").widths == {"fc1": 16, "fc2": 64}
    works("export", run / "own.safetensors", "--out", run / "own.onnx")
    session = onnxruntime.InferenceSession(run / "own.onnx")
    assert session.get_inputs()[0].shape[1:] == [8, 8]


@pytest.mark.parametrize("how", ["refit", "distill"])
def test_post_processing_is_stored_and_helps_on_what_it_was_given(run, tmp_path, how):
    out = tmp_path / "small.safetensors"
    works("cut", run, "--fraction", 0.1, "--out", out, "--post-process", "none")
    before = load_picks(Run(run).picks)[0]
    works("cut", run, "--fraction", 0.1, "--out", out, "--post-process", how)
    after = load_picks(Run(run).picks)[0]
    assert after.bytes == before.bytes
    assert (after.valid or 0) >= (before.valid or 0)
    assert after != before


def test_several_budgets_are_several_files_made_in_one_go(run, tmp_path):
    out = tmp_path / "several"
    said = works("cut", run, "--max-bytes", "2kB", "--max-bytes", "20kB", "--out", out)
    sizes = {path.name: path.stat().st_size for path in out.iterdir()}
    assert sizes.keys() == {"2.00kB.safetensors", "20.0kB.safetensors"}
    assert sizes["2.00kB.safetensors"] <= 2000 < sizes["20.0kB.safetensors"] <= 20_000
    assert said.count("Wrote") == 2
    picks = {p.name: p for p in load_picks(Run(run).picks)}
    assert {"2.00kB", "20.0kB"} <= picks.keys()
    task = resolve("digits")
    read = load(out / "2.00kB.safetensors", build=task.model)
    assert measuring.evaluation(task, task.splits(), "valid")(read) == picks["2.00kB"].valid


def test_several_budgets_are_exported_in_one_go(run, tmp_path):
    out = tmp_path / "several"
    said = works("export", run, "--max-bytes", "8kB", "--max-bytes", "20kB", "--out", out)
    sizes = {path.name: path.stat().st_size for path in out.iterdir()}
    assert sizes.keys() == {"8.00kB.onnx", "20.0kB.onnx"}
    assert sizes["8.00kB.onnx"] <= 8000 < sizes["20.0kB.onnx"] <= 20_000
    assert said.count("gives what PyTorch gives") == 2


@pytest.mark.parametrize("command", ["cut", "export"])
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--max-bytes", "5kB", "--max-bytes", "9kB", "--out", "x.safetensors"), "a folder"),
        (("--max-bytes", "5kB", "--max-bytes", "5000", "--out", "x"), "the same"),
    ],
)
def test_several_budgets_that_do_not_go_together(run, tmp_path, monkeypatch, command, words, said):
    monkeypatch.chdir(tmp_path)
    result = widthwise(command, run, *words)
    assert result.exit_code == 2
    assert said in " ".join(result.output.replace("│", " ").split())
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_cut_that_cuts_nothing_says_so(run, tmp_path):
    result = widthwise("cut", run, "--fraction", 1, "--out", tmp_path / "all.safetensors")
    assert result.exit_code == 0
    assert "nothing was cut" in result.stderr


def test_pick_prints_aligned_numbers(trained):
    lines = works("pick", trained, "--min-metric", 0.1).splitlines()
    assert lines[0].startswith("accuracy (valid)  ")
    assert {len(line) - len(line[16:].lstrip()) for line in lines} == {18}


def test_several_seeds_become_a_mean_with_a_spread(tmp_path):
    folder = tmp_path / "both"
    works("train", "digits", "--out", folder, "--epochs", 1, "--seeds", 2)
    works("sweep", folder, "--num-widths", 3, "--no-latency")
    frontier = Frontier.load(folder / "frontier.json")
    single = [Frontier.load(folder / f"seed-{s}" / "frontier.json") for s in (0, 1)]
    assert frontier.seeds == (0, 1)
    for mean, *each in zip(frontier.points, *(f.points for f in single), strict=True):
        assert mean.metric == pytest.approx(sum(p.metric for p in each) / 2)
        assert mean.spread is not None
    assert "0, 1" in (folder / "report.html").read_text()
    works("pick", folder, "--max-bytes", "100kB")
    assert "seed-0" in fails("cut", folder, "--fraction", 0.5, "--out", tmp_path / "x")
    works(
        "sweep",
        folder / "seed-0",
        folder / "seed-1",
        "--out",
        tmp_path / "other",
        "--num-widths",
        2,
    )
    assert (tmp_path / "other" / "report.html").exists()


def test_a_task_of_one_s_own_is_found_again_from_elsewhere(tasks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    works("train", "mine.py:mine", "--out", "run", "--epochs", 1, "--method", "plain")
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    works("sweep", "../run", "--num-widths", 2, "--no-latency")


def test_inspect_shows_sizes_sharing_and_reasons(tasks):
    shown = works("inspect", "digits")
    assert re.search(r"fc1 +64 +92 % +fc1, fc2", shown)
    assert "fc3: 10, because it is an output of the model" in shown
    assert "8,970 parameters" in shown


def test_inspect_as_json_holds_every_axis():
    found = json.loads(works("inspect", "digits", "--json"))
    assert found["full"] == {"params": 8970, "bytes": 4 * 8970}
    assert [group["sizes"] for group in found["cuttable"]] == [{"fc1": 64}, {"fc2": 64}]
    assert found["staying"][0]["sizes"] == {"fc3": 10}


@pytest.mark.filterwarnings("default::widthwise.elastic.network.NothingToCutWarning")
def test_inspect_names_operators_without_a_rule(tasks):
    result = widthwise("inspect", f"{tasks}:strange")
    assert result.exit_code == 0
    assert "fft" in result.stdout
    assert result.stderr.startswith("Note: No axis of this model can be cut")


# Runs that were interrupted, are finished or in use.


def test_ctrl_c_says_how_to_continue_and_the_same_command_does(tmp_path):
    words = ["train", "digits", "--out", str(tmp_path / "run"), "--epochs", "40"]
    command = [sys.executable, "-m", "widthwise", *words]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert started.stderr is not None
    for line in started.stderr:
        if line.startswith("epoch 2 of 40"):
            started.send_signal(signal.SIGINT)
            break
    _, said = started.communicate(timeout=60)
    assert started.returncode == 130, said
    assert said.splitlines()[-1] == (
        f"Interrupted; continue with the same command: {shlex.join(['widthwise', *words])}"
    )
    assert Run(tmp_path / "run").record().status == "interrupted"
    assert "not finished" in fails("sweep", tmp_path / "run")
    result = widthwise(*words)
    assert result.stdout.startswith("Continued and finished")
    assert "epoch 1 of" not in result.stderr
    assert Run(tmp_path / "run").record().status == "finished"


def test_a_finished_run_is_left_alone(run):
    before = (run / "run.json").read_bytes()
    assert works("train", "digits", "--out", run, "--epochs", 4).startswith("Finished before")
    assert (run / "run.json").read_bytes() == before


def test_other_settings_need_another_folder_or_a_word(run):
    said = fails("train", "digits", "--out", run, "--epochs", 3, "--lr", 0.1)
    assert "epochs 4 rather than 3" in said
    assert "--overwrite" in said
    works("train", "digits", "--out", run, "--epochs", 1, "--overwrite")
    assert Run(run).record().settings.recipe["epochs"] == 1
    assert not Run(run).frontier.exists()


def test_a_folder_in_use_is_refused(run, tmp_path):
    with hold(run):
        for words in (
            ["train", "digits", "--out", run, "--epochs", 4],
            ["sweep", run],
            ["cut", run, "--fraction", 0.5, "--out", tmp_path / "x.safetensors"],
        ):
            assert "in use" in fails(*words)
    assert not (tmp_path / "x.safetensors").exists()


# Bad input: one sentence, an exit code, and nothing lost.


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--width", "fc9=3"], "no axis 'fc9'.*'fc1', 'fc2'"),
        (["--width", "fc1=0"], "at least 1"),
        (["--width", "fc1=-3"], "at least 1"),
        (["--width", "fc1=300"], "give 1 to 64"),
        (["--width", "fc3=5"], "cannot be cut because it is an output"),
        (["--fraction", "0"], "number above 0, at most 1"),
        (["--fraction", "nan"], "number above 0, at most 1"),
        (["--max-bytes", "10"], "nearest has"),
        (["--max-bytes", "many"], "'many' is not a size"),
        (["--min-metric", "2"], "nearest has"),
        (["--max-latency-ms", "0.0000001"], "nearest has"),
    ],
)
def test_what_cannot_be_cut_is_one_sentence(run, tmp_path, words, said):
    assert re.search(said, fails("cut", run, *words, "--out", tmp_path / "x.safetensors"))
    assert not (tmp_path / "x.safetensors").exists()
    assert load_picks(Run(run).picks) == []


def test_a_score_that_is_not_there_is_one_sentence(run, tmp_path):
    words = ["digits", "--out", tmp_path / "x", "--from", run]
    assert "no score 'magic'" in fails("order", *words, "--score", "magic")
    of_features = ["--sparsity", 0.5, "--score", "dropout-ablation"]
    assert "no score 'dropout-ablation' of weights" in fails("prune", *words, *of_features)


@pytest.mark.parametrize(
    "words",
    [
        ["cut", "RUN", "--out", "x"],
        ["cut", "RUN", "--out", "x", "--fraction", "0.5", "--max-bytes", "1MB"],
        ["cut", "RUN", "--out", "x", "--width", "fc1"],
        ["cut", "RUN", "--out", "x", "--width", "fc1=many"],
        ["cut", "RUN", "--out", "x", "--fraction", "0.5", "--post-process", "magic"],
        ["cut", "RUN", "--out", "x", "--fraction", "0.5", "--epochs", "2"],
        [
            "cut",
            "RUN",
            "--out",
            "x",
            "--fraction",
            "0.5",
            "--post-process",
            "fine-tune",
            "--lr",
            "0",
        ],
        [*"cut RUN --out x --fraction 0.5 --post-process none --post-process refit".split()],
        [*"cut RUN --out x --fraction 0.5 --post-process refit --post-process scratch".split()],
        ["order", "digits", "--out", "x", "--from", "RUN", "--samples", "0"],
        ["prune", "digits", "--out", "x", "--from", "RUN"],
        ["prune", "digits", "--out", "x", "--from", "RUN", "--sparsity", "much"],
        [*"prune digits --out x --from RUN --sparsity 0.5 --rounds 0".split()],
        ["train", "digits"],
        ["train", "digits", "--out", "x", "--epochs", "0"],
        ["train", "digits", "--out", "x", "--lr", "-1"],
        ["train", "digits", "--out", "x", "--method", "magic"],
        ["sweep"],
        ["sweep", "RUN", "--split", "train"],
        ["sweep", "RUN", "--allocation", "magic"],
        ["export", "RUN", "--out", "x", "--format", "pickle"],
        ["fly"],
    ],
)
def test_what_cannot_be_understood_is_a_usage_error(trained, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = widthwise(*(trained if word == "RUN" else word for word in words))
    assert result.exit_code == 2
    assert "Usage:" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["sweep", "pick", "cut", "export"])
def test_a_missing_run_is_one_sentence(tmp_path, command):
    more = {
        "pick": ["--max-bytes", "1MB"],
        "cut": ["--fraction", "0.5", "--out", tmp_path / "x"],
        "export": ["--task", "digits", "--out", tmp_path / "x"],
    }
    fails(command, tmp_path / "none", *more.get(command, []))
    (tmp_path / "empty").mkdir()
    fails(command, tmp_path / "empty", *more.get(command, []))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty"]
    assert list((tmp_path / "empty").iterdir()) == []


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def altered(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def foreign(path: Path) -> None:
    path.write_bytes(b"\x80\x04K\x01.")  # a pickle


@pytest.mark.parametrize("harm", [truncated, altered, foreign, Path.unlink])
@pytest.mark.parametrize("name", ["run.json", "frontier.json", "model.safetensors", "picks.json"])
def test_a_damaged_run_folder_is_one_sentence(run, tmp_path, name, harm: Callable[[Path], None]):
    if harm is altered and name.endswith(".json"):
        pytest.skip("an altered number in JSON is still a number")
    if name == "picks.json":
        if harm is Path.unlink:
            pytest.skip("a run without picks is whole")
        save_picks(run / name, [Pick("old", {"fc1": 3}, 1000)])
    harm(run / name)
    before = {p.name: p.read_bytes() for p in run.iterdir()}
    fails("cut", run, "--max-bytes", "20kB", "--out", tmp_path / "x.safetensors")
    assert {p.name: p.read_bytes() for p in run.iterdir()} == before
    assert not (tmp_path / "x.safetensors").exists()


@pytest.mark.parametrize("harm", [truncated, altered, foreign])
def test_a_damaged_cut_file_is_one_sentence(run, harm: Callable[[Path], None]):
    works("cut", run, "--fraction", 0.5, "--out", run / "half.safetensors")
    harm(run / "half.safetensors")
    fails("export", run / "half.safetensors", "--out", run / "half.onnx")
    assert not (run / "half.onnx").exists()


def test_a_damaged_checkpoint_is_one_sentence(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    monkeypatch.setattr(training, "store_checked", lambda *_: 1 / 0)
    told = fails("train", "digits", "--out", folder, "--epochs", 1)
    said = told.replace("\\", "/")
    assert "ZeroDivisionError: division by zero (tests/app/cli/test_cli.py:" in said
    monkeypatch.undo()
    assert Run(folder).record().status == "interrupted"
    truncated(Run(folder).checkpoint)
    assert "checkpoint.safetensors is damaged" in fails(
        "train", "digits", "--out", folder, "--epochs", 1
    )


def test_a_draw_that_cannot_be_is_one_sentence(run, tmp_path):
    data = unsealed((run / "run.json").read_bytes())
    for draw in ({"p": 7}, {"q": 0.5}):
        (run / "run.json").write_text(json.dumps(data | {"draw": draw}))
        fails("cut", run, "--fraction", 0.5, "--out", tmp_path / "x")


@pytest.mark.parametrize("name", ["model.safetensors", "run.json", "frontier.json"])
def test_a_cut_does_not_replace_a_file_of_its_run(run, name):
    before = (run / name).read_bytes()
    assert "belongs to the run" in fails("cut", run, "--fraction", 0.5, "--out", run / name)
    assert (run / name).read_bytes() == before


def test_a_file_that_fits_no_run_names_the_remedy(run, tmp_path):
    works("cut", run, "--fraction", 0.5, "--out", tmp_path / "half.safetensors")
    said = fails(
        "export", tmp_path / "half.safetensors", "--task", "mnist", "--out", tmp_path / "x"
    )
    assert "does not fit" in said


def test_unknown_tasks_are_one_sentence(tasks, tmp_path):
    assert "did you mean 'digits'" in fails("inspect", "digit")
    assert "no file" in fails("inspect", "none.py:task")
    assert "no function" in fails("inspect", f"{tasks}:absent")
    assert "no luck today" in fails("inspect", f"{tasks}:broken")
    fails("train", "digit", "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_model_that_cannot_be_captured_is_one_sentence(tasks, tmp_path):
    fails("inspect", f"{tasks}:branching")
    fails("train", f"{tasks}:branching", "--out", tmp_path / "run")
    assert not (tmp_path / "run" / "run.json").exists()


def test_missing_data_is_one_sentence(tmp_path, monkeypatch):
    def offline(url: str) -> None:
        raise OSError("no network")

    monkeypatch.setattr(public_data, "_open", offline)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("WIDTHWISE_DATA", raising=False)
    assert "WIDTHWISE_DATA" in fails("train", "mnist", "--out", tmp_path / "run")
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_place_that_cannot_be_written_is_one_sentence(run, tmp_path):
    (tmp_path / "file").write_text("")
    fails("train", "digits", "--out", tmp_path / "file" / "run")
    fails("cut", run, "--fraction", 0.5, "--out", tmp_path / "none" / "x.safetensors")
    fails("export", run, "--out", tmp_path / "none" / "x.onnx")


def test_a_missing_package_says_how_to_get_it(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    assert "pip install 'widthwise[report]'" in fails(
        "sweep", run, "--num-widths", 2, "--no-latency"
    )


# The demo.


@pytest.fixture(scope="module")
def shown(tmp_path_factory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("demo") / "run"
    return folder, works("demo", "--out", folder, "--epochs", 4)


def test_the_demo_shows_three_sizes_and_writes_their_files(shown):
    folder, said = shown
    picks = load_picks(Run(folder).picks)
    assert [p.name for p in picks] == ["large", "medium", "tiny"]
    full = Run(folder).model.stat().st_size
    for made, (_, share) in zip(picks, demonstration.SIZES, strict=True):
        assert (folder / str(made.file)).stat().st_size == made.bytes <= share * full
        assert (folder / f"{made.name}.onnx").exists()
        assert re.search(rf"{made.name} .* {100 * (made.test or 0):.2f} %", said)
    assert "Next: widthwise cut" in said
    page = (folder / "report.html").read_text()
    assert all(f"{100 * (p.test or 0):.2f} %" in page for p in picks)


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("module", "name", "wrong"),
    [(exports, "onnx_metric", lambda *_: 0.5), (measuring, "same", lambda a, b: False)],
)
def test_the_demo_fails_when_a_file_gives_another_number(shown, monkeypatch, module, name, wrong):
    monkeypatch.setattr(module, name, wrong)
    said = fails("demo", "--out", shown[0], "--epochs", 4)
    assert "and not" in said


def test_a_file_that_reads_back_worse_is_not_kept(run, tmp_path, monkeypatch):
    real = storing.load

    def forgetful(path: Path, build: Callable[[], torch.nn.Module]) -> torch.nn.Module:
        return (
            build() if path.suffix == ".safetensors" and "half" in path.name else real(path, build)
        )

    monkeypatch.setattr(storing, "load", forgetful)
    out = tmp_path / "half.safetensors"
    out.write_text("what was there before")
    assert "read back" in fails("cut", run, "--fraction", 0.5, "--out", out)
    assert out.read_text() == "what was there before"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["half.safetensors", "run"]
