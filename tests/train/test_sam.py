"""Sharpness-aware minimisation: its step by hand, in one's own loop and in `fit`."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import widthwise as ww
from widthwise.app.tasks.arrays import Arrays
from widthwise.pruning.gradual import GradualPruner, Schedule
from widthwise.train.config import RunConfig
from widthwise.train.fit import fit
from widthwise.train.recipe import Recipe
from widthwise.train.sam import SAM


def quadratic(w: Tensor) -> Tensor:
    return (w * torch.tensor([1.0, 4.0]) * w).sum() / 2


def test_a_step_is_the_published_one() -> None:
    w = nn.Parameter(torch.tensor([3.0, -1.0]))
    optimizer = torch.optim.SGD([w], lr=0.1)
    sam = SAM(optimizer, rho=0.5)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = quadratic(w)
        loss.backward()
        return loss

    loss = sam.step(closure)
    g = torch.tensor([3.0, -4.0])  # at w, of norm 5
    there = torch.tensor([3.0, -1.0]) + 0.5 * g / 5
    expected = torch.tensor([3.0, -1.0]) - 0.1 * there * torch.tensor([1.0, 4.0])
    assert loss.item() == pytest.approx(6.5)
    torch.testing.assert_close(w.detach(), expected)


def test_no_gradient_moves_nothing() -> None:
    w = nn.Parameter(torch.ones(3))
    sam = SAM(torch.optim.SGD([w], lr=0.1))
    w.grad = torch.zeros(3)
    sam.climb()
    assert torch.equal(w.detach(), torch.ones(3))
    sam.descend()
    assert torch.equal(w.detach(), torch.ones(3))


def test_a_failing_second_pass_leaves_the_weights() -> None:
    w = nn.Parameter(torch.tensor([3.0, -1.0]))
    optimizer = torch.optim.SGD([w], lr=0.1)
    passes = []

    def closure() -> Tensor:
        passes.append(1)
        if len(passes) == 2:
            raise RuntimeError("stopped")
        optimizer.zero_grad()
        loss = quadratic(w)
        loss.backward()
        return loss

    with pytest.raises(RuntimeError, match="stopped"):
        SAM(optimizer).step(closure)
    assert torch.equal(w.detach(), torch.tensor([3.0, -1.0]))


@pytest.mark.parametrize("rho", [0.0, -1.0, float("nan"), float("inf")])
def test_radii_that_cannot_be(rho: float) -> None:
    w = nn.Parameter(torch.ones(1))
    with pytest.raises(ValueError, match="rho is"):
        SAM(torch.optim.SGD([w], lr=0.1), rho=rho)
    with pytest.raises(ValueError, match=r"Recipe\.sam is"):
        Recipe(sam=rho)


def test_scaled_gradients_are_refused() -> None:
    with pytest.raises(ValueError, match="bfloat16"):
        Recipe(sam=0.05, precision="float16")


def net() -> ww.Elastic:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4))
    return ww.Elastic(model, torch.randn(4, 12), seed=3)


def data() -> Arrays:
    x = torch.randn(240, 12, generator=torch.Generator().manual_seed(1))
    return Arrays(x, x[:, :4].argmax(1))


def test_fit_takes_both_passes_at_the_same_widths() -> None:
    elastic, seen = net(), []

    class Watched(ww.SingleDraw):
        def __call__(self, inputs: object, target: object) -> Tensor:
            seen.append(elastic.step)
            return super().__call__(inputs, target)

    loss = Watched(elastic, F.cross_entropy)
    fit(elastic, data(), loss, recipe=Recipe(1, 60, sam=0.1), run=RunConfig(progress=False))
    assert seen == [0, 0, 1, 1, 2, 2, 3, 3]


def test_fit_finds_another_minimum_and_statistics_of_the_weights() -> None:
    found = {}
    for sam in (None, 0.3):
        elastic = net()
        recipe = Recipe(4, 60, lr=1e-2, sam=sam)
        history = fit(
            elastic,
            data(),
            ww.SandwichLoss(elastic, F.cross_entropy),
            recipe=recipe,
            run=RunConfig(progress=False),
        )
        assert history.epochs[-1].loss < history.epochs[0].loss
        found[sam] = elastic.model[0].weight.detach().clone()
        assert elastic.model[1].num_batches_tracked == 16
    assert not torch.allclose(found[None], found[0.3])


def test_sam_leaves_pruned_weights_alone() -> None:
    elastic = net()
    pruner = GradualPruner(elastic, Schedule(0.75, end=2), tensors=["0.weight"])
    climbed = []

    class Watched(ww.SingleDraw):
        def __call__(self, inputs: object, target: object) -> Tensor:
            climbed.append(int((elastic.model[0].weight == 0).sum()))
            return super().__call__(inputs, target)

    fit(
        elastic,
        data(),
        Watched(elastic, F.cross_entropy),
        recipe=Recipe(2, 60, sam=0.3),
        compress=pruner,
        run=RunConfig(progress=False),
    )
    assert climbed[4:] == [round(0.75 * 32 * 12)] * len(climbed[4:])
