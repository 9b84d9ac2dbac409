"""`fit` with a pruner: stopped and resumed, averaged, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import widthwise as ww
from widthwise.app.tasks.arrays import Arrays
from widthwise.errors import RunError
from widthwise.pruning.gradual import GradualPruner, Schedule
from widthwise.train.config import RunConfig
from widthwise.train.fit import fit
from widthwise.train.recipe import Recipe

PLAN = Schedule(0.8, begin=4, end=16, frequency=3)


class Stop(Exception):
    """Something went wrong outside."""


class Stopping(Arrays):
    """Data that fails at one fetch."""

    def __init__(self, data: Arrays, at: int) -> None:
        super().__init__(data.inputs, data.targets)
        self.left = at

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        self.left -= 1
        if not self.left:
            raise Stop
        return super().batch(indices)


def data() -> Arrays:
    x = torch.randn(240, 12, generator=torch.Generator().manual_seed(1))
    return Arrays(x, x[:, :4].argmax(1))


def net() -> ww.Elastic:
    torch.manual_seed(0)
    return ww.Elastic(
        nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 4)), torch.randn(4, 12)
    )


def run(
    elastic: ww.Elastic, given: Arrays, folder: Path | None, plan: Schedule = PLAN, **how: object
) -> None:
    pruner = GradualPruner(
        elastic, plan, levels=[elastic.widths(0.5)], dpf=bool(how.pop("dpf", False))
    )
    recipe = Recipe(6, 60, lr=1e-2, **how)
    loss = ww.SandwichLoss(elastic, F.cross_entropy)
    fit(
        elastic,
        given,
        loss,
        recipe=recipe,
        compress=pruner,
        run=RunConfig(folder=folder, progress=False, save_every=0),
    )


@pytest.mark.sample(1)
@pytest.mark.parametrize("how", [{}, {"dpf": True}, {"sam": 0.05, "ema": 0.9}])
def test_a_stopped_run_ends_with_the_same_weights(tmp_path: Path, how: dict) -> None:
    whole = net()
    run(whole, data(), None, **how)
    with pytest.raises(Stop):
        run(net(), Stopping(data(), 11), tmp_path, **how)
    resumed = net()
    run(resumed, data(), tmp_path, **how)
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)
    for module in (resumed.model, resumed.cut(resumed.widths(0.5))):
        for p in module.parameters():
            assert int((p == 0).sum()) == (
                0 if p.dim() == 1 else pytest.approx(0.8 * p.numel(), abs=1)
            )


def test_another_schedule_does_not_go_on(tmp_path: Path) -> None:
    with pytest.raises(Stop):
        run(net(), Stopping(data(), 11), tmp_path)
    other = Schedule(0.9, begin=4, end=16, frequency=3)
    with pytest.raises(RunError, match=r"pruning\.schedule\.final was 0\.8 and is 0\.9"):
        run(net(), data(), tmp_path, other)


def test_pruners_of_something_else() -> None:
    elastic = net()
    loss = ww.SandwichLoss(elastic, F.cross_entropy)
    used = GradualPruner(elastic, PLAN)
    used.step()
    for pruner in (used, GradualPruner(net(), PLAN)):
        with pytest.raises(ValueError, match="Make a new pruner"):
            fit(
                elastic,
                data(),
                loss,
                recipe=Recipe(1, 60),
                compress=pruner,
                run=RunConfig(progress=False),
            )
