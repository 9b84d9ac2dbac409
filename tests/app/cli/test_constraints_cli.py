"""Constraints are part of a run, and commands keep the user's class where it can be had."""

import pytest
import torch

import widthwise as ww
from command_line import fails, widthwise, works
from widthwise.app.cli.common import constrained, pick_within
from widthwise.app.runs import opening, sweeps
from widthwise.app.runs.folder import Run
from widthwise.errors import BudgetError
from widthwise.graph.constraints import Constraints
from widthwise.measure.budget import Budget
from widthwise.measure.frontier import Frontier, Point
from widthwise.variant import Widths

TASK = """
from dataclasses import replace
from functools import partial
from widthwise.graph.constraints import Constraints
from widthwise.app.tasks.digits import task as digits
from widthwise.app.tasks.mlp import MLP
from widthwise.task import Recipe

def plain():
    return replace(digits(), name="plain", recipe=Recipe(epochs=1))

def asked():
    return replace(plain(), constraints=Constraints(multiple_of={"*": 16}))
"""


@pytest.fixture
def tasks(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(TASK)
    monkeypatch.chdir(tmp_path)


def allowed(run):
    return opening.open_run(Run(run)).net.free


def test_constraints_of_a_task_hold_in_every_command(tasks, tmp_path):
    works("train", "mine.py:asked", "--out", "runs/a")
    assert {axis.grid.multiple_of for axis in allowed(tmp_path / "runs/a").values()} == {16}
    works("sweep", "runs/a", "--num-widths", 3, "--no-latency")
    widths = [p.widths for p in Frontier.load("runs/a/frontier.json").points]
    assert all(w % 16 == 0 for some in widths for w in some.values())
    assert "multiple" in fails("cut", "runs/a", "--width", "fc1=5", "--out", "a.safetensors")


def test_constraints_of_the_command_line_are_part_of_the_run(tasks, tmp_path):
    said = ["--keep", "fc1", "--multiple-of", 8]
    works("train", "mine.py:plain", "--out", "runs/a", *said)
    free = allowed(tmp_path / "runs/a")
    assert set(free) == {"fc2"}
    assert free["fc2"].grid.multiple_of == 8
    command = Run(tmp_path / "runs/a").record().command
    assert command.endswith("--keep fc1 --multiple-of 8")
    assert "Finished before" in works("train", "mine.py:plain", "--out", "runs/a", *said)
    assert "constraint" in fails("train", "mine.py:plain", "--out", "runs/a")
    works("order", "mine.py:plain", "--from", "runs/a", "--out", "runs/b", "--keep", "fc2")
    assert set(allowed(tmp_path / "runs/b")) == {"fc1"}
    assert "you asked" in works("inspect", "mine.py:plain", "--keep", "fc1")
    assert "nothing" in fails("inspect", "mine.py:plain", "--keep", "nothing")


def test_the_command_line_adds_to_the_task():
    task = Constraints(keep=("a",), multiple_of={"*": 4}, at_least={"b": 2})
    assert constrained(task, ["c"], 8) == Constraints(
        keep=("a", "c"), multiple_of={"*": 8}, at_least={"b": 2}
    )
    assert constrained(task, None, None) == task


def frontier(*points):
    made = [Point(Widths({"a": i + 1}), m, None, b, 1, 1, None, own) for i, (m, b, own) in points]
    return Frontier(tuple(made), "accuracy", True, "valid", "here")


def test_picks_keep_the_class_and_say_what_that_costs(capsys):
    some = frontier(*enumerate([(0.9, 100, False), (0.8, 90, True), (0.95, 200, True)]))
    assert pick_within(Budget(max_bytes="100"), some).metric == 0.8
    assert "80.00 % in 90 B; a graph module has 90.00 % in 100 B" in capsys.readouterr().err
    assert pick_within(Budget(max_bytes="100"), some, any_class=True).metric == 0.9
    # A file for another runtime has no class.
    assert pick_within(Budget(max_bytes="100"), some, lambda point: point.bytes).metric == 0.9
    assert pick_within(Budget(max_bytes="200"), some).metric == 0.95
    assert capsys.readouterr().err == ""
    none = frontier(*enumerate([(0.9, 100, False), (0.95, 200, True)]))
    assert pick_within(Budget(max_bytes="100"), none).metric == 0.9
    assert "this one is a graph module" in capsys.readouterr().err
    assert frontier((0, (0.9, 100, False))).pick(max_bytes=100, keep_class=True).metric == 0.9
    with pytest.raises(BudgetError):
        none.pick(max_bytes=100, keep_class=True)
    again = Frontier.from_json(some.to_json())
    assert [p.own_class for p in again.points] == [False, True, True]


class Heads(torch.nn.Module):
    """A class that can say only streams as wide as its heads x head size."""

    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Linear(6, 16)
        self.block = torch.nn.TransformerEncoderLayer(16, 4, 24, 0.0, batch_first=True)
        self.head = torch.nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.block(self.embed(x)).mean(1))


def test_a_sweep_measures_widths_that_keep_the_class_beside():
    net = ww.Elastic(Heads(), torch.randn(2, 5, 6))
    odd = net.complete({**net.widths(0.5), "embed": 7})
    found = sweeps.with_own_class(net, [Widths(odd), net.full()])
    assert Widths(odd) in found
    reasons = [net.engine.cut(w)[2] for w in found]
    assert [r is None for r in reasons].count(True) == len(found) - 1 >= 2
    layers = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Linear(8, 2))
    plain = ww.Elastic(layers, torch.randn(2, 3))
    levels = [plain.widths(0.5), plain.full()]
    assert sweeps.with_own_class(plain, levels) == levels


def test_usage(tasks):
    assert widthwise("train", "mine.py:plain", "--out", "r", "--multiple-of", 0).exit_code == 2
