"""MobileNet: the published channels, its axes, a step at drawn widths."""

from itertools import pairwise

import pytest
import torch
from torch import nn

import widthwise as ww
from widthwise.app.tasks.mobilenet import MobileNet
from widthwise.app.tasks.resolve import resolve
from widthwise.train.losses import SandwichLoss

NAMES = ("cifar10-mobilenet", "fashion-mnist-mobilenet")
# Channels before and after each block (Howard et al., 2017, table 1).
CHANNELS = (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)


def counted(colours: int, width: float) -> int:
    """Parameters by hand: convolutions without bias, two per channel in a batch norm."""
    c = [round(n * width) for n in CHANNELS]
    blocks = sum(9 * a + 2 * a + a * b + 2 * b for a, b in pairwise(c))
    return colours * 9 * c[0] + 2 * c[0] + blocks + c[-1] * 10 + 10


@pytest.mark.parametrize("width", [1.0, 0.75, 0.5, 0.25])
@pytest.mark.parametrize("colours", [3, 1])
def test_parameters_of_the_published_channels(colours: int, width: float) -> None:
    model = MobileNet(colours, width)
    assert sum(p.numel() for p in model.parameters()) == counted(colours, width)


def test_full_size_is_3_2_million() -> None:
    sizes = [sum(p.numel() for p in resolve(name).model().parameters()) for name in NAMES]
    assert sizes == [3_217_226, 3_216_650]


@pytest.mark.parametrize(("colours", "side"), [(3, 32), (1, 28)])
def test_images_are_halved_to_two_by_two(colours: int, side: int) -> None:
    model = MobileNet(colours, 0.25).eval()
    shapes = []
    for block in model.blocks:
        block.register_forward_hook(lambda _, __, y: shapes.append(tuple(y.shape[1:])))
    assert model(torch.randn(2, colours, side, side)).shape == (2, 10)
    assert [c for c, _, _ in shapes] == [n // 4 for n in CHANNELS[1:]]
    assert shapes[0][1:] == (side // 2, side // 2)
    assert shapes[-1][1:] == (2, 2)


def test_every_channel_can_be_cut() -> None:
    torch.manual_seed(0)
    net = ww.Elastic(MobileNet(1, 0.25), (torch.randn(2, 1, 28, 28),)).eval()
    assert sorted(axis.size for axis in net.free.values()) == sorted(n // 4 for n in CHANNELS)
    # A depthwise filter goes with the channel that it reads.
    first = next(iter(net.free.values()))
    assert ("blocks.0.depthwise.weight", 0) in {(p.tensor, p.dim) for p in first.places}
    half = net.cut(net.widths(0.5))
    assert isinstance(half, MobileNet)
    depthwise = half.blocks[0].depthwise
    assert isinstance(depthwise, nn.Conv2d)
    assert depthwise.groups == depthwise.in_channels == 4
    x = torch.randn(3, 1, 28, 28)
    torch.testing.assert_close(half(x), net(x, widths=net.widths(0.5)))


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", NAMES)
def test_a_sandwich_step(name: str) -> None:
    task = resolve(name)
    torch.manual_seed(0)
    (x,) = task.example()
    model = MobileNet(x.shape[1], 0.25)
    net = ww.Elastic(model, (x,))
    SandwichLoss(net, task.loss)(x, torch.arange(4)).backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert torch.isfinite(parameter.grad).all()
    assert float(model.conv.weight.grad.abs().sum()) > 0  # type: ignore[union-attr]
