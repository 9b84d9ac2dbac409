"""Masks: exactly so many weights go, and what is gone stays gone."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import widthwise as ww
from widthwise.errors import ScoreError
from widthwise.pruning import held_at_zero, keep, magnitude, obd, prune_
from widthwise.pruning.gradual import lamp

G = torch.Generator().manual_seed(0)
X = torch.randn(32, 6, generator=G)
Y = torch.randint(0, 3, (32,), generator=G)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 3))


def score(module):
    return magnitude(ww.Elastic(module, X[:3]), of="weights")


def zeros(masks):
    return sum(int((~m).sum()) for m in masks.values())


def random_scores(*shapes):
    g = torch.Generator().manual_seed(1)
    return {str(i): torch.rand(s, generator=g) for i, s in enumerate(shapes)}


@pytest.mark.parametrize("sparsity", [0.0, 0.001, 0.25, 0.5, 0.87])
def test_counts_are_exact(sparsity):
    scores = random_scores((7, 9), (4, 5, 3), (11,), (13, 2))
    total = 63 + 60 + 26
    together = keep(scores, sparsity)
    assert set(together) == {"0", "1", "3"}  # vectors stay
    assert zeros(together) == round(sparsity * total)
    kept = torch.cat([scores[n][m] for n, m in together.items()])
    gone = torch.cat([scores[n][~m] for n, m in together.items()])
    assert not len(gone) or gone.max() < kept.min()
    for n, mask in keep(scores, sparsity, scope="layer").items():
        assert mask.shape == scores[n].shape
        assert mask.dtype == torch.bool
        assert int((~mask).sum()) == round(sparsity * mask.numel())


def test_scopes_differ():
    scores = {"a": torch.full((4, 5), 1.0), "b": torch.full((4, 5), 2.0)}
    scores["a"][0, 0] = 3.0
    whole = keep(scores, 19 / 40)
    assert int(whole["a"].sum()) == 1
    assert whole["b"].all()
    each = keep(scores, 0.5, scope="layer")
    assert [int(m.sum()) for m in each.values()] == [10, 10]


def test_lamp_is_the_share_of_what_is_at_least_as_large():
    values = torch.tensor([[3.0, 0.0, 1.0], [2.0, 1.0, 0.0]])
    shares = [9 / 9, 0, 1 / 15, 4 / 13, 1 / 14, 0]  # of equal ones the first gets less
    assert lamp(values).flatten().tolist() == pytest.approx(shares)
    assert torch.equal(lamp(2**-10 * values), lamp(values))
    assert not lamp(torch.zeros(3)).any()
    gone = values.clone()
    gone[0, 1] = -torch.inf
    assert lamp(gone)[0, 1] == -torch.inf
    assert lamp(gone).flatten()[2:].tolist() == pytest.approx(shares[2:])


def test_lamp_spares_tensors_of_small_weights():
    scores = random_scores((30, 20), (20, 20))
    scores["1"] = 1e-4 * scores["1"]
    assert not keep(scores, 0.3)["1"].all()
    with pytest.raises(ScoreError, match="nothing is left of '1'"):
        keep(scores, 0.5)
    masks = keep(scores, 0.5, scope="lamp")
    assert zeros(masks) == 500
    for name, mask in masks.items():
        assert 0.4 < mask.float().mean() < 0.6
        assert scores[name][~mask].max() < scores[name][mask].min()
    with pytest.raises(ValueError, match="give 'layer', 'global' or 'lamp'"):
        keep(scores, 0.5, scope="tensor")


def test_ties_are_broken_by_position_and_to_the_count():
    same = {"a": torch.ones(3, 4)}
    mask = keep(same, 0.5)["a"]
    assert mask.flatten().tolist() == [False] * 6 + [True] * 6
    assert torch.equal(mask, keep(same, 0.5)["a"])


def test_what_cannot_be_kept_is_one_sentence():
    scores = {"a": torch.zeros(3, 4), "b": torch.ones(3, 4)}
    for sparsity in (1.0, 1.5, -0.1, float("nan")):
        with pytest.raises(ScoreError, match="give a share of zeros from 0 to below 1"):
            keep(scores, sparsity)
    with pytest.raises(ScoreError, match="nothing is left of 'a'"):
        keep(scores, 0.5)
    assert keep(scores, 0.45)["a"].sum() == 1
    assert keep(scores, 0.5, scope="layer")["a"].sum() == 6
    scores["b"][1, 1] = torch.nan
    with pytest.raises(ScoreError, match="'b' is not a number"):
        keep(scores, 0.1)


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.1),
}


def train(module, optimizer, steps=10):
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(module(X), Y).backward()
        optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_zeros_stay_zero_in_training_and_are_free_afterwards(model, name):
    masks = keep(score(model), 0.6)
    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    with held_at_zero(model, masks) as same:
        assert same is model
        train(model, OPTIMIZERS[name](model.parameters()))
        for n, mask in masks.items():
            parameter = model.get_parameter(n)
            assert (parameter[~mask] == 0).all()
            assert not torch.equal(parameter[mask], start[n][mask])
    assert not any(p._backward_hooks for p in model.parameters())
    train(model, OPTIMIZERS[name](model.parameters()))
    assert any((model.get_parameter(n)[~m] != 0).any() for n, m in masks.items())


def test_hooks_go_when_something_fails_and_frozen_weights_are_no_failure(model):
    masks = keep(score(model), 0.5)
    with pytest.raises(RuntimeError, match="stopped"), held_at_zero(model, masks):
        raise RuntimeError("stopped")
    model[0].requires_grad_(False)
    with held_at_zero(model, masks):
        assert (model[0].weight[~masks["0.weight"]] == 0).all()
    for name, shape in (("9.weight", (2, 2)), ("0.weight", (10, 5))):
        wrong = held_at_zero(model, {**masks, name: torch.ones(shape, dtype=torch.bool)})
        with pytest.raises(ScoreError, match=f"{name!r} fits no parameter"), wrong:
            raise AssertionError
    assert not any(p._backward_hooks for p in model.parameters())


def test_in_rounds_what_is_gone_stays_gone(model):
    seen = []

    def between(module):
        train(module, OPTIMIZERS["adamw"](module.parameters()))
        seen.append({n: p.detach() == 0 for n, p in module.named_parameters() if p.dim() > 1})

    masks = prune_(model, score, 0.9, rounds=4, between=between)
    counts = [sum(int(z.sum()) for z in each.values()) for each in seen]
    assert counts == [round((1 - 0.1 ** (k / 4)) * 90) for k in (1, 2, 3, 4)]
    for earlier, later in pairwise(seen):
        assert all((later[n] | ~earlier[n]).all() for n in earlier)
    assert all(torch.equal(~m, seen[-1][n]) for n, m in masks.items())


def test_a_score_that_would_bring_weights_back_does_not(model):
    """The second round scores highest what the first one took."""
    rounds = []

    def fickle(module):
        rounds.append(1)
        found = {n: p.detach().abs() for n, p in module.named_parameters()}
        return {n: (-v if len(rounds) > 1 else v) for n, v in found.items()}

    first = keep({n: p.detach().abs() for n, p in model.named_parameters()}, 1 - 0.4**0.5)
    masks = prune_(model, fickle, 0.6, rounds=2)
    assert len(rounds) == 2
    assert zeros(masks) == 54
    assert all(not masks[n][~m].any() for n, m in first.items())


def test_one_round_is_keep_and_obd_is_better_than_chance(model):
    train(model, torch.optim.Adam(model.parameters(), lr=0.05), 60)
    weights = {n: p.detach().clone() for n, p in model.named_parameters()}

    def by_obd(module):
        return obd(ww.Elastic(module, X[:3]), [(X, Y)] * 8, F.cross_entropy, of="weights")

    def losses(scores):
        model.load_state_dict(weights)
        masks = prune_(model, lambda _: scores, 0.5)
        assert all(torch.equal(m, keep(scores, 0.5)[n]) for n, m in masks.items())
        return F.cross_entropy(model(X), Y).item()

    chance = [losses({n: torch.rand_like(p) for n, p in weights.items()}) for _ in range(8)]
    model.load_state_dict(weights)
    assert losses(by_obd(model)) < min(chance)


def test_rounds_and_sparsities_that_make_no_sense(model):
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(ValueError, match="give at least 1"):
        prune_(model, score, 0.5, rounds=0)
    for sparsity in (1.0, 1.5, -0.5):
        with pytest.raises(ScoreError, match="give a share of zeros from 0 to below 1"):
            prune_(model, score, sparsity, rounds=3)
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
