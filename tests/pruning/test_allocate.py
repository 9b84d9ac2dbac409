"""Allocation: widths that meet a budget, counted as it is counted on the cut."""

import pytest
import torch
from torch import nn

import widthwise as ww
from elastic_nets import made
from widthwise.app.tasks.mlp import MLP
from widthwise.errors import BudgetError, ScoreError
from widthwise.measure.cost import macs, params
from widthwise.pruning import allocate, allocated_levels, magnitude, order_

X = torch.randn(4, 12)


def random_scores(net, seed=0):
    g = torch.Generator().manual_seed(seed)
    return {n: torch.rand(a.size, generator=g) for n, a in net.free.items()}


@pytest.fixture
def net():
    torch.manual_seed(0)
    return ww.Elastic(MLP(12, 40, 5), X).eval()


def test_what_is_lost_for_what_is_freed_decides(net):
    """A feature of fc1 frees 12 + 1 + 40 numbers, one of fc2 40 + 1 + 5."""
    scores = {n: torch.linspace(0.1, 1, 40) for n in ("fc1", "fc2")}
    widths = allocate(net, scores, max_params=params(net.model) - 1)
    assert widths == {"fc1": 39, "fc2": 40}
    scores["fc2"][7] = 0.0
    assert allocate(net, scores, max_params=params(net.model) - 1) == {"fc1": 40, "fc2": 39}
    useless = {"fc1": torch.zeros(40), "fc2": torch.ones(40)}
    useless["fc1"][:10] = 1.0
    half = allocate(net, useless, max_params=(12 + 1 + 40) * 10 + 41 * 5 + 5 + 40)
    assert half == {"fc1": 10, "fc2": 40}


@pytest.mark.parametrize("share", [0.9, 0.5, 0.1])
def test_parameters_are_those_of_the_cut(net, share):
    limit = int(share * params(net.model))
    widths = allocate(net, random_scores(net), max_params=limit)
    found = params(net.cut(widths))
    assert limit - 53 < found <= limit  # one feature more would be too many


@pytest.mark.parametrize("name", ["cnn", "resnext", "lstm_2", "gru", "encoder", "vit", "gpt"])
def test_multiply_accumulates_are_those_of_the_cut(name):
    _, net, args, kwargs = made(name)
    full = macs(net.model, args, kwargs)
    scores = random_scores(net)
    assert allocate(net, scores, max_macs=full) == net.full()
    for share in (0.7, 0.4):
        limit = int(share * full)
        widths = allocate(net, scores, max_macs=limit)
        assert macs(net.engine.cut(widths)[0], args, kwargs) <= limit
        assert widths != net.full()
    with pytest.raises(BudgetError, match=r"the least that these scores reach is [\d,]+\.") as e:
        allocate(net, scores, max_macs=1)
    least = int(str(e.value).rsplit(" ", 1)[1].rstrip(".").replace(",", ""))
    small = allocate(net, scores, max_macs=least)
    assert macs(net.engine.cut(small)[0], args, kwargs) == least


def test_bytes_are_those_of_the_file(net, tmp_path):
    scores = random_scores(net)
    for limit in (6000, "4kB"):
        widths = allocate(net, scores, max_bytes=limit)
        ww.save(net, tmp_path / "cut.safetensors", widths=widths)
        size = (tmp_path / "cut.safetensors").stat().st_size
        wanted = 4000 if limit == "4kB" else limit
        assert wanted - 400 < size <= wanted


def test_a_budget_that_cannot_be_met_names_the_least(net, tmp_path):
    scores = random_scores(net)
    with pytest.raises(BudgetError, match=r"10 params cannot be met; .* reach is 25\."):
        allocate(net, scores, max_params=10)
    assert allocate(net, scores, max_params=25) == {"fc1": 1, "fc2": 1}
    ww.save(net, tmp_path / "least.safetensors", widths={"fc1": 1, "fc2": 1})
    least = (tmp_path / "least.safetensors").stat().st_size
    assert allocate(net, scores, max_bytes=least) == {"fc1": 1, "fc2": 1}
    for limit in (1, least - 1):  # the file has a header besides the tensors
        with pytest.raises(BudgetError, match=f"reach is {least:,}\\."):
            allocate(net, scores, max_bytes=limit)


def test_exactly_one_budget(net):
    for budgets in ({}, {"max_params": 100, "max_macs": 100}):
        with pytest.raises(BudgetError, match="Give one budget"):
            allocate(net, random_scores(net), **budgets)


def test_what_has_no_scores_and_what_lies_inside_stays_full(net):
    widths = allocate(net, {"fc1": torch.rand(40)}, max_params=500)
    assert widths["fc2"] == 40 > widths["fc1"]
    with pytest.raises(BudgetError, match="the least that these scores reach"):
        allocate(net, {"fc1": torch.rand(40)}, max_params=100)
    _, encoder, _, _ = made("encoder")
    inner = [n for n, a in encoder.free.items() if a.inner_of]
    assert inner
    least = allocated_levels(encoder, random_scores(encoder), 4, lowest=0.01)[0]
    assert all(least[n] == encoder.free[n].size for n in inner)
    assert all(least[n] == 1 for n in encoder.free if n not in inner)


def test_constraints_are_kept_to():
    torch.manual_seed(0)
    limits = ww.Constraints(multiple_of={"fc1": 8}, at_least={"fc1": 10, "fc2": 3})
    net = ww.Elastic(MLP(12, 40, 5), X, constraints=limits).eval()
    seen = allocated_levels(net, random_scores(net), 40, lowest=0.01)
    assert {w["fc1"] for w in seen} <= {16, 24, 32, 40}
    assert min(w["fc1"] for w in seen) == 16
    assert min(w["fc2"] for w in seen) == 3
    with pytest.raises(BudgetError, match="cannot be met"):
        allocate(net, random_scores(net), max_params=params(net.cut({"fc1": 16, "fc2": 3})) - 1)


def test_a_least_share_is_reached_and_kept():
    torch.manual_seed(0)
    net = ww.Elastic(MLP(12, 300, 5), X).eval()
    scores = {"fc1": torch.zeros(300), "fc2": torch.ones(300)}
    smallest = {"fc1": 271, "fc2": 271}  # 90.2 %, where a step is of four features
    limit = params(net.cut(smallest))
    assert allocate(net, scores, max_params=limit, least=0.903) == smallest
    with pytest.raises(BudgetError, match=f"{limit:,}\\."):
        allocate(net, scores, max_params=limit - 1, least=0.903)


def test_a_ladder_rises_from_its_lowest_to_full(net):
    levels = allocated_levels(net, random_scores(net), 12, lowest=0.05)
    counts = [params(net.cut(w)) for w in levels]
    full = params(net.model)
    assert counts == sorted(set(counts))
    assert counts[-1] == full
    assert 0.05 * full - 53 < counts[0] <= 0.05 * full
    assert len(levels) == 12
    for name in net.free:
        widths = [w[name] for w in levels]
        assert widths == sorted(widths)
    for count, wanted in zip(counts, (full * 0.05 ** (1 - i / 11) for i in range(12)), strict=True):
        assert wanted - 53 < count <= wanted + 1e-6
    assert allocated_levels(net, random_scores(net), 1) == [net.full()]


def test_the_same_widths_before_and_after_ordering(net):
    scores = magnitude(net)
    before = allocate(net, scores, max_params=700)
    old = order_(net, scores)
    assert allocate(net, {n: s[old[n]] for n, s in scores.items()}, max_params=700) == before


def test_scores_that_do_not_fit_are_refused(net):
    for scores, said in (
        ({"fc9": torch.rand(40)}, "no axis that can be cut"),
        ({"fc1": torch.rand(39)}, "give one for each of its 40"),
        ({"fc1": torch.full((40,), torch.nan)}, "not a number"),
    ):
        with pytest.raises(ScoreError, match=said):
            allocate(net, scores, max_params=500)


def test_convolutions_count_by_place():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 16, 16)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, stride=4), nn.Conv2d(8, 2, 1)
    )
    net = ww.Elastic(model, x).eval()
    scores = {n: torch.ones(8) for n in net.free}
    by_macs = allocate(net, scores, max_macs=macs(model, (x,)) // 2)
    by_params = allocate(net, scores, max_params=params(model) // 2)
    assert by_macs["0"] < by_macs["1"]  # the first layer runs at sixteen times as many places
    assert by_params["0"] >= by_macs["0"]
