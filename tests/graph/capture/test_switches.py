"""Layers that are switched between calls: the network does what the model would."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

import widthwise as ww
from widthwise.graph.capture.program import EvaluationOnlyWarning

X = torch.randn(16, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def build() -> nn.Sequential:
    torch.manual_seed(0)
    body = (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.3))
    return nn.Sequential(
        *body, nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(32, 2)
    )


def freeze(m: nn.Module) -> None:
    m[1].eval()  # type: ignore[index]


def drop_more(m: nn.Module) -> None:
    m[3].p = 0.6  # type: ignore[index]


def slow(m: nn.Module) -> None:
    m[1].momentum = 0.01  # type: ignore[index]


def average(m: nn.Module) -> None:
    for i in (1, 5):
        m[i].momentum = None  # type: ignore[index]
        m[i].reset_running_stats()  # type: ignore[index]


def adapt(m: nn.Module) -> None:
    m.eval()
    m[5].train()  # type: ignore[index]


def sample(m: nn.Module) -> None:
    m.eval()
    m[3].train()  # type: ignore[index]


@pytest.mark.parametrize("switch", [freeze, drop_more, slow, average, adapt, sample])
def test_switches(switch: Callable[[nn.Module], None]) -> None:
    plain = build()
    net: Any = ww.Elastic(copy.deepcopy(plain), X[:4], draw=ww.Draw(p=0.0))
    for change in (lambda m: m.train(), switch, lambda m: m.train()):
        change(plain)
        if change is switch:
            net.eval() if not plain.training else net.train()
            change(net.model)
        else:
            net.train()
        for i in range(2):
            torch.manual_seed(i)
            wanted = plain(X[i * 4 : i * 4 + 4])
            torch.manual_seed(i)
            found = net(X[i * 4 : i * 4 + 4])
            torch.testing.assert_close(found, wanted)
        state = net.model.state_dict()
        for name, tensor in plain.state_dict().items():
            torch.testing.assert_close(state[name], tensor, msg=name)


def test_statistics_for_averaged_weights() -> None:
    plain = build()
    net = ww.Elastic(copy.deepcopy(plain), X[:4], draw=ww.Draw(p=0.0))
    loader = [X[i : i + 4] for i in range(0, 16, 4)]
    update_bn(loader, plain)
    update_bn(loader, net)
    torch.testing.assert_close(net.model[1].running_var, plain[1].running_var)
    assert net.model[1].momentum == 0.1


class Reshaped(nn.Module):
    """Speaks of its sizes in forward, so that a cut is a graph module."""

    def __init__(self, momentum: float | None):
        super().__init__()
        self.enter, self.norm = nn.Linear(5, 8), nn.BatchNorm1d(8, momentum=momentum)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.norm(self.enter(x)).view(-1, 8))


def test_a_graph_module_has_the_momentum_of_now_and_says_where_it_cannot():
    x = torch.randn(6, 5)
    net = ww.Elastic(Reshaped(0.1), x).train()
    net.model.norm.momentum = 0.4
    with pytest.warns(ww.GraphModuleWarning):
        cut = net.cut(0.5)
    net(x, widths=0.5), cut(x)
    torch.testing.assert_close(cut.get_buffer("norm.running_mean"), net.model.norm.running_mean[:4])
    net = ww.Elastic(Reshaped(None), x)
    with pytest.warns(ww.GraphModuleWarning, match="'norm' averages all batches.*0.1"):
        net.cut(0.5)


class Drawn(nn.Module):
    """Draws by numpy in training mode, which no graph holds."""

    def __init__(self):
        super().__init__()
        self.enter, self.norm, self.drop = nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.5)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        h = self.drop(self.norm(self.enter(x)))
        return self.head(h * float(np.random.rand()) if self.training else h)


def test_a_graph_of_evaluation_that_serves_training_throws_no_switch():
    x = torch.randn(4, 5)
    with pytest.warns(EvaluationOnlyWarning):
        net = ww.Elastic(Drawn(), x)
    wanted = net.eval()(x, widths={"enter": 4})
    before = net.model.norm.running_mean.clone()
    assert torch.equal(net.train()(x, widths={"enter": 4}), wanted)
    assert torch.equal(net.model.norm.running_mean, before)
