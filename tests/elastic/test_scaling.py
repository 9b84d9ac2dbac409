"""The scale of structural dropout: in front of activations as published, and equal in cuts."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import widthwise as ww
from elastic_nets import close, random_widths, run
from nets import net as described
from widthwise.elastic.scaling import in_front
from widthwise.errors import CaptureError
from widthwise.train.layer import StructuralDropout

X = torch.randn(12, 6, generator=torch.Generator().manual_seed(0))
SCALED = ww.Draw(scale=True)
WIDTH = 5  # of 16: what is kept is multiplied by 3.2


class Net(nn.Module):
    """As published: linear, batch norm, scale, activation; a layer by hand before or behind it."""

    def __init__(self, name: str, placed: str = "", norm: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc1, self.fc2 = nn.Linear(6, 16), nn.Linear(16, 3)
        self.norm = nn.BatchNorm1d(16) if norm else nn.Identity()
        self.slope = nn.PReLU(16)
        self.drop = StructuralDropout(seed=0)
        self.name, self.placed = name, placed
        for p in (*self.norm.parameters(), *self.slope.parameters()):
            nn.init.normal_(p)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.fc1(x))
        x = self.drop(x) if self.placed == "before" else x
        x = self.activation(x)
        x = self.drop(x) if self.placed == "behind" else x
        return self.fc2(x)

    def activation(self, x: Tensor) -> Tensor:
        if self.name == "prelu":
            return self.slope(x)
        if self.name == "by hand":  # as older language models write GELU
            return 0.5 * x * (1 + torch.tanh(0.8 * (x + 0.045 * x**3)))
        return getattr(F, self.name)(x)


HOMOGENEOUS = ["relu", "leaky_relu", "prelu"]
ODD = ["gelu", "tanh", "silu", "elu", "hardswish", "by hand"]  # zeros stay zero
OTHERS = ["sigmoid", "softplus"]


def shown(model: Net, width: int) -> Tensor:
    model.drop.width = width
    try:
        return model.eval()(X)
    finally:
        model.drop.width = None


@torch.no_grad()
def published(model: Net, width: int) -> Tensor:
    """Sliced on both sides; the scale between norm and activation."""
    x = model.norm(model.fc1(X))
    x = F.pad(x[:, :width] * (16 / width), (0, 16 - width))
    x = model.activation(x)[:, :width]
    return F.linear(x, model.fc2.weight[:, :width], model.fc2.bias)


@pytest.mark.parametrize(
    ("name", "norm"),
    [*((name, True) for name in (*HOMOGENEOUS, *ODD, *OTHERS)), ("relu", False), ("gelu", False)],
)
def test_the_scale_stands_in_front_of_the_activation(name: str, norm: bool) -> None:
    model = Net(name, norm=norm).eval()
    net = ww.Elastic(model, X[:4], draw=SCALED).eval()
    wanted = published(model, WIDTH)
    widths = {"fc1": WIDTH}
    for found in (net(X, widths=widths), net.cut(widths)(X)):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    graph = net.cut(widths, same_class=False)
    torch.testing.assert_close(graph(X), wanted, rtol=1e-4, atol=1e-5)
    assert (("fc2.weight", 1) in net.engine.scaled) is (
        name in HOMOGENEOUS
    )  # where it has always been


@pytest.mark.sample(6)
@pytest.mark.parametrize("placed", ["before", "behind"])
@pytest.mark.parametrize("name", [*HOMOGENEOUS, *ODD, *OTHERS])
def test_a_cut_computes_what_a_layer_by_hand_shows(name: str, placed: str) -> None:
    model = Net(name, placed).eval()
    if placed == "before" and name in OTHERS:
        with pytest.raises(CaptureError, match=rf"'drop' .* {name} at .*; place it behind") as told:
            ww.Elastic(model, X[:4], draw=SCALED)
        assert "test_scaling.py" in str(told.value)
        return
    net = ww.Elastic(model, X[:4], draw=SCALED).eval()
    wanted = shown(model, WIDTH)
    widths = {"fc1": WIDTH}
    torch.testing.assert_close(net(X, widths=widths), wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net.cut(widths)(X), wanted, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(net(X), wanted, atol=1e-2)


def test_a_layer_is_placed_by_what_it_computes_not_by_new_weights() -> None:
    """A last layer that starts at zero gives the same whatever it reads."""
    model = Net("gelu", "behind").eval()
    nn.init.zeros_(model.fc2.weight)
    net = ww.Elastic(model, X[:4], draw=SCALED).eval()
    nn.init.normal_(model.fc2.weight)
    torch.testing.assert_close(
        net.cut({"fc1": WIDTH})(X), shown(model, WIDTH), rtol=1e-4, atol=1e-5
    )


def test_a_layer_in_front_of_a_norm_is_refused() -> None:
    model = nn.Sequential(
        nn.Linear(6, 16), StructuralDropout(seed=0), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 3)
    )
    with pytest.raises(CaptureError, match="'1' shows at a smaller width; place it right behind"):
        ww.Elastic(model, X[:4], draw=SCALED)
    ww.Elastic(model, X[:4])  # without a scale nothing says that they are to be the same


def test_layers_of_no_axis_are_let_be() -> None:
    model = nn.Sequential(StructuralDropout(seed=0), nn.Linear(6, 16), nn.GELU(), nn.Linear(16, 3))
    assert ww.Elastic(model, X[:4], draw=SCALED).free.keys() == {"1"}


class Gated(nn.Module):
    """A product of what two layers make: scaled once, where it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(6, 16), nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Depthwise(nn.Module):
    """One axis behind two activations, the last of which counts."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Sequential(nn.Conv2d(2, 12, 1), nn.BatchNorm2d(12), nn.SiLU())
        self.deep = nn.Sequential(nn.Conv2d(12, 12, 3, groups=12), nn.BatchNorm2d(12), nn.SiLU())
        self.out = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.deep(self.wide(x)).mean((2, 3)))


class Joined(nn.Module):
    """Two axes that one layer reads side by side: both are scaled in front, or none."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.out = nn.Linear(6, 8), nn.Linear(6, 4), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.cat([F.gelu(self.one(x)), F.relu(self.two(x))], 1))


class Tied(nn.Module):
    """What makes the features also reads them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 12)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.tanh(self.embed(x)), self.embed.weight)


@pytest.mark.parametrize(
    ("model", "x", "scaled"),
    [
        (Gated, X, {("down.weight", 1)}),
        (
            Depthwise,
            torch.randn(3, 2, 5, 5),
            {("deep.1.weight", 0), ("deep.1.bias", 0)},
        ),
        (
            Joined,
            X,
            {("one.weight", 0), ("one.bias", 0), ("two.weight", 0), ("two.bias", 0)},
        ),
        (Tied, torch.randint(0, 9, (4, 3)), {("embed.weight", 1)}),
    ],
)
def test_where_it_stands_and_that_cuts_are_equal(
    model: type[nn.Module], x: Tensor, scaled: set
) -> None:
    torch.manual_seed(0)
    net = ww.Elastic(model(), x, draw=SCALED).eval()
    assert net.engine.scaled == scaled
    some = [random_widths(net, seed) for seed in range(3)]
    for widths, at_once in zip(some, net.each(some, x), strict=True):
        found = run(net.cut(widths, recalibrate=False), (x,), {})
        assert close(found, run(net, (x,), {}, widths=widths))
        assert close(found, [at_once])


@pytest.mark.parametrize("name", ["vit", "seq2seq", "shared", "layerscale"])
def test_networks_with_other_activations_equal_their_cuts(name: str) -> None:
    torch.manual_seed(0)
    found = described(name)
    args, kwargs = found.example()
    net = ww.Elastic(found.build(), args, kwargs, draw=SCALED, prove=False).eval()
    fronts = [in_front(net.engine.relations, net.engine.table, axis) for axis in net.free]
    assert any(front is not None and front.activations for front in fronts)
    widths = random_widths(net, 0)
    small = net.cut(widths, same_class=False, recalibrate=False)
    assert close(run(small, args, kwargs), run(net, args, kwargs, widths=widths))


def test_copies_and_pickles_scale_alike() -> None:
    net = ww.Elastic(Net("gelu", "behind").eval(), X[:4], draw=SCALED).eval()
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert other.engine.scaled == net.engine.scaled == {("fc2.weight", 1)}
        torch.testing.assert_close(other(X, widths=0.5), net(X, widths=0.5))


def test_progressive_files_hold_it(tmp_path: Path) -> None:
    net = ww.Elastic(Net("gelu").eval(), X[:4], draw=SCALED).eval()
    levels = [net.widths(0.25), net.widths(0.5), net.full()]
    path = ww.save_progressive(net, tmp_path / "net", levels)
    with ww.Progressive.open(path) as file:
        for number, widths in enumerate(levels):
            loaded = file.load(lambda: Net("gelu"), level=number)
            torch.testing.assert_close(loaded(X), net.cut(widths)(X))


def test_gradients_by_what_is_scaled_are_carried_on() -> None:
    net = ww.Elastic(Net("gelu", norm=False), X[:4], draw=SCALED).train()
    widths = net.widths(0.5)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net(X, widths=widths).square().mean().backward()
    optimizer.step()
    small = net.cut(widths)
    new = ww.carry_optimizer(optimizer, net, small, widths)
    full = optimizer.state[net.model.fc1.weight]["momentum_buffer"]
    assert torch.allclose(new.state[small.fc1.weight]["momentum_buffer"], full[:8] / 2)
