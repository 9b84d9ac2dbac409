"""Losses: their values by hand, where gradients go, and what they leave alone."""

from __future__ import annotations

import copy
import json
import math
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from widthwise import PUBLISHED, Draw, Elastic, WidthError, Widths
from widthwise.app.tasks.mlp import MLP
from widthwise.sampling.draws import Sandwich, climb, draw_widths, sandwich
from widthwise.train.losses import Distill, SandwichLoss, SingleDraw, name_of


def elastic(**settings: Any) -> tuple[Elastic, Tensor, Tensor]:
    torch.manual_seed(0)
    x, y = torch.randn(8, 6), torch.randint(0, 5, (8,))
    return Elastic(MLP(6, 16, 5), x, **settings), x, y


def kl(narrow: Tensor, full: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence by its definition, in double precision."""
    p = (full.detach().double() / temperature).softmax(-1)
    q = (narrow.double() / temperature).softmax(-1)
    return (p * (p.log() - q.log())).sum(-1).mean() * temperature**2


@pytest.mark.parametrize("draw", [Draw(), PUBLISHED, Draw(shared=False)])
@pytest.mark.parametrize("passes", [2, 4, 7])
@pytest.mark.parametrize(
    ("temperature", "hard_weight", "emphasis"), [(1.0, 0.0, 0.0), (3.0, 0.25, 0.5), (1.0, 1.0, 1.0)]
)
def test_sandwich_equals_manual_computation(draw, passes, temperature, hard_weight, emphasis):
    net, x, y = elastic(draw=draw, seed=3)
    net.step = 11
    loss = SandwichLoss(
        net,
        F.cross_entropy,
        passes=passes,
        distill=Distill(temperature=temperature, hard_weight=hard_weight),
        emphasis=emphasis,
    )
    value = loss(x, y)
    value.backward()
    found = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    assert net.step == 12

    net.zero_grad()
    plan = sandwich(net.free, draw, 3, 11, Sandwich(passes))
    assert plan[0] == Widths()
    assert len(plan) == passes
    full = net(x, widths={})
    total = F.cross_entropy(full, y).double()
    for widths in plan[1:]:
        narrow = net(x, widths=widths)
        kept = [widths.get(name, axis.size) / axis.size for name, axis in net.free.items()]
        weight = (sum(kept) / len(kept)) ** -emphasis
        total = total + weight * (1 - hard_weight) * kl(narrow, full, temperature)
        total = total + weight * hard_weight * F.cross_entropy(narrow, y)
    (total / passes).backward()
    torch.testing.assert_close(value.double(), total / passes, rtol=1e-5, atol=1e-6)
    for grad, p in zip(found, net.parameters(), strict=True):
        torch.testing.assert_close(grad, p.grad, rtol=1e-4, atol=1e-6)


def test_sandwich_without_distillation_is_the_criterion_everywhere():
    net, x, y = elastic()
    value = SandwichLoss(net, F.cross_entropy, passes=3, distill=None, emphasis=0)(x, y)
    widths = sandwich(net.free, net.draw, 0, 0, Sandwich(3))
    by_hand = torch.stack([F.cross_entropy(net(x, widths=w), y) for w in widths]).mean()
    torch.testing.assert_close(value, by_hand)


def test_by_default_every_octave_is_visited_in_every_step():
    net, _, _ = elastic(draw=Draw(lowest=2))  # 16 wide: 2..4, 4..8, 8..16
    loss = SandwichLoss(net, F.cross_entropy)
    assert loss.plan == Sandwich(passes=4, narrowest=False)
    for step in range(20):
        _, *narrow = sandwich(net.free, net.draw, 0, step, loss.plan)
        octaves = sorted(int(math.log2(max(widths.values()))) for widths in narrow)
        assert octaves == [1, 2, 3]


def test_gradients_reach_all_of_the_full_parameters():
    net, x, y = elastic()
    SandwichLoss(net, F.cross_entropy)(x, y).backward()
    for name, p in net.model.named_parameters():
        assert p.grad is not None, name
        assert p.grad.shape == p.shape
        assert (p.grad != 0).float().mean() > 0.9, name


def test_narrow_passes_do_not_teach_the_full_one():
    """A last feature is in the full pass alone: its gradient is that of the criterion."""
    net, x, y = elastic(draw=Draw(lowest=4))
    plan = sandwich(net.free, net.draw, 0, 0)
    assert all(w < 16 for widths in plan[1:] for w in widths.values())
    SandwichLoss(net, F.cross_entropy, passes=4)(x, y).backward()
    found = net.model.fc3.weight.grad[:, 15].clone()
    net.zero_grad()
    (F.cross_entropy(net(x, widths={}), y) / 4).backward()
    torch.testing.assert_close(found, net.model.fc3.weight.grad[:, 15])


def test_single_draw_is_the_criterion_at_drawn_widths():
    net, x, y = elastic(draw=PUBLISHED, seed=2)
    loss = SingleDraw(net, F.cross_entropy)
    for step in range(5):
        widths = draw_widths(net.free, PUBLISHED, 2, step)
        assert net.step == step
        value = loss(x, y)
        torch.testing.assert_close(value, F.cross_entropy(net(x, widths=widths), y))
    net.eval()
    torch.testing.assert_close(loss(x, y), F.cross_entropy(net.model(x), y))
    assert net.step == 5


class Tokens(nn.Module):
    """(N, T) and (N, T, 3) -> logits (N, T, 7), with more than one input."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 12)
        self.more = nn.Linear(3, 12)
        self.out = nn.Linear(12, 7)

    def forward(self, tokens: Tensor, extra: Tensor) -> Tensor:
        return self.out(torch.relu(self.embed(tokens) + self.more(extra)))


def token_loss(outputs: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(outputs.flatten(0, 1), target.flatten())


@pytest.mark.parametrize("as_dict", [True, False])
def test_sequences_and_several_inputs(as_dict):
    torch.manual_seed(0)
    tokens, extra = torch.randint(0, 10, (2, 5)), torch.randn(2, 5, 3)
    target = torch.randint(0, 7, (2, 5))
    net = Elastic(Tokens(), (tokens, extra))
    inputs = {"tokens": tokens, "extra": extra} if as_dict else (tokens, extra)
    value = SandwichLoss(net, token_loss, passes=2, distill=Distill(), emphasis=0)(inputs, target)
    full, narrow = net(tokens, extra, widths={}), net(tokens, extra, widths={"embed": 3})
    by_hand = (token_loss(full, target).double() + kl(narrow, full, 1.0)) / 2
    torch.testing.assert_close(value.double(), by_hand, rtol=1e-5, atol=1e-6)


class Two(nn.Module):
    """Two outputs in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(4, 8)
        self.a = nn.Linear(8, 2)
        self.b = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = self.fc1(x).relu()
        return {"a": self.a(h), "b": self.b(h)}


def test_an_own_distillation_loss_takes_the_place_of_the_usual_one():
    torch.manual_seed(0)
    x, y = torch.randn(5, 4), torch.randn(5, 1)
    net = Elastic(Two(), x)

    def criterion(outputs: dict[str, Tensor], target: Tensor) -> Tensor:
        return F.mse_loss(outputs["b"], target)

    seen = []

    def match(narrow: dict[str, Tensor], full: dict[str, Tensor]) -> Tensor:
        seen.append(full["a"].requires_grad)
        return F.mse_loss(narrow["a"], full["a"])

    value = SandwichLoss(
        net, criterion, passes=2, distill=Distill(), distill_loss=match, emphasis=0
    )(x, y)
    full, narrow = net(x, widths={}), net(x, widths={"fc1": 2})
    by_hand = (F.mse_loss(full["b"], y) + F.mse_loss(narrow["a"], full["a"])) / 2
    torch.testing.assert_close(value, by_hand)
    assert seen == [False]
    SandwichLoss(net, criterion, distill=None)(x, y).backward()


def test_running_statistics_are_those_of_the_full_width():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
    alone = copy.deepcopy(model)
    x, y = torch.randn(32, 6), torch.randint(0, 3, (32,))
    net = Elastic(model, x)
    loss = SandwichLoss(net, F.cross_entropy)
    for _ in range(3):
        value = loss(x, y)
        alone.train()(x)
    value.backward()
    assert int(model[1].num_batches_tracked) == 3
    for mine, other in zip(model.buffers(), alone.buffers(), strict=True):
        torch.testing.assert_close(mine, other)
    assert not torch.equal(model[1].running_mean, torch.zeros(16))


def test_settings_tell_losses_apart():
    net, _, _ = elastic()
    smooth = partial(F.cross_entropy, label_smoothing=0.1)
    losses = [
        SingleDraw(net, F.cross_entropy),
        SingleDraw(net, smooth),
        SandwichLoss(net, F.cross_entropy),
        SandwichLoss(net, F.cross_entropy, passes=5),
        SandwichLoss(net, F.cross_entropy, passes=Sandwich(4, stratified=False)),
        SandwichLoss(net, F.cross_entropy, distill=None),
        SandwichLoss(net, F.cross_entropy, distill=Distill(hard_weight=0.25)),
        SandwichLoss(net, F.cross_entropy, emphasis=0),
        SandwichLoss(net, F.cross_entropy, distill_loss=F.mse_loss),
    ]
    texts = [json.dumps(loss.settings(), sort_keys=True) for loss in losses]
    assert len(set(texts)) == len(texts)
    assert name_of(smooth) == "torch.nn.functional.cross_entropy(label_smoothing=0.1)"
    assert name_of(nn.CrossEntropyLoss()) == "torch.nn.modules.loss.CrossEntropyLoss"


@pytest.mark.parametrize("wrong", [{"temperature": 0}, {"hard_weight": 1.5}, {"hard_weight": -1}])
def test_bad_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=r"Distill\.\w+ is .*give"):
        Distill(**wrong)
    net, _, _ = elastic()
    with pytest.raises(ValueError, match="emphasis is nan"):
        SandwichLoss(net, F.cross_entropy, emphasis=float("nan"))


def test_sandwich_passes_climb_a_ladder():
    """Full width, some of all parts of the levels, the first; the same for the same step."""
    levels = [Widths({"0": w}) for w in (2, 4, 8, 16)]
    plan = Sandwich(4)
    seen = set()
    for step in range(50):
        wide, *drawn, lowest = climb(levels, 7, step, plan)
        assert (wide, lowest) == (Widths(), levels[0])
        first, second = drawn
        assert first in levels[2:]
        assert second in levels[:2]
        seen |= {first, second}
        assert climb(levels, 7, step, plan) == [wide, *drawn, lowest]
    assert seen == set(levels)


def test_a_sandwich_on_a_ladder_is_of_its_rungs():
    net, x, y = elastic()
    levels = [dict.fromkeys(net.free, w) for w in (2, 8)]
    loss = SandwichLoss(net, F.cross_entropy, distill=None, emphasis=0, levels=levels)
    losses = {
        w: F.cross_entropy(net.eval()(x, widths=dict.fromkeys(net.free, w)), y) for w in (2, 8)
    }
    full = F.cross_entropy(net(x), y)
    # Four passes: full width, each level from its part of the levels, and the narrowest again.
    assert loss(x, y).item() == pytest.approx(((full + 2 * losses[2] + losses[8]) / 4).item())
    assert loss.settings()["levels"] == levels
    with pytest.raises(WidthError):
        SandwichLoss(net, F.cross_entropy, levels=[{"fc1": 99}])
