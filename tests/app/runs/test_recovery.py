"""Who teaches the variants of a search, and what a finalist's training leaves in its file."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import widthwise as ww
from widthwise.app.runs.finalists import Recovery, candidates
from widthwise.app.runs.measuring import evaluation, statistics_batches
from widthwise.app.tasks import BUILT_IN
from widthwise.formats import Uniform
from widthwise.measure.budget import Budget
from widthwise.measure.evaluation import Evaluation
from widthwise.train.fit import fit
from widthwise.train.recipe import Recipe
from widthwise.variant import Variant
from widthwise.variants import search
from widthwise.variants.search import Candidates


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
    before = {name: tensor.clone() for name, tensor in net.engine.state().items()}
    made = recovery(net, task, data, Recipe(epochs=3))
    assert made.valid(made.teacher) > made.valid(net) + 0.2
    assert not made.teacher.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.engine.state().items())
    assert made.teacher is made.teacher  # trained once


def test_a_training_that_harms_makes_no_teacher(net, task, data):
    good = recovery(net, task, data, Recipe(epochs=3)).teacher
    net.model.load_state_dict(good.state_dict())
    made = recovery(net, task, data, Recipe(epochs=1, lr=1.0))
    assert all(map(torch.equal, made.teacher.parameters(), net.model.parameters()))


def test_what_was_trained_along_levels_teaches_as_it_is(net, task, data, found):
    net.levels = (net.complete(net.widths(0.3)), net.full())
    made = recovery(net, task, data, Recipe(epochs=1))
    assert all(map(torch.equal, made.teacher.parameters(), net.model.parameters()))
    best = made.best(found, max_bytes=3_000)
    assert best is not None
    assert best.bytes <= 3_000


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
    return search(
        net, made.valid, Budget(max_bytes=3_000), candidates=Candidates(train=made.brief), trials=5
    )


def test_the_best_of_the_finalists_keeps_to_the_budget(net, task, data, found):
    best = recovery(net, task, data, Recipe(epochs=1)).best(found, max_bytes=3_000)
    assert best is not None
    assert best.bytes <= 3_000


def test_candidates_are_the_best_two_of_three_numbers_of_bits():
    def variant(bits, width):
        return Variant({"fc1": width}, {}, {"fc1.weight": Uniform(bits)})

    tried = [(4, 9), (2, 30), (4, 8), (4, 7), (8, 5), (3, 12), (2, 29), (2, 28), (8, 4)]
    kept = [(4, 9), (2, 30), (4, 8), (8, 5), (2, 29), (8, 4)]
    assert candidates([variant(*each) for each in tried]) == [variant(*each) for each in kept]


def trainings(monkeypatch):
    """What is trained from here on: (how, variant, whether from the network trained on)."""
    noted, made_from = [], Recovery._made

    def making(self, variant, start, train):
        if train is not None:
            noted.append((train.__name__, variant, start is self._starts[1]))
        return made_from(self, variant, start, train)

    monkeypatch.setattr(Recovery, "_made", making)
    return noted


def test_the_first_is_made_both_ways_and_the_other_as_the_better_one(
    net, task, data, found, monkeypatch
):
    made = recovery(net, task, data, Recipe(epochs=2))
    first, *others = candidates([t.variant for t in found.tried])
    other = next(variant for variant in others if variant.bits != first.bits)
    monkeypatch.setattr(Recovery, "_finalists", lambda *_: [first, other])
    noted = trainings(monkeypatch)
    made.best(found, max_bytes=3_000)
    whole = [(variant.bits, settled) for how, variant, settled in noted if how == "whole"]
    assert {settled for bits, settled in whole if bits == first.bits} == {False, True}
    # A network that was never trained is no better beginning than one that was.
    assert {settled for bits, settled in whole if bits == other.bits} == {True}


def test_a_short_training_chooses_the_finalists(net, task, data, found, monkeypatch):
    some = candidates([t.variant for t in found.tried])
    assert len(some) > 2
    made = recovery(net, task, data, Recipe(epochs=5))
    assert made.teacher is not None
    noted, epochs, reached = trainings(monkeypatch), [], {}

    def fitting(*given, recipe, **options):
        epochs.append(recipe.epochs)
        fit(*given, recipe=recipe, **options)

    def valid(self, module):
        reached[noted[-1][1]] = value = evaluated(self, module)
        return value

    evaluated = Evaluation.__call__
    monkeypatch.setattr(Evaluation, "__call__", valid)
    monkeypatch.setattr("widthwise.app.runs.finalists.fit", fitting)
    chosen = made._finalists([t.variant for t in found.tried])
    assert noted == [("_shortly", variant, True) for variant in some]
    assert epochs == [2 for _ in some]
    assert chosen == sorted(some, key=reached.__getitem__, reverse=True)[:2]


def test_trainings_that_harm_leave_the_best_that_was_found(net, task, data, found, monkeypatch):
    def harms(self, module, quantizer):
        nn.init.constant_(module.fc3.bias[:1], 1e3)  # it says 0, whatever it sees

    monkeypatch.setattr(Recovery, "whole", harms)
    made = recovery(net, task, data, Recipe(epochs=1))
    best = made.best(found, max_bytes=3_000)
    assert best.variant == found.best.variant
    assert made.valid(best.module) == pytest.approx(found.best.metric)
    assert made.best(found, max_bytes=1) is None


def test_what_fails_leaves_the_network_as_it_was(net, task, data, found, monkeypatch):
    before = {name: tensor.clone() for name, tensor in net.engine.state().items()}
    made = recovery(net, task, data, Recipe(epochs=1))
    made.teacher  # noqa: B018

    def fails(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Recovery, "whole", fails)
    with pytest.raises(KeyboardInterrupt):
        made.best(found, max_bytes=3_000)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.engine.state().items())
