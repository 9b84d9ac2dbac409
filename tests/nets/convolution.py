"""Convolutional networks."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from nets.base import IMAGE, Net, floats


def _conv_bn(cin: int, cout: int, kernel: int = 3, **options: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(cin, cout, kernel, padding=kernel // 2, bias=False, **options),
        nn.BatchNorm2d(cout),
        nn.ReLU(inplace=True),
    )


def _head(channels: int, classes: int = 5) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


class CNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 12, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(12)
        self.pool = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(12 * 2 * 2, 14)
        self.fc2 = nn.Linear(14, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.bn1(self.conv1(x))))
        x = self.pool(F.relu(self.bn2(self.conv2(x))))
        return self.fc2(F.relu(self.fc1(x.view(x.size(0), -1))))


class BasicBlock(nn.Module):
    def __init__(self, cin: int, mid: int, cout: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(cin, mid, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(mid)
        self.conv2 = nn.Conv2d(mid, cout, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(cout)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = (
            nn.Sequential(nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout))
            if stride != 1 or cin != cout
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        return self.relu(out)


def _resnet() -> nn.Module:
    return nn.Sequential(
        _conv_bn(3, 8), BasicBlock(8, 10, 8), BasicBlock(8, 14, 12, stride=2), _head(12)
    )


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enc1 = _conv_bn(3, 8)
        self.enc2 = _conv_bn(8, 12)
        self.mid = _conv_bn(12, 16)
        self.up2 = nn.ConvTranspose2d(16, 10, 2, stride=2)
        self.dec2 = _conv_bn(10 + 12, 14)
        self.up1 = nn.ConvTranspose2d(14, 6, 2, stride=2)
        self.dec1 = _conv_bn(6 + 8, 9)
        self.out = nn.Conv2d(9, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        e1 = self.enc1(x)
        e2 = self.enc2(F.max_pool2d(e1, 2))
        m = self.mid(F.max_pool2d(e2, 2))
        d2 = self.dec2(torch.cat([self.up2(m), e2], dim=1))
        d1 = self.dec1(torch.cat([self.up1(d2), e1], dim=1))
        return self.out(d1)


class DenseNet(nn.Module):
    """The raw input is concatenated with the features made from it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(3 + 6)
        self.conv2 = nn.Conv2d(3 + 6, 8, 3, padding=1)
        self.norm3 = nn.BatchNorm2d(3 + 6 + 8)
        self.transition = nn.Conv2d(3 + 6 + 8, 10, 1)
        self.head = _head(10)

    def forward(self, x: Tensor) -> Tensor:
        features = [x, F.relu(self.conv1(x))]
        features.append(self.conv2(F.relu(self.norm2(torch.cat(features, 1)))))
        x = self.transition(F.relu(self.norm3(torch.cat(features, 1))))
        return self.head(F.avg_pool2d(x, 2))


def _separable() -> nn.Module:
    return nn.Sequential(
        _conv_bn(3, 8),
        _conv_bn(8, 8, groups=8),
        _conv_bn(8, 12, 1),
        _conv_bn(12, 12, groups=12, stride=2),
        _conv_bn(12, 16, 1),
        _head(16),
    )


class ResNeXtBlock(nn.Module):
    def __init__(self, channels: int, width: int, groups: int) -> None:
        super().__init__()
        self.conv1 = _conv_bn(channels, width, 1)
        self.conv2 = _conv_bn(width, width, groups=groups)
        self.conv3 = nn.Conv2d(width, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.bn3(self.conv3(self.conv2(self.conv1(x)))))


def _resnext() -> nn.Module:
    return nn.Sequential(_conv_bn(3, 7), ResNeXtBlock(7, 12, groups=3), _head(7))


def _groupnorm() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1),
        nn.GroupNorm(4, 12),
        nn.SiLU(),
        nn.Conv2d(12, 10, 3, padding=1),
        nn.GroupNorm(2, 10),
        nn.SiLU(),
        _head(10),
    )


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, squeezed)
        self.fc2 = nn.Linear(squeezed, channels)

    def forward(self, x: Tensor) -> Tensor:
        n, c, _, _ = x.size()
        y = F.adaptive_avg_pool2d(x, 1).view(n, c)
        y = torch.sigmoid(self.fc2(F.relu(self.fc1(y)))).view(n, c, 1, 1)
        return x * y.expand_as(x)


class SENet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv_bn(3, 8)
        self.expand = _conv_bn(8, 12)
        self.se = SqueezeExcite(12, 4)
        self.project = nn.Conv2d(12, 8, 1)
        self.head = _head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.project(self.se(self.expand(x))))


def _channel_shuffle(x: Tensor, groups: int) -> Tensor:
    n, c, h, w = x.size()
    x = x.view(n, groups, c // groups, h, w)
    x = torch.transpose(x, 1, 2).contiguous()
    return x.view(n, c, h, w)


class ShuffleUnit(nn.Module):
    """ShuffleNet v2: half of the channels pass, half go through the branch."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.branch = nn.Sequential(
            _conv_bn(half, half, 1),
            nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False),
            nn.BatchNorm2d(half),
            _conv_bn(half, half, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        x1, x2 = x.chunk(2, dim=1)
        return _channel_shuffle(torch.cat((x1, self.branch(x2)), dim=1), 2)


def _shufflenet() -> nn.Module:
    return nn.Sequential(
        _conv_bn(3, 12), ShuffleUnit(12), ShuffleUnit(12), _conv_bn(12, 14, 1), _head(14)
    )


class GroupedShuffle(nn.Module):
    """ShuffleNet v1: grouped 1x1 convolutions with a shuffle between them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv_bn(3, 12)
        self.conv1 = _conv_bn(12, 12, 1, groups=2)
        self.shuffle = nn.ChannelShuffle(2)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.conv2 = nn.Conv2d(12, 12, 1, groups=2)
        self.head = _head(12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.conv2(self.depthwise(self.shuffle(self.conv1(x))))
        return self.head(F.relu(x + y))


def _pixel_shuffle() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 5, 3, padding=1),
        nn.ReLU(),
        nn.PixelUnshuffle(2),
        nn.Conv2d(5 * 4, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 6 * 4, 3, padding=1),
        nn.PixelShuffle(2),
        nn.ReLU(),
        nn.Conv2d(6, 10, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(10, 3 * 4, 3, padding=1),
        nn.PixelShuffle(2),
    )


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 12 * 2 * 2)
        self.net = nn.Sequential(
            nn.ConvTranspose2d(12, 8, 4, stride=2, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.ConvTranspose2d(8, 6, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(6, 3, 3, padding=1),
        )

    def forward(self, z: Tensor) -> Tensor:
        return torch.tanh(self.net(self.fc(z).view(-1, 12, 2, 2)))


class AuxiliaryHead(nn.Module):
    """Two outputs in training, one in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.stage1 = _conv_bn(3, 8)
        self.stage2 = _conv_bn(8, 12)
        self.aux = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 5)
        )
        self.head = _head(12)

    def forward(self, x: Tensor) -> Any:
        x = self.stage1(x)
        aux = self.aux(x) if self.training else None
        logits = self.head(self.stage2(x))
        return logits if aux is None else (logits, aux)


class DropPath(nn.Module):
    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0.0:
            return x
        keep = 1 - self.p
        mask = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep)
        return x * mask.div_(keep)


class StochasticDepth(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv_bn(3, 8)
        self.block1 = nn.Sequential(_conv_bn(8, 10), nn.Conv2d(10, 8, 1))
        self.block2 = nn.Sequential(_conv_bn(8, 12), nn.Conv2d(12, 8, 1))
        self.drop = DropPath(0.3)
        self.head = _head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.drop(self.block1(x))
        x = x + self.drop(self.block2(x))
        return self.head(x)


class Inception(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv_bn(3, 8)
        self.branch1 = _conv_bn(8, 4, 1)
        self.branch3 = nn.Sequential(_conv_bn(8, 5, 1), _conv_bn(5, 6))
        self.branch_pool = nn.Sequential(nn.MaxPool2d(3, 1, padding=1), _conv_bn(8, 7, 1))
        self.mix = _conv_bn(4 + 6 + 7, 9, 1)
        self.head = _head(9)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([self.branch1(x), self.branch3(x), self.branch_pool(x)], 1)
        return self.head(self.mix(x))


class ConvNeXtBlock(nn.Module):
    """LayerScale starts at 1e-6, which hides the branch."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.pwconv1 = nn.Linear(channels, hidden)
        self.pwconv2 = nn.Linear(hidden, channels)
        self.gamma = nn.Parameter(1e-6 * torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        y = self.dwconv(x).permute(0, 2, 3, 1)
        y = self.gamma * self.pwconv2(F.gelu(self.pwconv1(self.norm(y))))
        return x + y.permute(0, 3, 1, 2)


def _layerscale() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 12, 2, stride=2), ConvNeXtBlock(12, 20), _head(12))


def _weight_norm() -> nn.Module:
    return nn.Sequential(
        weight_norm(nn.Conv2d(3, 8, 3, padding=1)),
        nn.ELU(),
        weight_norm(nn.Conv2d(8, 10, 3, padding=1)),
        nn.ELU(),
        _head(10),
    )


class TNet(nn.Module):
    """Predicts a k x k transform of the points' features."""

    def __init__(self, k: int, c1: int, c2: int, hidden: int) -> None:
        super().__init__()
        self.k = k
        self.conv1 = nn.Conv1d(k, c1, 1)
        self.conv2 = nn.Conv1d(c1, c2, 1)
        self.fc1 = nn.Linear(c2, hidden)
        self.fc2 = nn.Linear(hidden, k * k)

    def forward(self, x: Tensor) -> Tensor:
        n = x.size(0)
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        x = torch.max(x, 2, keepdim=True)[0].view(n, -1)
        x = self.fc2(F.relu(self.fc1(x)))
        identity = torch.eye(self.k, device=x.device).view(1, self.k * self.k).repeat(n, 1)
        return (x + identity).view(-1, self.k, self.k)


class PointNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stn = TNet(3, 6, 8, 7)
        self.conv1 = nn.Conv1d(3, 10, 1)
        self.fstn = TNet(10, 12, 14, 11)
        self.conv2 = nn.Conv1d(10, 16, 1)
        self.bn2 = nn.BatchNorm1d(16)
        self.conv3 = nn.Conv1d(16, 18, 1)
        self.fc1 = nn.Linear(18, 13)
        self.fc2 = nn.Linear(13, 4)

    def forward(self, x: Tensor) -> Tensor:  # x: N, 3, points
        x = torch.bmm(x.transpose(2, 1), self.stn(x)).transpose(2, 1)
        x = F.relu(self.conv1(x))
        x = torch.bmm(x.transpose(2, 1), self.fstn(x)).transpose(2, 1)
        x = self.conv3(F.relu(self.bn2(self.conv2(x))))
        x = torch.max(x, 2)[0]
        return self.fc2(F.relu(self.fc1(x)))


CONVOLUTION: tuple[Net, ...] = (
    Net("cnn", CNN, IMAGE, 3, "8, 12 (times 2 x 2 in the linear), 14"),
    Net("resnet", _resnet, IMAGE, 4, "8, 10, 14, 12"),
    Net("unet", UNet, IMAGE, 7, "8, 12, 16, 10, 14, 6, 9"),
    Net("densenet", DenseNet, IMAGE, 3, "6, 8, 10; the input's 3 stay"),
    Net("separable", _separable, IMAGE, 3, "8, 12, 16"),
    Net("resnext", _resnext, IMAGE, 4, "7, groups 3, 4 into and 4 out of a group"),
    Net("groupnorm", _groupnorm, IMAGE, 4, "groups 4 x 3, groups 2 x 5"),
    Net("squeeze_excite", SENet, IMAGE, 3, "8, 12, 4"),
    Net(
        "shuffle_view",
        _shufflenet,
        IMAGE,
        6,
        "the passing half 6 = 3 + 3 (the second unit cuts it apart), the other half 6, 6 and 6 in "
        "the branches, 14",
    ),
    Net(
        "shuffle_module",
        GroupedShuffle,
        IMAGE,
        3,
        "groups 2 (shared through the residual), 6 of a group in the stream, 3 in the branch",
    ),
    Net("pixel_shuffle", _pixel_shuffle, IMAGE, 4, "5, 8, 6, 10; blocks of 4 stay"),
    Net("conv_transpose", Decoder, floats((3, 4)), 3, "12 (times 2 x 2), 8, 6"),
    Net("auxiliary", AuxiliaryHead, IMAGE, 3, "8, 12, 6 in the auxiliary head"),
    Net("stochastic_depth", StochasticDepth, IMAGE, 3, "8, 10, 12"),
    Net("inception", Inception, IMAGE, 6, "8, 4, 5, 6, 7, 9"),
    Net("layerscale", _layerscale, IMAGE, 2, "12, 20"),
    Net("weight_norm", _weight_norm, IMAGE, 2, "8, 10"),
    Net(
        "pointnet",
        PointNet,
        floats((3, 3, 6)),
        10,
        "6, 8, 7 in the T-net of points; 10 = k; 12, 14, 11 in the T-net of features; 16, 18, 13",
    ),
)
