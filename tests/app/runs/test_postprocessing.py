"""How long cut networks are taught before they are stored: small ones longer than large ones."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import widthwise as ww
from widthwise.app.runs import postprocessing
from widthwise.app.runs.postprocessing import PostProcess, PostProcessing, post_process
from widthwise.task import Recipe

RECIPE = Recipe(epochs=40, batch_size=16)
SHARES = (0.9, 0.02, 0.5, 0.01)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return ww.Elastic(
        nn.Sequential(nn.Linear(8, 100), nn.ReLU(), nn.Linear(100, 4)), torch.randn(4, 8)
    )


def taught(net, monkeypatch, recipe=RECIPE, **given):
    """Epochs -> the networks that were taught for so long, as places in SHARES."""
    found = {}
    widths = [net.widths(share) for share in SHARES]
    cuts = [net.cut(w) for w in widths]

    def noted(some, *_, recipe, **__):
        assert recipe.epochs not in found
        found[recipe.epochs] = [cuts.index(each) for each in some]

    monkeypatch.setattr(postprocessing, "distill", noted)
    how = PostProcessing((PostProcess.DISTILL,), **given)
    task = SimpleNamespace(recipe=recipe, distill=None, loss=F.cross_entropy, distill_loss=None)
    post_process(cuts, net, widths, task, None, how, list)
    return found


def test_the_smallest_networks_are_taught_half_as_long_again(net, monkeypatch):
    assert taught(net, monkeypatch) == {8: [0, 2], 12: [1, 3]}


def test_epochs_that_are_asked_for_are_those_of_all(net, monkeypatch):
    assert taught(net, monkeypatch, epochs=7) == {7: [0, 1, 2, 3]}


def test_a_short_recipe_teaches_all_of_them_in_one_go(net, monkeypatch):
    assert taught(net, monkeypatch, recipe=Recipe(epochs=1)) == {2: [0, 1, 2, 3]}
