"""Who teaches the variants of a search, and what a finalist's training leaves in its file."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import widthwise as ww
from widthwise.recovery import Recovery, finalists
from widthwise.steps import evaluation, statistics_batches
from widthwise.tasks import BUILT_IN
from widthwise.train.recipe import Recipe
from widthwise.vary import search


@pytest.fixture(scope="module")
def task():
    return BUILT_IN["digits"]()


@pytest.fixture(scope="module")
def data(task):
    return task.splits()


@pytest.fixture
def net(task):
    torch.manual_seed(0)
    return ww.Elastic(task.model(), task.example(), seed=0).eval()


def recovery(net, task, data, recipe):
    batches = statistics_batches(task, data)
    return Recovery(net, task, data.train, batches, recipe, evaluation(task, data, "valid"))


def test_a_full_width_that_is_behind_is_trained_before_it_teaches(net, task, data):
    before = {name: tensor.clone() for name, tensor in net.state().items()}
    made = recovery(net, task, data, Recipe(epochs=3))
    assert made.teacher is not net
    assert made.valid(made.teacher) > made.valid(net) + 0.2
    assert not made.teacher.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state().items())
    assert made.teacher is made.teacher  # trained once


def test_a_training_that_harms_makes_no_teacher(net, task, data):
    good = recovery(net, task, data, Recipe(epochs=3)).teacher
    net.model.load_state_dict(good.state_dict())
    made = recovery(net, task, data, Recipe(epochs=1, lr=1.0))
    assert made.teacher is net


def test_variants_learn_from_the_teacher(net, task, data, monkeypatch):
    def taught_by(teacher):
        monkeypatch.setattr(Recovery, "teacher", teacher)
        made = net.cut(net.full())
        recovery(net, task, data, Recipe(epochs=1)).brief(made, None)
        return made

    one, same, other = map(taught_by, (net, net, nn.Sequential(nn.Flatten(), nn.Linear(64, 10))))
    assert torch.equal(one.fc1.weight, same.fc1.weight)
    assert not torch.equal(one.fc1.weight, other.fc1.weight)


def test_the_best_of_the_finalists_keeps_to_the_budget(net, task, data):
    made = recovery(net, task, data, Recipe(epochs=1))
    few = evaluation(task, data, "valid")
    found = search(net, few, max_bytes=3_000, train=made.brief, trials=5)
    best = made.best(found, max_bytes=3_000)
    assert best is not None
    assert best.bytes <= 3_000
    assert 1 <= len(finalists([t.variant for t in found.tried])) <= 3
