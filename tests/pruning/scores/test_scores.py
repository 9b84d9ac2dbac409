"""Scores against what they estimate, computed in full."""

import json
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call, hessian

import widthwise as ww
from places import ROOT
from widthwise import pruning
from widthwise.errors import ScoreError
from widthwise.pruning.scores import registry
from widthwise.pruning.scores.activations import Moments
from widthwise.pruning.scores.output_error import _eliminate

G = torch.Generator().manual_seed(0)
X = torch.randn(8, 5, generator=G)
Y = torch.randint(0, 3, (8,), generator=G)
BATCHES = [(X[:4], Y[:4]), (X[4:], Y[4:])]
ONE_BY_ONE = [(X[i : i + 1], Y[i : i + 1]) for i in range(8)]


class Small(nn.Module):
    """Two hidden layers, whose features can be multiplied by gates."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(5, 4), nn.Linear(4, 3), nn.Linear(3, 3)

    def forward(self, x, gates=(1.0, 1.0)):
        h = torch.tanh(self.fc1(x)) * gates[0]
        return self.fc3(torch.tanh(self.fc2(h)) * gates[1])


class Plain(Small):
    def forward(self, x):
        return super().forward(x)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return ww.Elastic(Plain(), X[:3]).eval()


def gated(net, x, y):
    """The loss as a function of the gates of both layers, one after the other."""
    return lambda z: F.cross_entropy(Small.forward(net.model, x, (z[:4], z[4:])), y)


def by_axis(values):
    return {"fc1": values[:4], "fc2": values[4:]}


def same(found, wanted, **tolerance):
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value.detach(), **tolerance)


def weight_slopes(net, x, y):
    net.model.zero_grad()
    F.cross_entropy(net.model(x), y).backward()
    found = {n: p.grad.clone() for n, p in net.model.named_parameters()}
    net.model.zero_grad()
    return found


def test_fisher_is_the_mean_square_of_the_samples_derivatives(net):
    """With samples one by one there is nothing left to chance."""
    ones = torch.ones(7)
    slopes = torch.stack([torch.func.grad(gated(net, x, y))(ones) for x, y in ONE_BY_ONE])
    same(pruning.obd(net, ONE_BY_ONE, F.cross_entropy), by_axis(slopes.square().mean(0) / 2))

    total = {n: torch.zeros_like(p) for n, p in net.model.named_parameters()}
    for x, y in ONE_BY_ONE:
        for n, g in weight_slopes(net, x, y).items():
            total[n] += g.square() / 8
    wanted = {n: total[n] * p.square() / 2 for n, p in net.model.named_parameters()}
    same(pruning.obd(net, ONE_BY_ONE, F.cross_entropy, of="weights"), wanted)


def mean_within_errors(found, deviations, wanted, count):
    """Estimates are on average what they estimate: at most four standard errors away."""
    for name, value in wanted.items():
        away = (found[name] - value).abs()
        assert (away <= 4 * deviations[name] / count**0.5 + 1e-6).all(), name
        assert (deviations[name] > 0).any()


def many(score):
    """Means and standard deviations over batches that differ in the signs alone."""
    mean = score(spread=0.0)
    return mean, {n: v - mean[n] for n, v in score(spread=1.0).items()}


@pytest.mark.sample(2)
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch's own hessian
@pytest.mark.parametrize("curvature", ["fisher", "hutchinson"])
@pytest.mark.parametrize("of", ["features", "weights"])
def test_random_signs_are_right_on_average(net, of, curvature):
    count = 400
    batches = [(X, Y)] * count
    mean, deviation = many(
        lambda spread: pruning.obd_sd(
            net, batches, F.cross_entropy, of=of, curvature=curvature, spread=spread
        )
    )
    exact = pruning.obd(net, ONE_BY_ONE, F.cross_entropy, of=of)
    if curvature == "hutchinson":
        exact = second_derivatives(net, of)
    mean_within_errors(mean, deviation, exact, count)
    wrong = {n: 1.3 * v for n, v in exact.items()}
    with pytest.raises(AssertionError):
        mean_within_errors(mean, deviation, wrong, count)


def second_derivatives(net, of):
    """Half of h w^2 with the diagonal of the full Hessian, gates being weights of 1."""
    if of == "features":
        return by_axis(hessian(gated(net, X, Y))(torch.ones(7)).diagonal() / 2)
    named = {n: p.detach() for n, p in net.model.named_parameters()}

    def loss(p):
        return F.cross_entropy(functional_call(net.model, p, (X,)), Y)

    full = hessian(loss)(named)
    found = {}
    for n, p in named.items():
        diagonal = full[n][n].reshape(p.numel(), p.numel()).diagonal().view_as(p)
        found[n] = diagonal * p.square() / 2
    return found


def test_taylor_is_the_squared_derivative_by_the_gate(net):
    ones = torch.ones(7)
    slopes = torch.stack([torch.func.grad(gated(net, x, y))(ones) for x, y in BATCHES])
    same(pruning.taylor(net, BATCHES, F.cross_entropy), by_axis(slopes.square().mean(0)))
    both = [weight_slopes(net, x, y) for x, y in BATCHES]
    wanted = {
        n: torch.stack([(g[n] * p).square() for g in both]).mean(0)
        for n, p in net.model.named_parameters()
    }
    same(pruning.taylor(net, BATCHES, F.cross_entropy, of="weights"), wanted)


def test_magnitude_by_hand(net):
    m = net.model
    sums = {
        "fc1": m.fc1.weight.abs().sum(1) + m.fc1.bias.abs() + m.fc2.weight.abs().sum(0),
        "fc2": m.fc2.weight.abs().sum(1) + m.fc2.bias.abs() + m.fc3.weight.abs().sum(0),
    }
    same(pruning.magnitude(net, norm=1), sums)
    squares = m.fc1.weight.square().sum(1) + m.fc1.bias.square() + m.fc2.weight.square().sum(0)
    same({"fc1": pruning.magnitude(net)["fc1"]}, {"fc1": squares.sqrt()})
    weights = pruning.magnitude(net, of="weights")
    same(weights, {n: p.abs() for n, p in m.named_parameters()})


def test_chance_is_a_function_of_its_seed(net):
    first, again, other = (pruning.random(net, seed=s) for s in (0, 0, 1))
    same(first, again)
    assert not torch.equal(first["fc1"], other["fc1"])
    assert {n: v.shape for n, v in pruning.random(net, of="weights").items()} == {
        n: p.shape for n, p in net.model.named_parameters()
    }


def test_a_planted_feature_is_found_and_a_dead_one_is_nothing(net):
    """Only feature 2 of the first layer reaches the classes in force; feature 0 reaches nothing."""
    with torch.no_grad():
        net.model.fc1.weight.mul_(3)
        net.model.fc2.weight.mul_(0.1)[:, 2] = torch.tensor([3.0, -3.0, 3.0])
        net.model.fc2.weight[:, 0] = 0
        net.model.fc3.weight.mul_(5)
        target = net.model(X).argmax(1)
    batches = [(X, target)] * 40
    scores = {
        "dropout_ablation": pruning.dropout_ablation(
            net, batches, F.cross_entropy, dropped=0.3, passes=50
        ),
        "obd": pruning.obd(net, batches, F.cross_entropy),
        "taylor": pruning.taylor(net, batches, F.cross_entropy),
        "output_error": pruning.output_error(net, batches, F.cross_entropy),
    }
    for name, found in scores.items():
        first = found["fc1"]
        assert first.argmax() == 2, name
        assert abs(first[0]) < (0.1 * first[2] if name == "dropout_ablation" else 1e-9), name


def test_damage_is_the_difference_of_mean_losses():
    """Over the masks of the others; of two features there are four masks."""
    torch.manual_seed(0)
    net = ww.Elastic(nn.Sequential(nn.Linear(5, 2), nn.Tanh(), nn.Linear(2, 3)), X[:3]).eval()
    with torch.no_grad():
        net.model[2].weight.mul_(5)
        h, out = torch.tanh(net.model[0](X)), net.model[2]
        loss = {
            (a, b): F.cross_entropy(out(h * torch.tensor([a, b])), Y)
            for a in (0.0, 1.0)
            for b in (0.0, 1.0)
        }
    kept = 0.7
    wanted = [
        kept * (loss[0, 1] - loss[1, 1]) + (1 - kept) * (loss[0, 0] - loss[1, 0]),
        kept * (loss[1, 0] - loss[1, 1]) + (1 - kept) * (loss[0, 0] - loss[0, 1]),
    ]
    found = pruning.dropout_ablation(net, [(X, Y)], F.cross_entropy, dropped=1 - kept, passes=2000)[
        "0"
    ]
    spread = max(loss.values()) - min(loss.values())
    assert ((found - torch.stack(wanted)).abs() < 0.02 * spread).all()
    assert (found - torch.stack(wanted[::-1])).abs().max() > 0.05 * spread
    never = pruning.dropout_ablation(net, [(X, Y)], F.cross_entropy, dropped=1e-9, passes=1)
    assert never["0"].tolist() == [0, 0]
    for wrong in (0.0, 1.0, -1.0):
        with pytest.raises(ValueError, match="give a probability between 0 and 1"):
            pruning.dropout_ablation(net, BATCHES, F.cross_entropy, dropped=wrong)


def test_activation_is_that_of_the_values(net):
    with torch.no_grad():
        net.model.fc1.weight[1] = 0
        values = torch.tanh(net.model.fc1(X))
    found = pruning.activation(net, BATCHES)
    torch.testing.assert_close(found["fc1"], values.var(0, correction=0))
    assert found["fc1"][1].abs() < 1e-6 < found["fc1"].max()
    mean = pruning.activation(net, BATCHES, statistic="mean")["fc1"]
    torch.testing.assert_close(mean, values.abs().mean(0))
    with pytest.raises(ValueError, match="give 'mean' or 'variance'"):
        pruning.activation(net, BATCHES, statistic="median")


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.out = nn.GRU(5, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x):
        return self.out(self.rnn(x)[0][:, -1])


def test_recurrent_features_are_judged_by_what_they_become():
    """Not by the state that they start from, which is zero."""
    torch.manual_seed(0)
    x = torch.randn(4, 7, 5)
    net = ww.Elastic(Recurrent(), x).eval()
    with torch.no_grad():
        last = net.model.rnn(x)[0][:, -1]
    found = pruning.activation(net, [(x, None)])
    torch.testing.assert_close(found["rnn"], last.var(0, correction=0))
    scores = pruning.output_error(net, [(x, torch.tensor([0, 1, 2, 0]))], F.cross_entropy)
    assert (scores["rnn"] > 0).all()


def test_the_recurrence_reads_features_too():
    """A feature that the output does not read still matters to the next step."""
    torch.manual_seed(0)
    x, y = torch.randn(4, 7, 5), torch.tensor([0, 1, 2, 0])
    net = ww.Elastic(Recurrent(), x).eval()
    with torch.no_grad():
        net.model.out.weight[:, 2] = 0
        net.model.out.weight[:, 4] = 0
        net.model.rnn.weight_hh_l0[:, 4] = 0
    found = pruning.obd(net, [(x, y)], F.cross_entropy)["rnn"]
    assert found[2] > 0
    assert found[4] == 0


# --- reconstruction


def test_elimination_costs_what_least_squares_say():
    """Each score is what the squared error of W x rises by, with the weights fitted anew."""
    g = torch.Generator().manual_seed(1)
    x = torch.randn(500, 5, generator=g).double() @ torch.randn(5, 5, generator=g).double()
    weights = torch.randn(5, 3, generator=g).double()  # (features, outputs)
    products = x.T @ x / 500
    alone = weights.square().sum(1) * products.diagonal() / 2
    found = _eliminate(alone, Moments(x.mean(0), products), weights, 1e-12)
    wanted, gone, before = torch.zeros(5), [], 0.0
    centred = x - x.mean(0)
    for _ in range(5):
        costs = {j: error(centred, weights, [*gone, j]) for j in range(5) if j not in gone}
        j = min(costs, key=costs.get)
        gone.append(j)
        wanted[j], before = costs[j] - before, costs[j]
    if (wanted[gone].diff() < 0).any():
        wanted[gone] = wanted[gone].cummax(0).values
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert found.argsort().tolist() == gone


def error(x, weights, gone):
    """Half the mean squared error of x W from the other features, at best."""
    rest = [i for i in range(x.shape[1]) if i not in gone]
    z = x @ weights
    best = torch.linalg.lstsq(x[:, rest], z).solution if rest else None
    return float((z - (x[:, rest] @ best if rest else 0)).square().sum() / len(x) / 2)


def test_what_others_say_too_goes_first(net):
    """OBD alone would keep both of two equal features that matter most."""
    with torch.no_grad():
        for tensor in (net.model.fc1.weight, net.model.fc1.bias):
            tensor[3] = tensor[1]
        net.model.fc2.weight[:, [0, 2]] *= 0.05
    batches = [(torch.randn(64, 5, generator=G), torch.randint(0, 3, (64,), generator=G))] * 4
    alone = pruning.obd(net, batches, F.cross_entropy)["fc1"]
    found = pruning.output_error(net, batches, F.cross_entropy, ridge=1e-8)["fc1"]
    assert set(alone.topk(2).indices.tolist()) == {1, 3}
    assert int(found.argmin()) in (1, 3)
    assert found.min() < 1e-3 * found.max()
    assert {1, 3} & set(found.topk(2).indices.tolist())  # the one left carries both


# --- what is given, and what must stay


class Twice(nn.Module):
    """One matrix under two names, and one layer called twice."""

    def __init__(self):
        super().__init__()
        self.embed, self.fc = nn.Embedding(7, 5), nn.Linear(5, 5)
        self.out = nn.Linear(5, 7, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, x):
        return self.out(torch.relu(self.fc(torch.relu(self.fc(self.embed(x))))))


def test_tied_weights_count_once():
    torch.manual_seed(0)
    tokens = torch.randint(0, 7, (6,))
    net = ww.Elastic(Twice(), tokens).eval()
    (axis,) = net.free
    m = net.model
    wanted = m.embed.weight.abs().sum(0) + m.fc.weight.abs().sum((0,)) + m.fc.weight.abs().sum(1)
    same(pruning.magnitude(net, norm=1), {axis: wanted + m.fc.bias.abs()})
    found = pruning.taylor(net, [(tokens, tokens)], F.cross_entropy, of="weights")
    assert set(found) == {"embed.weight", "fc.weight", "fc.bias"}
    F.cross_entropy(m(tokens), tokens).backward()
    torch.testing.assert_close(found["embed.weight"], (m.embed.weight.grad * m.embed.weight) ** 2)


@pytest.mark.parametrize("name", ["taylor", "obd", "obd_sd", "dropout_ablation", "output_error"])
def test_nothing_is_changed_and_frozen_parameters_count(net, name):
    score = getattr(pruning, name)
    wanted = score(net, BATCHES, F.cross_entropy)
    net.train()
    net.model.fc2.eval()
    F.cross_entropy(net.model(X), Y).backward()
    grads = [p.grad.clone() for p in net.parameters()]
    net.model.fc1.requires_grad_(False)
    before = {n: t.clone() for n, t in net.engine.state().items()}
    step, random = net.step, torch.get_rng_state()
    same(score(net, BATCHES, F.cross_entropy), wanted)
    with torch.no_grad():
        same(score(net, BATCHES, F.cross_entropy), wanted)
    assert [m.training for m in net.model.modules()] == [True, True, False, True]
    assert all(torch.equal(t, before[n]) for n, t in net.engine.state().items())
    assert all(torch.equal(p.grad, g) for p, g in zip(net.parameters(), grads, strict=True))
    assert [p.requires_grad for p in net.parameters()] == [False] * 2 + [True] * 4
    assert net.step == step
    assert torch.equal(torch.get_rng_state(), random)


def test_batches_may_be_a_stream_where_one_pass_is_enough(net):
    for name in ("taylor", "obd", "obd_sd", "dropout_ablation"):
        score = getattr(pruning, name)
        same(score(net, iter(BATCHES), F.cross_entropy), score(net, BATCHES, F.cross_entropy))
    same(pruning.activation(net, iter(BATCHES)), pruning.activation(net, BATCHES))
    with pytest.raises(ScoreError, match="can be gone through again"):
        pruning.output_error(net, iter(BATCHES), F.cross_entropy)


LOSSES = ("taylor", "obd", "obd_sd", "dropout_ablation", "output_error")


@pytest.mark.parametrize("name", [*LOSSES, "activation"])
def test_no_batch_is_refused(net, name):
    more = () if name == "activation" else (F.cross_entropy,)
    with pytest.raises(ScoreError, match="There is no batch"):
        getattr(pruning, name)(net, [], *more)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_that_cannot_be_used_are_one_sentence(net, name):
    score = getattr(pruning, name)
    with pytest.raises(ScoreError, match="labels from 0 to the number of classes minus 1"):
        score(net, [(X, Y + 1)], F.cross_entropy)
    with pytest.raises(ScoreError, match=r"of shape \(8,\); it must be one finite number"):
        score(net, [(X, Y)], lambda o, t: F.cross_entropy(o, t, reduction="none"))
    with pytest.raises(ScoreError, match="loss of a batch is nan"):
        score(net, [(X * torch.nan, Y)], F.cross_entropy)
    if name != "dropout_ablation":
        with pytest.raises(ScoreError, match="does not depend on the network's parameters"):
            score(net, [(X, Y)], lambda o, t: t.float().mean())


@pytest.mark.parametrize("curvature", ["fisher", "hutchinson"])
def test_a_loss_of_detached_outputs_is_refused(net, curvature):
    def detached(o, t):
        return F.cross_entropy(o.detach(), t)

    with pytest.raises(ScoreError, match="does not depend on the network's parameters"):
        pruning.obd(net, BATCHES, detached, curvature=curvature)


def test_obd_sd_means_the_reading_that_was_chosen(net):
    """In the library and by name: what `bench/minified_choices.py` found on validation data."""
    stored = ROOT / "bench" / "results" / "minified.json"
    reading = json.loads(stored.read_text())["results"]["choices"]["reading"]
    for of, found in (
        ("features", registry.score(net, "obd-sd", BATCHES, F.cross_entropy, seed=3)),
        (
            "weights",
            registry.score(net, "obd-sd", BATCHES, F.cross_entropy, of="weights", seed=3),
        ),
    ):
        wanted = pruning.obd_sd(net, BATCHES, F.cross_entropy, of=of, seed=3, **reading)
        same(found, wanted)
        same(pruning.obd_sd(net, BATCHES, F.cross_entropy, of=of, seed=3), wanted)
        plain = pruning.obd(net, BATCHES, F.cross_entropy, of=of, seed=3)  # Fisher, no spread
        assert any(not torch.allclose(plain[n], wanted[n]) for n in plain)


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * x.cos()


class Sines(nn.Module):
    """Its own function has no second derivative."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(5, 7), nn.Linear(7, 3)

    def forward(self, x):
        return self.fc2(Once.apply(self.fc1(x)))


class Distances(nn.Module):
    """An operator of torch's has none."""

    def __init__(self):
        super().__init__()
        self.fc1, self.centres = nn.Linear(5, 7), nn.Parameter(torch.randn(3, 7))

    def forward(self, x):
        return -torch.cdist(self.fc1(x), self.centres, p=1.5)


@pytest.mark.parametrize("model", [Sines, Distances])
def test_networks_without_a_second_derivative_are_told_of(model):
    torch.manual_seed(0)
    net = ww.Elastic(model(), X[:4])
    batches = [(X, Y)]
    for score in (pruning.obd_sd, partial(pruning.obd, curvature="hutchinson")):
        with pytest.raises(ScoreError, match=r"no second derivative \(.*\); use the score obd"):
            score(net, batches, F.cross_entropy, of="weights")
    pruning.obd(net, batches, F.cross_entropy, of="weights")
    pruning.obd_sd(net, batches, F.cross_entropy, of="weights", curvature="fisher")


class Remembering(nn.Module):
    """cuDNN has no second derivative of its layer."""

    def __init__(self):
        super().__init__()
        self.rnn, self.out = nn.LSTM(6, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x):
        return self.out(self.rnn(x)[0][:, -1])


def test_curvature_of_recurrent_layers_goes_without_cudnn():
    torch.manual_seed(0)
    x, y = torch.randn(4, 3, 6), torch.tensor([0, 1, 2, 0])
    net, seen = ww.Elastic(Remembering(), x), []

    def loss(outputs, target):
        seen.append(torch.backends.cudnn.enabled)
        return F.cross_entropy(outputs, target)

    pruning.obd_sd(net, [(x, y)], loss)
    assert seen == [False]
    assert torch.backends.cudnn.enabled


def test_weights_that_are_not_numbers_are_named(net):
    with torch.no_grad():
        net.model.fc2.weight[0, 0] = torch.nan
    for found in (
        lambda: pruning.magnitude(net),
        lambda: pruning.magnitude(net, of="weights"),
        lambda: pruning.activation(net, BATCHES),
    ):
        with pytest.raises(ScoreError, match="not a finite number"):
            found()
    for name in LOSSES:
        with pytest.raises(ScoreError, match="loss of a batch is nan"):
            getattr(pruning, name)(net, BATCHES, F.cross_entropy)


def test_inputs_of_another_form_are_refused(net):
    for wrong in ((X, X), {"y": X}):
        with pytest.raises(ScoreError, match="does not fit"):
            pruning.activation(net, [(wrong, Y)])
    by_name = pruning.activation(net, [({"x": x}, y) for x, y in BATCHES])
    same(by_name, pruning.activation(net, BATCHES))
