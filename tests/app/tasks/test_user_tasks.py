"""Tasks as users write them: every command ends well, and errors name the user's own line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from command_line import fails, works
from places import TESTS

_HERE = TESTS / "user_tasks"
_BASE = """
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset
from widthwise import Metric
from widthwise.task import Recipe, Splits, Task

def model():
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))

def data(n=32):
    return TensorDataset(torch.ones(n, 5) * torch.arange(n)[:, None], torch.arange(n) % 3)

def splits():
    return Splits(data(), data(), data())

def loss(outputs, target):
    return F.cross_entropy(outputs, target)

def count(outputs, target):
    return (outputs.argmax(1) == target).sum(), len(target)

def task():
    recipe = Recipe(epochs=EPOCHS, batch_size=16)
    example = lambda: (torch.zeros(2, 5),)
    return Task("mine", model, example, splits, loss, Metric("right", count), recipe)
""".replace("EPOCHS", "1")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(folder: Path, old: str = "", new: str = "", name: str = "mine.py") -> None:
    assert old in _BASE
    (folder / name).write_text(_BASE.replace(old, new))


@pytest.mark.sample(2)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["table", "series", "texts", "masks"])
def test_every_command_ends_well(folder: Path, kind: str) -> None:
    shutil.copy(_HERE / f"{kind}.py", folder)
    task = f"{kind}.py:task"
    assert "Trained: run" in works("train", task, "--out", "run")
    assert "Next: widthwise cut" in works("sweep", "run", "--num-widths", 2, "--no-latency")
    assert "parameters" in works("pick", "run", "--max-bytes", "1MB")
    assert "Wrote half.safe" in works("cut", "run", "--fraction", 0.5, "--out", "half.safetensors")
    made = works(
        "export", "half.safetensors", "--task", task, "--format", "torch", "--out", "a.pt2"
    )
    assert "gives what PyTorch gives" in made
    if kind != "table":
        return  # the others go through the same code
    assert "Ordered: by" in works("order", task, "--from", "run", "--out", "by")
    assert "are zero" in works(
        "prune", task, "--from", "run", "--sparsity", 0.5, "--out", "s.safetensors"
    )
    search = ("search", "run", "--max-bytes", "3kB", "--trials", 2, "--out", "found.safetensors")
    assert "Best of 2" in works(*search)
    assert "Finished before" in works("train", task, "--out", "run")


def test_a_sweep_ends_well_where_the_best_network_is_small(folder: Path) -> None:
    # Right by the bias alone: every width is as good, so that the narrowest is the best.
    written(folder, "torch.arange(n) % 3)", "torch.zeros(n).long())")
    works("train", "mine.py:task", "--out", "run", "--epochs", 30, "--lr", 0.1)
    assert "Next: widthwise cut" in works("sweep", "run", "--no-latency")


WRONG = {
    "model": ("return nn.Sequential", "return nn.Sequental", "mine.py:10, in model: return nn.Seq"),
    "class": ("return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))",
              "return nn.Linear", "returned the class Linear"),
    "splits": ("Splits(data(), data(), data())", "Splits(data(), data(), open('no'))",
               "mine.py:16, in splits: return Splits(data(), data(), open('no'))"),
    "tuple": ("return Splits(data(), data(), data())", "return data(), data()",
              "a tuple of 2; return"),
    "two": ("Splits(data(), data(), data())", "Splits(data(), data())", "mine.py:16, in splits"),
    "empty": ("Splits(data(), data(), data())", "Splits(data(0), data(), data())",
              "The train split of task 'mine' cannot be used: The data set is empty"),
    "loss": ("F.cross_entropy(outputs", "F.cross_entropi(outputs", "mine.py:19, in loss: return"),
    "items": ("F.cross_entropy(outputs, target)",
              "F.cross_entropy(outputs, target, reduction='none')",
              "returned 16 values, of shape (16,); return their mean"),
    "float": ("F.cross_entropy(outputs, target)", "float(outputs.sum())", "a value of type float"),
    "metric": ("outputs.argmax(1) == target", "outputs.argmx(1) == target", "mine.py:22, in count"),
    "nan": ("(outputs.argmax(1) == target).sum()",
            "torch.tensor(float('nan'))", "The metric 'right' on the validation data is nan"),
    "syntax": ("def loss(outputs, target):", "def loss(outputs, target:", "SyntaxError"),
    "import": ("import torch\n", "import torch, not_there\n",
               "No module named 'not_there' (mine.py:2"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_wrong_in_a_task_is_said_with_its_place(folder: Path, kind: str) -> None:
    old, new, told = WRONG[kind]
    written(folder, old, new)
    assert told in fails("train", "mine.py:task", "--out", "run")
    written(folder)
    again = works("train", "mine.py:task", "--out", "run")  # nothing stands in its way
    assert ("Finished" if kind == "nan" else "Trained") in again or "Continued" in again


def test_a_task_that_changed_is_another_run(folder: Path) -> None:
    written(folder)
    works("train", "mine.py:task", "--out", "run")
    assert "Finished before" in works("train", "mine.py:task", "--out", "run")
    changes = {
        "loss": ("F.cross_entropy(outputs, target)",
                 "F.cross_entropy(outputs, target, label_smoothing=0.1)"),
        "data": ("torch.arange(n)[:, None]", "2 * torch.arange(n)[:, None]"),
        "model": ("nn.ReLU()", "nn.Sequential(nn.ReLU(), nn.Dropout(0.2))"),
    }  # fmt: skip
    for part, (old, new) in changes.items():
        written(folder, old, new)
        told = fails("train", "mine.py:task", "--out", "run")
        assert "another task now" in told
        assert f"{part}." in told
        assert "--overwrite" in told


@pytest.mark.filterwarnings("ignore:The finished run of 1 epochs")
def test_a_finished_run_is_trained_longer(folder: Path) -> None:
    written(folder)
    works("train", "mine.py:task", "--out", "run")
    works("sweep", "run", "--no-latency", "--num-widths", 2)
    assert "Trained on: run" in works("train", "mine.py:task", "--out", "run", "--epochs", 3)
    assert not (folder / "run/frontier.json").exists()  # it was of other weights
    assert "Finished before" in works("train", "mine.py:task", "--out", "run", "--epochs", 3)
    assert "epochs 3 rather than 2" in fails("train", "mine.py:task", "--out", "run", "--epochs", 2)


def test_a_refused_command_leaves_no_folder(folder: Path) -> None:
    written(folder, "return nn.Sequential", "return nn.Sequental")
    fails("train", "mine.py:task", "--out", "runs/mine")
    assert not (folder / "runs").exists()
