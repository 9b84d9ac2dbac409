"""What a training keeps beside the weights goes over to the cut: training on is the same."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import widthwise as ww
from widthwise import pruning
from widthwise.train.ema import Average

OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, nesterov=True, weight_decay=1e-2),
    "plain SGD": lambda p: torch.optim.SGD(p, 0.05),
    "Adam": lambda p: torch.optim.Adam(p, 1e-2),
    "AdamW": lambda p: torch.optim.AdamW(p, 1e-2, amsgrad=True),
    "fused AdamW": lambda p: torch.optim.AdamW(p, 1e-2, fused=True),
    # Centered: it divides by a difference of two like numbers, whose rounding `eps` keeps small.
    "RMSprop": lambda p: torch.optim.RMSprop(p, 1e-2, momentum=0.9, centered=True, eps=1e-2),
    "Adagrad": lambda p: torch.optim.Adagrad(p, 1e-2),
}


class Images(nn.Module):
    """A flattened convolution, so that columns are cut in blocks."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.fc1 = nn.Linear(6 * 16, 12)
        self.fc2 = nn.Linear(12, 3)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.norm(self.conv(x))), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


class Words(nn.Module):
    """Tied weights, attention heads and a residual stream."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 16)
        self.layer = nn.TransformerEncoderLayer(16, 4, 24, dropout=0, batch_first=True)
        self.head = nn.Linear(16, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        return self.head(self.layer(self.embed(tokens))).flatten(0, 1)


def batch(model, seed):
    generator = torch.Generator().manual_seed(seed)
    if isinstance(model, Words):
        tokens = torch.randint(11, (8, 5), generator=generator)
        return tokens, tokens.flatten()
    x = torch.randn(16, 1, 8, 8, generator=generator)
    return x, x.mean((1, 2, 3)).sign().long() + 1


def step(module, model, optimizer, seed, **more):
    x, y = batch(model, seed)
    optimizer.zero_grad()
    F.cross_entropy(module(x, **more), y).backward()
    optimizer.step()


def begun(make, kind=Images, ordered=False):
    """A network after a few steps, and its optimizer."""
    torch.manual_seed(0)
    model = kind()
    net = ww.Elastic(model, batch(model, 0)[0][:2])
    if ordered:
        pruning.order_(net, pruning.magnitude(net))
    optimizer = make(net.parameters())
    net.train()
    for seed in range(4):
        step(net, model, optimizer, seed)
    return net, optimizer


def differ(net, small, widths):
    """The largest difference of a weight, after the elastic network has been cut again."""
    again = dict(net.cut(widths, recalibrate=False).named_parameters())
    return max((again[n] - p).abs().max().item() for n, p in small.named_parameters() if n in again)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("same_class", [True, False])
def test_training_on_is_training_the_elastic_network_on(name, same_class):
    net, optimizer = begun(OPTIMIZERS[name])
    widths = net.complete({"conv": 4, "fc1": 7})
    small = net.cut(widths, same_class=same_class, recalibrate=False).train()
    new = ww.carry_optimizer(optimizer, net, small, widths)
    assert type(new) is type(optimizer)
    for seed in range(4, 9):
        step(net, net.model, optimizer, seed, widths=widths)
        step(small, net.model, new, seed)
    assert differ(net, small, widths) < 1e-5


@pytest.mark.parametrize("same_class", [True, False])
def test_tied_weights_and_heads(same_class):
    net, optimizer = begun(OPTIMIZERS["Adam"], Words, ordered=True)
    widths = net.widths(0.5)
    small = net.cut(widths, same_class=same_class).train()
    new = ww.carry_optimizer(optimizer, net, small, widths)
    for seed in range(4, 7):
        step(net, net.model, optimizer, seed, widths=widths)
        step(small, net.model, new, seed)
    # Adam takes steps of 1e-2 along gradients that are rounding alone, too.
    assert differ(net, small, widths) < 1e-4


def test_without_its_state_it_is_another_training():
    net, optimizer = begun(OPTIMIZERS["SGD"])
    widths = net.widths(0.5)
    small = net.cut(widths, recalibrate=False).train()
    new = OPTIMIZERS["SGD"](small.parameters())
    step(net, net.model, optimizer, 4, widths=widths)
    step(small, net.model, new, 4)
    assert differ(net, small, widths) > 1e-3


def test_groups_and_their_options_are_kept():
    torch.manual_seed(0)
    model, scale = Images(), nn.Parameter(torch.ones(()))
    net = ww.Elastic(model, batch(model, 0)[0][:2])
    named = dict(model.named_parameters())
    groups = [
        {"params": [("conv.weight", named["conv.weight"])], "lr": 0.3, "initial_lr": 0.5},
        {"params": [("fc1.weight", named["fc1.weight"]), ("scale", scale)], "weight_decay": 0.2},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.1, betas=(0.8, 0.9), maximize=True)
    scale.grad = torch.ones(())
    optimizer.step()
    widths = net.widths(0.5)
    small = net.cut(widths, recalibrate=False)
    first, second = ww.carry_optimizer(optimizer, net, small, widths).param_groups
    assert (first["lr"], first["initial_lr"], first["maximize"]) == (0.3, 0.5, True)
    assert (second["lr"], second["weight_decay"], second["betas"]) == (0.1, 0.2, (0.8, 0.9))
    assert first["params"] == [small.conv.weight]
    assert second["params"][0] is small.fc1.weight
    assert second["params"][1] is scale
    assert second["param_names"] == ["fc1.weight", "scale"]


def test_draws_with_a_scale():
    """A gradient by a weight that is s times as large is 1 / s of the other."""
    torch.manual_seed(0)
    x = torch.randn(16, 4)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    net = ww.Elastic(model, x, draw=ww.Draw(scale=True)).train()
    widths = net.widths(0.5)
    for make, powers in (
        (OPTIMIZERS["SGD"], {"momentum_buffer": 0.5}),
        (OPTIMIZERS["AdamW"], {"exp_avg": 0.5, "exp_avg_sq": 0.25, "max_exp_avg_sq": 0.25}),
    ):
        optimizer = make(net.parameters())
        optimizer.zero_grad()
        net(x, widths=widths).square().mean().backward()
        optimizer.step()
        small = net.cut(widths)
        new = ww.carry_optimizer(optimizer, net, small, widths)
        for key, power in powers.items():
            full = optimizer.state[model[2].weight][key]
            assert torch.allclose(new.state[small[2].weight][key], full[:, :4] * power)
    optimizer.state[model[2].weight]["own"] = torch.ones_like(model[2].weight)
    with pytest.raises(ww.TrainingError, match=r"'own' of '2\.weight' follows the scale"):
        ww.carry_optimizer(optimizer, net, small, widths)


def test_what_cannot_be_carried_is_refused():
    net, optimizer = begun(lambda p: torch.optim.Adafactor(p))
    widths = net.widths(0.5)
    small = net.cut(widths, recalibrate=False)
    with pytest.raises(ww.TrainingError, match=r"'row_var' of 'conv.weight' .*make a new Adafac"):
        ww.carry_optimizer(optimizer, net, small, widths)
    net, optimizer = begun(OPTIMIZERS["Adam"])
    with pytest.raises(ww.WidthError, match="give the widths that it was cut to"):
        ww.carry_optimizer(optimizer, net, small, net.widths(0.3))
    parameter = net.model.fc1.weight
    optimizer.state[parameter]["history"] = [1, 2]
    small = net.cut(widths, recalibrate=False)
    with pytest.raises(ww.TrainingError, match=r"'history' of 'fc1\.weight' is a list"):
        ww.carry_optimizer(optimizer, net, small, widths)

    class Named(torch.optim.SGD):
        def __init__(self, name, params):
            super().__init__(params, 0.1)

    with pytest.raises(ww.TrainingError, match="A new Named cannot be made"):
        ww.carry_optimizer(Named("a", net.parameters()), net, small, widths)
    small.further = nn.Linear(2, 2)
    with pytest.raises(ww.TrainingError, match=r"a parameter 'further.weight' that the network"):
        ww.carry_optimizer(OPTIMIZERS["Adam"](net.parameters()), net, small, widths)


@pytest.mark.parametrize("buffers", [False, True])
def test_averages(buffers):
    net, optimizer = begun(OPTIMIZERS["SGD"])
    model, widths = net.model, net.complete({"conv": 3, "fc1": 5})
    ema = get_ema_multi_avg_fn(0.8)
    theirs = AveragedModel(model, multi_avg_fn=ema, use_buffers=buffers)
    ours = Average(model, 0.8)
    for seed in range(4, 7):
        step(net, model, optimizer, seed)
        theirs.update_parameters(model)
        ours.update()
    small = net.cut(widths, recalibrate=[batch(model, 0)]).train()
    new = ww.carry_optimizer(optimizer, net, small, widths)
    carried = ww.carry_average(theirs, net, small, widths)
    mine = ww.carry_average(ours, net, small, widths)
    assert torch.equal(carried.module.norm.running_mean, theirs.module.norm.running_mean[:3])
    for seed in range(7, 10):
        step(net, model, optimizer, seed, widths=widths)
        step(small, model, new, seed)
        for old in (theirs, carried):
            old.update_parameters(small if old is carried else model)
        ours.update()
        mine.update()
    for full, cut in ((theirs.module, carried.module), (ours.model.module, mine.model.module)):
        wide = ww.Elastic(full, batch(model, 0)[0][:2])
        assert differ(wide, cut, widths) < 1e-5
    assert int(carried.n_averaged) == int(theirs.n_averaged)
