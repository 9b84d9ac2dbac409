"""Merging: features that say the same become one, and nothing else changes."""

import pytest
import torch
from torch import nn

import widthwise as ww
from widthwise.errors import ScoreError, WidthError
from widthwise.pruning import merge

X = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))


def captured(model, x=X):
    torch.manual_seed(1)
    return ww.Elastic(model, x[:3]).eval()


def repeat(layer, pairs, factor):
    """Feature j of a layer becomes a multiple of feature i."""
    with torch.no_grad():
        for j, i in pairs:
            for p in layer.parameters():
                p[j] = factor * p[i]


def mlp(factor=2.0):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 3))
    repeat(model[0], [(1, 4), (5, 4), (0, 2)], factor)
    return model


@torch.no_grad()
def same(a, b, x=X):
    torch.testing.assert_close(a.eval()(x), b.eval()(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("data", [False, True])
@pytest.mark.parametrize("factor", [1.0, 2.0, 0.3])
def test_parallel_features_are_one(data, factor):
    net = captured(mlp(factor))
    before = net(X)
    plain = net.cut({"0": 5})
    cut = merge(net, {"0": 5}, [(X, None)] if data else None)
    assert cut[0].weight.shape == (5, 6)
    torch.testing.assert_close(net(X), before)  # ordered, and nothing else
    same(cut, net)
    assert not torch.allclose(plain(X), before, atol=1e-2)
    assert not torch.allclose(net.cut({"0": 5})(X), before, atol=1e-2)  # best first, unmerged


def test_features_that_mirror_each_other_are_one_by_data_alone():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    repeat(model[0], [(1, 3)], -1.0)  # tanh is odd
    net = captured(model)
    with torch.no_grad():
        plain = merge(net, {"0": 4})
    assert not torch.allclose(plain(X), net(X), atol=1e-2)
    same(merge(net, {"0": 4}, [(X, None)]), net)


def test_what_is_merged_first_costs_least():
    net = captured(mlp())
    for width, exact in ((7, True), (6, True), (5, True), (4, False)):
        cut = merge(net, {"0": width}, [(X, None)])
        assert torch.allclose(cut(X), net(X), atol=1e-3) == exact


def test_two_layers_at_once_and_a_graph_module():
    class Held(nn.Module):
        """Its sizes are written into its code."""

        def __init__(self):
            super().__init__()
            self.layers = mlp()

        def forward(self, x):
            h = self.layers[1](self.layers[0](x)).view(-1, 8)
            return self.layers[4](self.layers[3](self.layers[2](h)))

    model = Held()
    repeat(model.layers[2], [(3, 6)], 1.5)
    net = captured(model)
    first, second = net.free
    with pytest.warns(ww.GraphModuleWarning):
        cut = merge(net, {first: 5, second: 6}, [(X, None)])
    assert isinstance(cut, torch.fx.GraphModule)
    same(cut, net)


def test_channels_behind_a_pool_and_a_flatten():
    torch.manual_seed(0)
    x = torch.randn(12, 3, 8, 8)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(6 * 9, 4)
    )
    repeat(model[0], [(2, 5), (0, 1)], 0.5)
    net = captured(model, x)
    for batches in (None, [(x, None)]):
        same(merge(net, {"0": 4}, batches), net, x)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.out = nn.LSTM(6, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x):
        return self.out(self.rnn(x)[0])


@pytest.mark.parametrize("data", [False, True])
def test_recurrent_features_are_merged_in_the_recurrence_too(data):
    torch.manual_seed(0)
    x, model = torch.randn(8, 7, 6), Recurrent()
    with torch.no_grad():
        for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
            rows = getattr(model.rnn, name).view(4, 5, -1)  # gates, units, columns
            rows[:, 3] = rows[:, 1]
        model.rnn.weight_hh_l0[:, 3] *= 3  # each is read in another way
    net = captured(model, x)
    assert not torch.allclose(net.cut({"rnn": 4})(x), net(x), atol=1e-3)
    same(merge(net, {"rnn": 4}, [(x, None)] if data else None), net, x)


# Features that are the same whatever the input.


def fed(*values, activation=nn.ReLU, bias=True):
    """A layer of whose 8 features the first are always these, before the activation."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), activation(), nn.Linear(8, 3, bias=bias))
    with torch.no_grad():
        for j, value in enumerate(values):
            model[0].weight[j], model[0].bias[j] = 0, value
        model[2].weight[:, : len(values)] *= 3  # what reads them would change much
    return model


@pytest.mark.parametrize("data", [False, True])
def test_dead_features_go_first(data):
    batches = [(X, None)] if data else None
    for model, width in ((fed(-1.0, 0.0, -2.0), 5), (fed(0.0, activation=nn.Tanh), 7)):
        net = captured(model)
        same(merge(net, {"0": width}, batches, least=0.9999), net)
    net = captured(fed(-1.0, 0.0, -2.0))
    same(merge(net, {"0": 6}, batches), net)  # fewer than there are


def test_features_that_are_dead_on_the_data_alone_go_first():
    model = fed()
    with torch.no_grad():
        model[0].bias[[2, 6]] -= 100.0
    same(merge(net := captured(model), {"0": 6}, [(X, None)], least=0.9999), net)


@pytest.mark.parametrize("data", [False, True])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Sigmoid, nn.GELU])
def test_constants_go_to_the_bias(data, activation):
    net = captured(fed(2.0, 0.0, 0.5, activation=activation))
    cut = merge(net, {"0": 5}, [(X, None)] if data else None, least=0.9999)
    same(cut, net)
    assert not torch.allclose(cut[2].bias, net.model[2].bias, atol=1e-2)


def test_constants_are_features_like_others_where_no_bias_takes_them():
    net = captured(fed(2.0, 0.5, bias=False))
    same(merge(net, {"0": 7}, [(X, None)]), net)  # one is a multiple of the other
    with pytest.raises(WidthError, match="can be merged to 7 features and not to 6"):
        merge(net, {"0": 6}, [(X, None)], least=0.9999)


def test_duplicates_and_multiples_beside_dead_and_constant_features():
    model = fed(-1.0, 1.5)
    repeat(model[0], [(3, 5)], 1.0)
    repeat(model[0], [(6, 4)], 2.5)
    for data in (None, [(X, None)]):
        net = captured(model)
        for width, exact in ((7, True), (6, True), (4, True), (3, False)):
            cut = merge(net, {"0": width}, data)
            assert torch.allclose(cut(X), net(X), atol=1e-3) == exact


class Padded(nn.Module):
    """The second convolution reads zeros around what the first one makes."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 3, padding=1)

    def forward(self, x):
        return self.two(torch.relu(self.one(x))).mean((2, 3))


def test_a_constant_next_to_padding_is_none():
    torch.manual_seed(0)
    x, model = torch.randn(5, 3, 8, 8), Padded()
    with torch.no_grad():
        model.one.weight[:2], model.one.bias[0], model.one.bias[1] = 0, -1.0, 2.0
    net = captured(model, x)
    same(merge(net, {"one": 5}, [(x, None)], least=0.9999), net, x)  # the dead one
    with pytest.raises(WidthError, match="can be merged to 5 features and not to 4"):
        merge(net, {"one": 4}, [(x, None)], least=0.9999)
    model.two.padding = (0, 0)
    net = captured(model, x)
    same(merge(net, {"one": 4}, [(x, None)], least=0.9999), net, x)


class Twice(nn.Module):
    """What is always zero where it is read first, and is not where it is read again."""

    def __init__(self):
        super().__init__()
        self.make, self.first, self.last = nn.Linear(6, 5), nn.Linear(5, 3), nn.Linear(5, 3)

    def forward(self, x):
        h = self.make(x)
        return self.first(torch.relu(h)) + self.last(h)


def test_a_feature_that_is_read_elsewhere_is_not_dead():
    torch.manual_seed(0)
    model = Twice()
    with torch.no_grad():
        model.make.bias[1] -= 100.0
    net = captured(model)
    with pytest.raises(WidthError, match="can be merged to 5 features and not to 4"):
        merge(net, {"make": 4}, [(X, None)], least=0.9999)
    with torch.no_grad():
        model.make.weight[1], model.make.bias[1] = 0, 0
    same(merge(captured(model), {"make": 4}, [(X, None)], least=0.9999), net)


def test_a_width_that_similarity_does_not_reach_is_named():
    net = captured(mlp())
    with pytest.raises(WidthError, match="'0' can be merged to 5 features and not to 4"):
        merge(net, {"0": 4}, least=0.999)
    same(merge(net, {"0": 5}, least=0.999), net)
    with pytest.raises(WidthError, match="can be merged to 5 features"):
        merge(net, {"0": 3}, [(X, None)], least=0.9999)


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.norm, self.out = nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x):
        return self.out(self.norm(self.fc(x)))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 8)

    def forward(self, x):
        return torch.relu(self.fc(x)) @ self.fc.weight


def test_axes_that_cannot_be_merged_are_refused_and_left_alone():
    net = captured(Normed())
    before = net(X)
    for batches in (None, [(X, None)]):
        with pytest.raises(WidthError, match=r"compared with each other \(by a norm, say\)"):
            merge(net, {"fc": 4}, batches)
    assert torch.equal(net(X), before)
    same(merge(net, {}), net)

    net = captured(Tied())
    with pytest.raises(WidthError, match="tied weights"):
        merge(net, {"fc": 4}, [(X, None)])
    with pytest.raises(WidthError, match="There is no axis 'fc9'"):
        merge(net, {"fc9": 4})
    with pytest.raises(ScoreError, match="There is no batch"):
        merge(captured(mlp()), {"0": 4}, [])
    with pytest.raises(ScoreError, match="does not fit"):
        merge(captured(mlp()), {"0": 4}, [((X, X), None)])
