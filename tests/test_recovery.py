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
    assert made.valid(made.teacher) > made.valid(net) + 0.2
    assert not made.teacher.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state().items())
    assert made.teacher is made.teacher  # trained once


def test_a_training_that_harms_makes_no_teacher(net, task, data):
    good = recovery(net, task, data, Recipe(epochs=3)).teacher
    net.model.load_state_dict(good.state_dict())
    made = recovery(net, task, data, Recipe(epochs=1, lr=1.0))
    assert all(map(torch.equal, made.teacher.parameters(), net.model.parameters()))


def test_variants_learn_from_the_teacher(net, task, data, monkeypatch):
    def taught_by(teacher):
        monkeypatch.setattr(Recovery, "teacher", teacher)
        made = net.cut(net.full())
        recovery(net, task, data, Recipe(epochs=1)).brief(made, None)
        return made

    one, same, other = map(taught_by, (net, net, nn.Sequential(nn.Flatten(), nn.Linear(64, 10))))
    assert torch.equal(one.fc1.weight, same.fc1.weight)
    assert not torch.equal(one.fc1.weight, other.fc1.weight)


@pytest.fixture
def found(net, task, data):
    made = recovery(net, task, data, Recipe(epochs=1))
    return search(net, made.valid, max_bytes=3_000, train=made.brief, trials=5)


def test_the_best_of_the_finalists_keeps_to_the_budget(net, task, data, found):
    best = recovery(net, task, data, Recipe(epochs=1)).best(found, max_bytes=3_000)
    assert best is not None
    assert best.bytes <= 3_000
    assert 1 <= len(finalists([t.variant for t in found.tried])) <= 3


def test_the_first_is_made_both_ways_and_the_others_as_the_better_one(
    net, task, data, found, monkeypatch
):
    ways = []
    made_from = Recovery._made

    def noted(self, variant, start, train):
        if train is not None:
            ways.append((variant.bits, start is self._starts[1]))
        return made_from(self, variant, start, train)

    monkeypatch.setattr(Recovery, "_made", noted)
    recovery(net, task, data, Recipe(epochs=2)).best(found, max_bytes=3_000)
    first, *_ = finalists([t.variant for t in found.tried])
    assert {way for bits, way in ways if bits == first.bits} == {False, True}
    # A network that was never trained is no better beginning than one that was.
    assert {way for bits, way in ways if bits != first.bits} <= {True}


def test_what_fails_leaves_the_network_as_it_was(net, task, data, found, monkeypatch):
    before = {name: tensor.clone() for name, tensor in net.state().items()}
    made = recovery(net, task, data, Recipe(epochs=1))
    made.teacher  # noqa: B018

    def fails(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Recovery, "whole", fails)
    with pytest.raises(KeyboardInterrupt):
        made.best(found, max_bytes=3_000)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state().items())
