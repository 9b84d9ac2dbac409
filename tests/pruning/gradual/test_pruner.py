"""Gradual pruning: schedules, masks, feedback, widths, and what stays dense."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import widthwise as ww
from widthwise.errors import ScoreError, WidthError
from widthwise.pruning.gradual import Gradual, GradualPruner, Schedule, lamp, prunable, shells
from widthwise.pruning.gradual.compete import SCOPES, lowest_by_lamp
from widthwise.pruning.gradual.select import lowest


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(20, 48), nn.ReLU(), nn.Linear(48, 40), nn.ReLU(), nn.Linear(40, 10)
    )


def batch(seed: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(32, 20, generator=torch.Generator().manual_seed(seed))
    return x, x[:, :10].argmax(1)


def train(
    module: nn.Module,
    pruner: GradualPruner,
    steps: int,
    optimizer: torch.optim.Optimizer | None = None,
) -> None:
    optimizer = optimizer or torch.optim.AdamW(module.parameters(), lr=3e-3)
    for i in range(steps):
        x, y = batch(i)
        optimizer.zero_grad()
        F.cross_entropy(module(x), y).backward()
        optimizer.step()
        pruner.step()


def zeros(tensor: Tensor) -> int:
    return int((tensor == 0).sum())


# Schedules


def test_the_schedule_is_the_published_cubic() -> None:
    plan = Schedule(0.9, begin=100, end=1100, frequency=100)
    assert plan.sparsity(99) == 0
    assert plan.sparsity(100) == 0
    for t in (200, 600, 1099):
        assert plan.sparsity(t) == pytest.approx(0.9 - 0.9 * (1 - (t - 100) / 1000) ** 3)
    assert plan.sparsity(1100) == plan.sparsity(9999) == 0.9
    assert [t for t in range(1500) if plan.changes(t)] == list(range(100, 1101, 100))


def test_the_last_change_is_at_the_end_whatever_the_frequency() -> None:
    plan = Schedule(0.5, begin=0, end=250, frequency=100)
    assert [t for t in range(400) if plan.changes(t)] == [0, 100, 200, 250]


@given(
    st.floats(0, 0.99),
    st.floats(0, 0.99),
    st.integers(0, 50),
    st.integers(0, 50),
    st.floats(0.5, 5),
)
def test_sparsity_never_falls(a: float, b: float, begin: int, steps: int, exponent: float) -> None:
    initial, final = sorted((a, b))
    plan = Schedule(final, begin, begin + steps, initial, 1, exponent)
    values = [plan.sparsity(t) for t in range(begin, begin + steps + 5)]
    assert all(x <= y + 1e-12 for x, y in pairwise(values))
    assert values[-1] == final


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"final": 1.0}, "below 1"),
        ({"final": -0.1}, "from 0"),
        ({"final": 0.5, "initial": 0.6}, "initial sparsity"),
        ({"final": 0.5, "begin": 10, "end": 9}, "before it begins"),
        ({"final": 0.5, "begin": -1}, "integer from 0"),
        ({"final": 0.5, "frequency": 0}, "at least 1"),
        ({"final": 0.5, "exponent": 0.0}, "above 0"),
        ({"final": float("nan")}, "from 0"),
    ],
)
def test_schedules_that_cannot_be(arguments: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Schedule(**arguments)


# Which entries go


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.data())
def test_lowest_is_a_stable_sort(values: list[int], data: st.DataObject) -> None:
    count = data.draw(st.integers(0, len(values)))
    tensor = torch.tensor(values, dtype=torch.float32)
    wanted = torch.zeros(len(values), dtype=torch.bool)
    wanted[tensor.argsort(stable=True)[:count]] = True
    assert torch.equal(lowest(tensor, count), wanted)


_FEW_VALUES = st.lists(st.integers(0, 5), min_size=1, max_size=30)  # so that many are equal


@given(st.lists(_FEW_VALUES, min_size=1, max_size=4), st.data())
def test_lowest_by_lamp_is_the_lowest_of_its_values(values: list, data: st.DataObject) -> None:
    tensors = [torch.tensor(v, dtype=torch.float32) for v in values]
    count = data.draw(st.integers(0, sum(map(len, tensors))))
    wanted = lowest(torch.cat([lamp(t) for t in tensors]), count)
    assert torch.equal(torch.cat(lowest_by_lamp(tensors, count)), wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("zero", [0.0, 0.3, 0.8])
def test_choosing_takes_the_same_entries_of_many(zero: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    values = (torch.randn(2_000).abs() * (torch.rand(2_000) >= zero)).to(dtype)
    for count in (1, 900, 1_700, 2_000):
        wanted = torch.zeros(2_000, dtype=torch.bool)
        wanted[values.argsort(stable=True)[:count]] = True
        assert torch.equal(lowest(values, count), wanted)
        assert torch.equal(lowest_by_lamp([values], count)[0], wanted)


def test_what_stays_dense() -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.Conv2d(8, 16, 1),
        nn.Conv2d(16, 16, 3, groups=4),
        nn.Flatten(),
        nn.Linear(16, 4),
    )
    assert prunable(module) == ("3.weight", "4.weight", "6.weight")
    module[6].weight.requires_grad_(False)
    assert prunable(module) == ("3.weight", "4.weight")
    words = nn.ModuleList([nn.Embedding(50, 8), nn.LSTM(8, 8, 2)])
    assert prunable(words) == (
        "0.weight",
        *(f"1.weight_{kind}_l{layer}" for layer in (0, 1) for kind in ("ih", "hh")),
    )


# Pruning


@pytest.mark.parametrize("scope", SCOPES)
def test_sparsity_is_exact_and_zeros_are_positive(scope: str) -> None:
    module = mlp()
    pruner = GradualPruner(module, Schedule(0.87, begin=3, end=20, frequency=4), scope=scope)
    seen = []
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    for i in range(30):
        train(module, pruner, 1, optimizer)
        seen.append(pruner.sparsity)
        assert pruner.steps == i + 1
    assert seen == sorted(seen)
    assert seen[1] == 0
    weights = {n: p for n, p in module.named_parameters() if p.dim() == 2}
    total = sum(p.numel() for p in weights.values())
    found = {n: zeros(p) for n, p in weights.items()}
    if scope == "layer":
        assert found == {n: round(0.87 * p.numel()) for n, p in weights.items()}
    else:
        assert sum(found.values()) == round(0.87 * total)
        assert len({found[n] / p.numel() for n, p in weights.items()}) > 1
    for name, p in weights.items():
        assert torch.equal(p != 0, pruner.masks[name])
        assert not p[p == 0].signbit().any()
    assert not any(zeros(p) for p in module.parameters() if p.dim() == 1)


def test_the_smallest_go_and_stay_away() -> None:
    module = nn.Sequential(nn.Linear(4, 4))
    with torch.no_grad():
        module[0].weight.copy_(torch.arange(1.0, 17.0).view(4, 4) * torch.tensor([1, -1, 1, -1.0]))
    pruner = GradualPruner(module, Schedule(0.5, end=0))
    assert torch.equal(pruner.masks["0.weight"], torch.arange(16).view(4, 4) >= 8)
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0, momentum=0.9)
    for _ in range(3):
        module(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()
        pruner.step()
    assert torch.equal(module[0].weight == 0, torch.arange(16).view(4, 4) < 8)


def test_tensors_with_a_schedule_of_their_own() -> None:
    module = mlp()
    each = {"4.weight": Schedule(0.25, end=10)}
    pruner = GradualPruner(module, Schedule(0.8, end=10), each=each, scope="global")
    train(module, pruner, 12)
    assert zeros(module[4].weight) == 100
    both = zeros(module[0].weight) + zeros(module[2].weight)
    assert both == round(0.8 * (48 * 20 + 40 * 48))


def test_feedback_brings_weights_back() -> None:
    plan = Schedule(0.8, begin=2, end=20, frequency=3)
    came_back = {}
    for dpf in (False, True):
        module = mlp()
        pruner = GradualPruner(module, plan, dpf=dpf)
        optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
        out = {n: torch.zeros_like(m) for n, m in pruner.masks.items()}
        count = 0
        for _ in range(60):
            train(module, pruner, 1, optimizer)
            for name, mask in pruner.masks.items():
                count += int((mask & out[name]).sum())
                out[name] = out[name] | ~mask
        came_back[dpf] = count
        assert zeros(module[2].weight) == round(0.8 * 48 * 40)
    assert came_back[False] == 0
    assert came_back[True] > 0


def remade(pruner: GradualPruner, steps: int) -> list[int]:
    """The steps after which the masks were other ones, of weights that jump at every step."""
    before, found = pruner.masks, []
    for step in range(1, steps + 1):
        with torch.no_grad():
            for name, parameter in pruner.module.named_parameters():
                if name in before:
                    parameter.normal_()
        pruner.step()
        if any(not torch.equal(mask, before[n]) for n, mask in pruner.masks.items()):
            found.append(step)
        before = pruner.masks
    return found


def test_masks_are_remade_every_few_steps_with_feedback() -> None:
    long = Schedule(0.8, begin=1, end=300)
    every = list(range(5, 42, 4))
    assert remade(GradualPruner(mlp(), long, dpf=True), 41) == every
    assert remade(Gradual(0.8, end=1.0, dpf=True).pruner(mlp(), 3_000), 40) == [*range(4, 41, 4)]
    own = GradualPruner(mlp(), Schedule(0.5, end=9), tensors=[], each={"2.weight": long}, dpf=True)
    assert remade(own, 41) == every
    past = Schedule(0.8, end=0)  # masks go on changing after its end
    assert remade(GradualPruner(mlp(), past, dpf=True), 12) == [4, 8, 12]


def test_a_frequency_that_is_given_is_kept_and_other_defaults_stay() -> None:
    slow = Schedule(0.8, end=300, frequency=15)
    assert remade(GradualPruner(mlp(), slow, dpf=True), 40) == [15, 30]
    assert remade(GradualPruner(mlp(), Schedule(0.8, end=300)), 230) == [100, 200]
    assert remade(Gradual(0.8, end=1.0).pruner(mlp(), 300), 40) == [10, 20, 30, 40]
    quick = Gradual(0.8, end=1.0, changes=100, dpf=True)
    assert quick.schedule(200).frequency == 2


def test_feedback_is_its_definition() -> None:
    """Dense weights w, gradient at w * mask: w -= lr * g, as Lin et al. write it."""
    module = mlp()
    pruner = GradualPruner(module, Schedule(0.7, begin=0, end=6, frequency=2), dpf=True)
    dense = {n: p.detach().clone() for n, p in mlp().named_parameters()}
    reference = mlp()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.3)
    plan = pruner.schedule
    masks = {n: torch.ones_like(p, dtype=torch.bool) for n, p in dense.items()}
    for step in range(1, 13):
        x, y = batch(step)
        optimizer.zero_grad()
        F.cross_entropy(module(x), y).backward()
        optimizer.step()
        pruner.step()
        with torch.no_grad():
            for n, p in reference.named_parameters():
                p.copy_(dense[n] * masks[n])
        grads = torch.autograd.grad(F.cross_entropy(reference(x), y), list(reference.parameters()))
        for (n, _), g in zip(reference.named_parameters(), grads, strict=True):
            dense[n] -= 0.3 * g
            if dense[n].dim() == 2 and step % 2 == 0:
                gone = round(plan.sparsity(step) * g.numel())
                mask = torch.ones(g.numel(), dtype=torch.bool)
                mask[dense[n].abs().flatten().argsort(stable=True)[:gone]] = False
                masks[n] = mask.view(g.shape)
        for n, p in module.named_parameters():
            torch.testing.assert_close(p.detach(), dense[n] * masks[n], rtol=1e-4, atol=1e-5)


# Widths


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("dpf", [False, True])
def test_every_rung_is_as_sparse(scope: str, dpf: bool) -> None:
    net = ww.Elastic(mlp(), torch.randn(4, 20))
    levels = [net.widths(0.25), net.widths(0.5)]
    plan = Schedule(0.8, begin=2, end=10, frequency=2)
    pruner = GradualPruner(net, plan, levels=levels, scope=scope, dpf=dpf)
    train(net, pruner, 14)
    for widths in [*levels, net.full()]:
        weights = [p for p in net.cut(widths).parameters() if p.dim() == 2]
        share = sum(map(zeros, weights)) / sum(p.numel() for p in weights)
        assert share == pytest.approx(0.8, abs=0.01)
    whole = GradualPruner(ww.Elastic(mlp(), torch.randn(4, 20)), plan, scope=scope)
    assert len(whole.settings()["levels"]) == 0


def test_shells_are_what_each_rung_adds() -> None:
    net = ww.Elastic(mlp(), torch.randn(4, 20))
    levels = [net.widths(0.25), net.widths(0.5)]
    found = shells(net, levels)
    for number, widths in enumerate([*levels, net.full()]):
        for name, p in net.cut(widths).named_parameters():
            assert int((found[name] <= number).sum()) == p.numel()
    with pytest.raises(WidthError, match="from narrow to wide"):
        shells(net, levels[::-1])
    with pytest.raises(ValueError, match="widths of an Elastic"):
        GradualPruner(net.model, Schedule(0.5), levels=levels)


# Going on, and what cannot be


@pytest.mark.parametrize("frequency", [3, None])  # a change at step 9, or between two of them
@pytest.mark.parametrize("dpf", [False, True])
def test_a_pruner_goes_on_where_it_was(dpf: bool, frequency: int | None) -> None:
    plan = Schedule(0.8, begin=2, end=20, frequency=frequency)
    module = mlp()
    pruner = GradualPruner(module, plan, dpf=dpf)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    train(module, pruner, 9, optimizer)
    state = {name: t.clone() for name, t in pruner.state_dict().items()}
    weights = {name: t.clone() for name, t in module.state_dict().items()}
    train(module, pruner, 9, optimizer)
    other = mlp()
    resumed = GradualPruner(other, plan, dpf=dpf)
    other.load_state_dict(weights)
    resumed.load_state_dict(state)
    assert resumed.steps == 9
    train(other, resumed, 9, torch.optim.SGD(other.parameters(), lr=0.1))
    for a, b in zip(module.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_masks_of_another_network() -> None:
    state = GradualPruner(mlp(), Schedule(0.5)).state_dict()
    smaller = nn.Sequential(nn.Linear(20, 47), nn.ReLU(), nn.Linear(47, 10))
    with pytest.raises(ScoreError, match="do not fit the network"):
        GradualPruner(smaller, Schedule(0.5)).load_state_dict(state)
    with pytest.raises(ScoreError, match="do not fit the network"):
        GradualPruner(mlp(), Schedule(0.5), dpf=True).load_state_dict(state)


def test_what_cannot_be_pruned() -> None:
    with pytest.raises(ScoreError, match=r"did you mean '0\.weight'"):
        GradualPruner(mlp(), Schedule(0.5), tensors=["0.weigh"])
    with pytest.raises(ScoreError, match="no matrix or kernel"):
        GradualPruner(nn.LayerNorm(4), Schedule(0.5))
    with pytest.raises(ScoreError, match=r"nothing is left of '0\.weight'"):
        GradualPruner(nn.Sequential(nn.Linear(2, 2)), Schedule(0.9))
    module = mlp()
    module.register_parameter("n", nn.Parameter(torch.ones(3, 3).long(), requires_grad=False))
    with pytest.raises(ScoreError, match=r"is of type torch\.int64"):
        GradualPruner(module, Schedule(0.5), tensors=["n"])
    with pytest.raises(ValueError, match="'layer', 'global' or 'lamp'"):
        GradualPruner(mlp(), Schedule(0.5), scope="tensor")  # type: ignore[arg-type]


def test_a_tensor_may_not_vanish_in_global_competition() -> None:
    module = mlp()
    with torch.no_grad():
        module[4].weight.mul_(1e-6)
    with pytest.raises(ScoreError, match=r"nothing is left of '4\.weight'"):
        GradualPruner(module, Schedule(0.5, end=0), scope="global")
    pruner = GradualPruner(module, Schedule(0.5, end=0), scope="lamp")  # scale does not matter
    assert pruner.sparsity == 0.5
    shares = {n: zeros(p) / p.numel() for n, p in module.named_parameters() if p.dim() == 2}
    assert max(shares.values()) < 0.6


def test_plans_that_cannot_be() -> None:
    for changed, said in (
        ({"begin": 0.8, "end": 0.7}, "first one the smaller"),
        ({"sparsity": 1.0}, "between 0 and 1"),
        ({"changes": 0}, "at least 1"),
        ({"scope": "tensor"}, "'layer', 'global' or 'lamp'"),
    ):
        with pytest.raises(ValueError, match=said):
            replace(Gradual(0.8), **changed)
