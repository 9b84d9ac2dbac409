"""What commands print where: --json, --quiet, --verbose, --device, shares in per cent, a log."""

import csv
import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from command_line import fails, widthwise, works
from widthwise.app.cli import common, output
from widthwise.app.cli.main import COMMANDS, command
from widthwise.app.runs.device import computing_on
from widthwise.app.runs.folder import Run
from widthwise.common.units import parse_share
from widthwise.errors import RunError, TrainingError
from widthwise.train import tracking

SHARED = {"metric": str, "results": dict, "bytes": int, "widths": dict, "post_process": str}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, dict]:
    """A swept run and what its commands printed with --json."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    words = ["digits", "--out", folder, "--epochs", 2, "--log", "csv"]
    trained = document("train", *words)
    swept = document("sweep", folder, "--num-widths", 3, "--no-latency")
    return folder, {"train": trained, "sweep": swept}


def document(*words):
    """The JSON document of a command: all that it prints on standard output."""
    result = widthwise(*words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def is_network(found):
    """Whether a network says the same things under the same names as every other."""
    return all(isinstance(found[name], kind) for name, kind in SHARED.items())


# One document.


def test_every_command_with_a_result_prints_it_as_json():
    without = {name for name in COMMANDS if "as_json" not in _options(name)}
    assert without == {"serve"}


def test_a_training_tells_its_epochs_and_keeps_them(made):
    folder, documents = made
    (run,) = documents["train"]["runs"]
    assert documents["train"]["task"] == "digits"
    assert (run["run"], run["state"], run["metric"]) == (str(folder), "new", "accuracy")
    assert [*run["results"]] == ["valid", "test"]
    record = Run(folder).record()
    assert [e["loss"] for e in run["history"]] == [e["loss"] for e in record.history]
    assert [e["epoch"] for e in run["history"]] == [1, 2]
    assert run["history"][-1]["results"]["valid"] == pytest.approx(run["results"]["valid"])


def test_progress_and_remarks_go_to_standard_error(tmp_path):
    result = widthwise("train", "digits", "--out", tmp_path / "r", "--epochs", 1, "--json")
    assert re.search(r"^epoch 1 of 1: loss \d", result.stderr, re.M)
    assert json.loads(result.stdout)["runs"]


def test_networks_have_the_same_names_in_every_command(made, tmp_path):
    folder, documents = made
    run = Path(shutil.copytree(folder, tmp_path / "run"))
    small, sparse = tmp_path / "small.safetensors", tmp_path / "sparse.safetensors"
    picked = document("pick", run, "--max-bytes", "20kB")
    cut = document("cut", run, "--fraction", "50%", "--out", small, "--post-process", "none")
    (stored,) = cut["networks"]
    assert all(map(is_network, [picked, stored, *documents["sweep"]["points"]]))
    assert stored["file"] == str(small)
    assert stored["bytes"] == small.stat().st_size
    assert 0 < max(stored["widths"].values()) < 40  # of 64
    pruned = document("prune", "digits", "--from", run, "--sparsity", "90 %", "--out", sparse)
    (pruned,) = pruned["networks"]
    assert pruned["zeros"] / pruned["weights"] == pytest.approx(0.9, abs=0.01)
    assert pruned["results"].keys() == stored["results"].keys()
    (exported,) = document("export", small, "--out", tmp_path / "s.onnx")["networks"]
    assert exported["bytes"] == (tmp_path / "s.onnx").stat().st_size
    ordered = document("order", "digits", "--from", run, "--out", tmp_path / "ordered")
    assert ordered["runs"][0]["results"] == documents["train"]["runs"][0]["results"]
    assert document("inspect", "digits")["task"] == ordered["task"] == cut["task"] == "digits"


def test_an_error_prints_no_document(tmp_path):
    result = widthwise("pick", tmp_path / "none", "--max-bytes", "2kB", "--json")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: There is no run folder")


def test_what_json_cannot_hold_is_null_or_refused(capsys):
    output.print_json({"a": math.inf, "b": [Path("x"), (1, float("nan"))]})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": ["x", [1, None]]}
    with pytest.raises(TypeError):
        output.print_json({"a": object()})


# Quiet and verbose.


def _options(name):
    return {each.name: each for each in command(name).params}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_quiet_and_verbose_in_the_same_way(name):
    options = _options(name)
    assert options["quiet"].opts == ["--quiet", "-q"]
    assert options["verbose"].opts == ["--verbose", "-v"]


@pytest.mark.parametrize("before", [True, False])
def test_quiet_leaves_the_result(made, tmp_path, before):
    words = ["cut", made[0], "--fraction", 1, "--out", tmp_path / "x.safetensors"]
    loud = widthwise(*words)
    assert "Note: nothing was cut" in loud.stderr
    assert "Next: " in loud.stdout
    quiet = widthwise("-q", *words) if before else widthwise(*words, "--quiet")
    assert quiet.exit_code == 0
    assert quiet.stderr == ""
    assert quiet.stdout == loud.stdout[: loud.stdout.index("Next: ")]
    assert "Note: " in widthwise(*words).stderr  # it was of that call alone


def test_quiet_trains_without_a_word(tmp_path):
    result = widthwise("-q", "train", "digits", "--out", tmp_path / "r", "--epochs", 1)
    assert result.stderr == ""
    assert result.stdout.startswith("Trained: ")
    assert "Error: " in widthwise("pick", tmp_path / "none", "-q").stderr


def test_verbose_shows_where_an_error_comes_from(tmp_path):
    usual = fails("pick", tmp_path / "none", "--max-bytes", "2kB")
    for words in (["-v", "pick"], ["pick", "--verbose"]):
        told = widthwise(*words, tmp_path / "none", "--max-bytes", "2kB")
        assert told.exit_code == 1
        assert told.stderr.startswith("Traceback (most recent call last):")
        assert told.stderr.endswith(f"{usual}\n")
    assert fails("pick", tmp_path / "none", "--max-bytes", "2kB") == usual


# Shares.


@pytest.mark.parametrize(
    ("given", "share"),
    [("0.9", 0.9), ("90%", 0.9), (" 90 % ", 0.9), ("99.9%", 0.999), (0.25, 0.25), ("0%", 0.0)],
)
def test_a_share_may_be_in_per_cent(given, share):
    assert parse_share(given) == common.share(given) == share


@pytest.mark.parametrize("given", ["", "%", "ninety", "9 0", "90%%", "%90"])
def test_what_is_no_share_is_refused(given):
    with pytest.raises(ValueError, match=r"not a share; write for example 0\.9 or 90%"):
        parse_share(given)
    with pytest.raises(typer.BadParameter):
        common.share(given)


def test_every_option_that_is_a_share_takes_per_cent():
    words = {
        "train": [
            "digits",
            "--out",
            "r",
            "--sparsity",
            "80%",
            "--prune-start",
            "5%",
            "--prune-end",
            "75%",
        ],
        "prune": ["digits", "--out", "r", "--sparsity", "90%"],
        "cut": ["r", "--out", "x", "--fraction", "50%", "--min-metric", "97%"],
        "pick": ["r", "--min-metric", "97%"],
    }
    taken = {n: command(n).make_context(n, list(w)).params for n, w in words.items()}
    assert (taken["train"]["sparsity"], taken["train"]["prune_start"]) == (0.8, 0.05)
    assert (taken["train"]["prune_end"], taken["prune"]["sparsity"]) == (0.75, 0.9)
    assert (taken["cut"]["fraction"], taken["cut"]["min_metric"]) == (0.5, 0.97)
    assert taken["pick"]["min_metric"] == 0.97


def test_a_limit_in_per_cent_is_the_same_limit(made):
    least = min(p["results"]["valid"] for p in made[1]["sweep"]["points"])
    words = ["pick", made[0], "--min-metric"]
    assert document(*words, f"{100 * least - 1}%") == document(*words, least - 0.01)


# Devices.


def test_a_device_that_is_not_there_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    said = fails("train", "digits", "--out", tmp_path / "r", "--device", "cuda")
    assert re.search(r"finds no cuda device here; leave out --device, or give --device cpu", said)
    assert not (tmp_path / "r").exists()


def test_accelerate_is_told_the_device_and_only_for_so_long(monkeypatch):
    import os

    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "before")
    with computing_on("auto") as place:
        assert (place.type, os.environ["ACCELERATE_USE_CPU"]) == ("cpu", "before")
    for device, said in (("cpu", "true"), ("mps", "false")):
        with computing_on(device) as place:
            assert (place.type, os.environ["ACCELERATE_USE_CPU"]) == (device, said)
    assert os.environ["ACCELERATE_USE_CPU"] == "before"
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    with pytest.raises(RunError, match="finds no mps device"), computing_on("mps"):
        pass


def test_cpu_keeps_a_training_off_a_gpu_that_is_there():
    """Accelerate is made in a process of its own: it remembers the first device it was given."""
    code = (
        "import torch; torch.cuda.is_available = lambda: True\n"
        "from widthwise.app.runs.device import computing_on\n"
        "from widthwise.train.config import RunConfig\n"
        "from widthwise.train.recipe import Recipe\n"
        "from widthwise.train.setup import accelerator_for\n"
        "with computing_on('cpu'): print(accelerator_for(Recipe(), RunConfig()).device)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "cpu\n"


# A log of the epochs.


def test_the_table_of_a_training_has_a_row_for_each_epoch(made):
    folder, documents = made
    with (folder / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    history = documents["train"]["runs"][0]["history"]
    assert [*rows[0]] == ["epoch", "loss", "accuracy", "lr", "seconds"]
    assert [float(row["loss"]) for row in rows] == [e["loss"] for e in history]
    assert [float(row["accuracy"]) for row in rows] == [e["results"]["valid"] for e in history]


@pytest.mark.filterwarnings("default::widthwise.train.run.LongerWarning")
def test_a_longer_training_goes_on_in_the_table_and_overwrite_begins_it(made, tmp_path):
    run = Path(shutil.copytree(made[0], tmp_path / "run"))
    before = (run / "history.csv").read_text()
    words = ["train", "digits", "--out", run, "--log", "csv"]
    works(*words, "--epochs", 3)
    after = (run / "history.csv").read_text()
    assert after.startswith(before)
    assert len(after.splitlines()) == 4
    works("train", "digits", "--out", run, "--epochs", 1, "--overwrite")
    assert not (run / "history.csv").exists()


def test_a_row_takes_the_place_of_later_ones(tmp_path):
    path = tmp_path / "history.csv"
    for epoch, loss in ((1, 5), (2, 4), (3, 3), (2, 2)):
        tracking.write_row(path, {"epoch": epoch, "loss": loss})
    assert path.read_text() == "epoch,loss\n1,5\n2,2\n"
    tracking.write_row(path, {"epoch": 3, "error": 1})  # of another training
    assert path.read_text() == "epoch,error\n3,1\n"


def test_events_are_for_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    works("train", "digits", "--out", run, "--epochs", 2, "--log", "tensorboard")
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    assert events.Tags()["scalars"] == ["loss", "accuracy", "lr", "seconds"]
    history = Run(run).record().history
    assert [e.step for e in events.Scalars("loss")] == [1, 2]
    assert [e.value for e in events.Scalars("accuracy")] == pytest.approx(
        [e["metric"] for e in history]
    )


def test_without_tensorboard_the_remedy_is_said_before_anything_is_lost(made, monkeypatch):
    monkeypatch.setattr("accelerate.utils.is_tensorboard_available", lambda: False)
    before = (made[0] / "run.json").read_bytes()
    words = ["train", "digits", "--out", made[0], "--epochs", 1, "--overwrite"]
    said = fails(*words, "--log", "tensorboard")
    assert said.endswith("install it with: pip install 'widthwise[log]'")
    assert (made[0] / "run.json").read_bytes() == before
    with pytest.raises(TrainingError):
        tracking.check_trackers(tracking.named("tensorboard"), made[0])


def test_a_log_needs_a_folder_and_a_name_that_is_known(tmp_path):
    with pytest.raises(ValueError, match="folder"):
        tracking.check_trackers(tracking.named("csv"), None)
    with pytest.raises(ValueError, match="'csv', 'tensorboard' or both"):
        tracking.named(["csv", "paper"])
    assert tracking.named(("csv", "csv")) == (tracking.Tracker.CSV,)


def test_a_training_tells_the_extra_metrics_of_its_task(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(
        "from dataclasses import replace\n"
        "from widthwise.app.tasks import BUILT_IN\n"
        "def extra(module, split):\n"
        "    return {'parameters': sum(p.numel() for p in module.parameters())}\n"
        "def task():\n"
        "    return replace(BUILT_IN['digits'](), name='mine', extra_metrics=extra)\n"
    )
    found = document("train", "mine.py:task", "--out", "run", "--epochs", 1)["runs"][0]
    assert found["extra_metrics"] == {"parameters": 64 * 64 + 64 + 64 * 64 + 64 + 64 * 10 + 10}
    assert json.loads(Path("run/run.json").read_text())["extra_metrics"] == found["extra_metrics"]
    again = widthwise("train", "mine.py:task", "--out", "run", "--epochs", 1)
    assert "test parameters 8970" in again.stdout
