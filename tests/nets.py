"""One tiny network for each trait, written as papers and users write them.

    for n in NETS:                      # or net("unet")
        torch.manual_seed(0)
        model = n.build()
        args, kwargs = n.example()
        model(*args, **kwargs)

Nothing here knows of widthwise. Sizes are small and differ where the architecture lets them, so
that one dim taken for another shows. Suffixes of comments on shapes: N batch, L sequence, C
channels, E stream, H heads, D head size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

Example = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Net:
    """A network with one trait.

    build, example: the module and its (args, kwargs); both draw from torch's global generator.
    axes: how many axes can be cut, by thought rather than by what the engine finds.
    note: which axes these are, with their sizes.
    """

    name: str
    build: Callable[[], nn.Module]
    example: Callable[[], Example]
    axes: int
    note: str


def _floats(*shapes: tuple[int, ...]) -> Callable[[], Example]:
    return lambda: (tuple(torch.randn(s) for s in shapes), {})


def _tokens(*specs: tuple[int, tuple[int, ...]]) -> Callable[[], Example]:
    return lambda: (tuple(torch.randint(0, high, shape) for high, shape in specs), {})


# ---------------------------------------------------------------- multilayer perceptrons


def _mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 5)
    )


def _mlp_layernorm() -> nn.Module:
    return nn.Sequential(
        nn.Linear(20, 14),
        nn.LayerNorm(14),
        nn.GELU(),
        nn.Linear(14, 10),
        nn.LayerNorm(10),
        nn.GELU(),
        nn.Linear(10, 5),
    )


def _mlp_batchnorm() -> nn.Module:
    return nn.Sequential(
        nn.Linear(20, 16),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(16, 12),
        nn.BatchNorm1d(12),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(12, 5),
    )


class GatedMLP(nn.Module):
    """Gates by F.glu and by chunk."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(10, 24)
        self.fc2 = nn.Linear(12, 18)
        self.fc3 = nn.Linear(9, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.glu(self.fc1(x), dim=-1)
        value, gate = self.fc2(x).chunk(2, dim=-1)
        return self.fc3(value * torch.sigmoid(gate))


class BilinearNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(5, 8)
        self.right = nn.Linear(7, 6)
        self.bilinear = nn.Bilinear(8, 6, 10)
        self.head = nn.Linear(10, 3)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        h = self.bilinear(torch.relu(self.left(a)), torch.relu(self.right(b)))
        return self.head(torch.relu(h))


class TiedAutoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enc1 = nn.Linear(20, 12)
        self.enc2 = nn.Linear(12, 6)
        self.bias1 = nn.Parameter(torch.zeros(12))
        self.bias2 = nn.Parameter(torch.zeros(20))

    def forward(self, x: Tensor) -> Tensor:
        z = torch.tanh(self.enc2(torch.tanh(self.enc1(x))))
        h = torch.tanh(F.linear(z, self.enc2.weight.t(), self.bias1))
        return F.linear(h, self.enc1.weight.t(), self.bias2)


class EinsumNet(nn.Module):
    """Plain parameters, per-head weights."""

    def __init__(self) -> None:
        super().__init__()
        self.w_in = nn.Parameter(torch.randn(5, 4, 6) / 5**0.5)
        self.w_mix = nn.Parameter(torch.randn(4, 6, 7) / 6**0.5)
        self.w_out = nn.Parameter(torch.randn(4, 7, 3) / 28**0.5)

    def forward(self, x: Tensor) -> Tensor:
        h = F.gelu(torch.einsum("nli,ihd->nlhd", x, self.w_in))
        h = F.gelu(torch.einsum("nlhd,hde->nlhe", h, self.w_mix))
        return torch.einsum("nlhe,heo->nlo", h, self.w_out)


class SharedModule(nn.Module):
    """One residual block, called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(5, 10)
        self.block = nn.Sequential(
            nn.LayerNorm(10), nn.Linear(10, 14), nn.GELU(), nn.Linear(14, 10)
        )
        self.head = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + self.block(x)
        x = x + self.block(x)
        return self.head(x)


class BufferScale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(6, 9)
        self.fc2 = nn.Linear(9, 7)
        self.head = nn.Linear(7, 4)
        self.register_buffer("scale", torch.linspace(0.5, 1.5, 9))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.fc1(x)) * self.scale
        return self.head(torch.relu(self.fc2(x)))


class SoftMoE(nn.Module):
    """Mixture of experts, all experts weighted by a softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 10)
        self.gate = nn.Linear(10, 4)
        self.w1 = nn.Parameter(torch.randn(4, 10, 14) / 10**0.5)
        self.b1 = nn.Parameter(torch.zeros(4, 14))
        self.w2 = nn.Parameter(torch.randn(4, 14, 10) / 14**0.5)
        self.head = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        gates = self.gate(x).softmax(dim=-1)
        h = F.gelu(torch.einsum("nd,edh->neh", x, self.w1) + self.b1)
        y = torch.einsum("neh,ehd->ned", h, self.w2)
        return self.head(x + torch.einsum("ne,ned->nd", gates, y))


class VAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enc = nn.Linear(20, 16)
        self.mu = nn.Linear(16, 4)
        self.logvar = nn.Linear(16, 4)
        self.dec1 = nn.Linear(4, 14)
        self.dec2 = nn.Linear(14, 20)

    def reparameterize(self, mu: Tensor, logvar: Tensor) -> Tensor:
        std = torch.exp(0.5 * logvar)
        if not self.training:
            return mu
        return mu + torch.randn_like(std) * std

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = F.relu(self.enc(x))
        mu, logvar = self.mu(h), self.logvar(h)
        z = self.reparameterize(mu, logvar)
        return torch.sigmoid(self.dec2(F.relu(self.dec1(z)))), mu, logvar


# ---------------------------------------------------------------- convolutional networks


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


# ---------------------------------------------------------------- attention


class SelfAttention(nn.Module):
    """nn.MultiheadAttention in a residual block; with weights, these are an output."""

    def __init__(self, need_weights: bool) -> None:
        super().__init__()
        self.need_weights = need_weights
        self.embed = nn.Linear(5, 12)
        self.attn = nn.MultiheadAttention(12, 3, batch_first=True)
        self.norm = nn.LayerNorm(12)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Any:
        x = self.embed(x)
        y, weights = self.attn(x, x, x, need_weights=self.need_weights)
        logits = self.head(self.norm(x + y))
        return (logits, weights) if self.need_weights else logits


class Encoder(nn.Module):
    def __init__(self, norm_first: bool) -> None:
        super().__init__()
        self.embed = nn.Linear(5, 12)
        layer = nn.TransformerEncoderLayer(
            12, 3, 16, dropout=0.1, batch_first=True, norm_first=norm_first
        )
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(x)).mean(dim=1))


class Translator(nn.Module):
    """nn.Transformer, encoder and decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.src = nn.Embedding(11, 12)
        self.tgt = nn.Embedding(13, 12)
        self.transformer = nn.Transformer(
            12, 2, num_encoder_layers=1, num_decoder_layers=1, dim_feedforward=20, batch_first=True
        )
        self.out = nn.Linear(12, 13)

    def forward(self, src: Tensor, tgt: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(tgt.size(1))
        y = self.transformer(self.src(src), self.tgt(tgt), tgt_mask=mask, tgt_is_causal=True)
        return self.out(y)


class CrossAttention(nn.Module):
    """Written with einsum; queries and values have head sizes of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 3
        self.embed_x = nn.Linear(6, 10)
        self.embed_context = nn.Linear(7, 14)
        self.to_q = nn.Linear(10, 3 * 4, bias=False)
        self.to_k = nn.Linear(14, 3 * 4, bias=False)
        self.to_v = nn.Linear(14, 3 * 5, bias=False)
        self.to_out = nn.Linear(3 * 5, 10)
        self.head = nn.Linear(10, 2)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        x, context = self.embed_x(x), torch.relu(self.embed_context(context))
        q, k, v = (
            t.unflatten(-1, (self.heads, -1))
            for t in (self.to_q(x), self.to_k(context), self.to_v(context))
        )
        scores = torch.einsum("nqhd,nkhd->nhqk", q, k) / math.sqrt(q.shape[-1])
        y = torch.einsum("nhqk,nkhd->nqhd", scores.softmax(dim=-1), v)
        return self.head(x + self.to_out(y.flatten(2)))


class ViTAttention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.head_dim = dim // heads
        self.scale = self.head_dim**-0.5
        self.qkv = nn.Linear(dim, dim * 3)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        n, length, dim = x.shape
        qkv = self.qkv(x).reshape(n, length, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)  # N, H, L, D
        attn = ((q * self.scale) @ k.transpose(-2, -1)).softmax(dim=-1)
        x = (attn @ v).transpose(1, 2).reshape(n, length, dim)
        return self.proj(x)


class ViTBlock(nn.Module):
    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = ViTAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, 12, 4, stride=4)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 12))
        self.pos_embed = nn.Parameter(torch.randn(1, 5, 12) * 0.02)
        self.blocks = nn.Sequential(ViTBlock(12, 3, 18), ViTBlock(12, 3, 22))
        self.norm = nn.LayerNorm(12)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1)
        x = self.blocks(x + self.pos_embed)
        return self.head(self.norm(x)[:, 0])


class GPTAttention(nn.Module):
    def __init__(self, dim: int, heads: int, block_size: int) -> None:
        super().__init__()
        self.c_attn = nn.Linear(dim, 3 * dim)
        self.c_proj = nn.Linear(dim, dim)
        self.n_head = heads
        self.n_embd = dim
        mask = torch.tril(torch.ones(block_size, block_size))
        self.register_buffer("bias", mask.view(1, 1, block_size, block_size))

    def forward(self, x: Tensor) -> Tensor:
        n, length, dim = x.size()
        q, k, v = self.c_attn(x).split(self.n_embd, dim=2)
        k = k.view(n, length, self.n_head, dim // self.n_head).transpose(1, 2)
        q = q.view(n, length, self.n_head, dim // self.n_head).transpose(1, 2)
        v = v.view(n, length, self.n_head, dim // self.n_head).transpose(1, 2)
        att = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        att = att.masked_fill(self.bias[:, :, :length, :length] == 0, float("-inf"))
        y = F.softmax(att, dim=-1) @ v
        return self.c_proj(y.transpose(1, 2).contiguous().view(n, length, dim))


class GPTBlock(nn.Module):
    def __init__(self, dim: int, heads: int, block_size: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(dim)
        self.attn = GPTAttention(dim, heads, block_size)
        self.ln_2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 20), nn.GELU(), nn.Linear(20, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wte = nn.Embedding(13, 12)
        self.wpe = nn.Embedding(8, 12)
        self.h = nn.ModuleList([GPTBlock(12, 3, 8) for _ in range(2)])
        self.ln_f = nn.LayerNorm(12)
        self.lm_head = nn.Linear(12, 13, bias=False)
        self.wte.weight = self.lm_head.weight

    def forward(self, idx: Tensor) -> Tensor:
        pos = torch.arange(0, idx.size(1), dtype=torch.long, device=idx.device)
        x = self.wte(idx) + self.wpe(pos)
        for block in self.h:
            x = block(x)
        return self.lm_head(self.ln_f(x))


class RMSNorm(nn.Module):
    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))


class Rotary(nn.Module):
    def __init__(self, head_dim: int, base: float = 10000.0) -> None:
        super().__init__()
        inv_freq = 1.0 / base ** (torch.arange(0, head_dim, 2).float() / head_dim)
        self.register_buffer("inv_freq", inv_freq, persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        t = torch.arange(x.shape[1], device=x.device, dtype=self.inv_freq.dtype)
        freqs = torch.outer(t, self.inv_freq)
        emb = torch.cat((freqs, freqs), dim=-1)
        return emb.cos(), emb.sin()


def _rotate_half(x: Tensor) -> Tensor:
    x1 = x[..., : x.shape[-1] // 2]
    x2 = x[..., x.shape[-1] // 2 :]
    return torch.cat((-x2, x1), dim=-1)


def _repeat_kv(x: Tensor, n_rep: int) -> Tensor:
    n, kv_heads, length, head_dim = x.shape
    x = x[:, :, None, :, :].expand(n, kv_heads, n_rep, length, head_dim)
    return x.reshape(n, kv_heads * n_rep, length, head_dim)


class LlamaAttention(nn.Module):
    def __init__(self, dim: int, heads: int, kv_heads: int, head_dim: int, gqa: bool) -> None:
        super().__init__()
        self.num_heads = heads
        self.num_kv_heads = kv_heads
        self.head_dim = head_dim
        self.gqa = gqa
        self.q_proj = nn.Linear(dim, heads * head_dim, bias=False)
        self.k_proj = nn.Linear(dim, kv_heads * head_dim, bias=False)
        self.v_proj = nn.Linear(dim, kv_heads * head_dim, bias=False)
        self.o_proj = nn.Linear(heads * head_dim, dim, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        n, length, _ = x.shape
        q = self.q_proj(x).view(n, length, self.num_heads, self.head_dim).transpose(1, 2)
        k = self.k_proj(x).view(n, length, self.num_kv_heads, self.head_dim).transpose(1, 2)
        v = self.v_proj(x).view(n, length, self.num_kv_heads, self.head_dim).transpose(1, 2)
        q = q * cos + _rotate_half(q) * sin
        k = k * cos + _rotate_half(k) * sin
        if self.gqa:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        else:
            n_rep = self.num_heads // self.num_kv_heads
            k, v = _repeat_kv(k, n_rep), _repeat_kv(v, n_rep)
            scores = torch.matmul(q, k.transpose(2, 3)) / math.sqrt(self.head_dim)
            mask = torch.full((length, length), float("-inf"), device=x.device).triu(1)
            y = torch.matmul(F.softmax(scores + mask, dim=-1), v)
        return self.o_proj(y.transpose(1, 2).reshape(n, length, -1))


class SwiGLU(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(dim, hidden, bias=False)
        self.up_proj = nn.Linear(dim, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class LlamaBlock(nn.Module):
    def __init__(self, gqa: bool) -> None:
        super().__init__()
        self.norm1 = RMSNorm(10)
        self.attn = LlamaAttention(10, heads=4, kv_heads=2, head_dim=6, gqa=gqa)
        self.norm2 = RMSNorm(10)
        self.mlp = SwiGLU(10, 14)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x), cos, sin)
        return x + self.mlp(self.norm2(x))


class Llama(nn.Module):
    def __init__(self, layers: int, gqa: bool) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(13, 10)
        self.rotary = Rotary(6)
        self.layers = nn.ModuleList([LlamaBlock(gqa) for _ in range(layers)])
        self.norm = RMSNorm(10)
        self.lm_head = nn.Linear(10, 13, bias=False)

    def forward(self, idx: Tensor) -> Tensor:
        x = self.embed_tokens(idx)
        cos, sin = self.rotary(x)
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.lm_head(self.norm(x))


# ---------------------------------------------------------------- recurrent networks


class Recurrent(nn.Module):
    """A classifier on the last step of any of torch's recurrent layers."""

    def __init__(self, rnn: nn.RNNBase, features: int) -> None:
        super().__init__()
        self.rnn = rnn
        self.fc = nn.Linear(features, 4)

    def forward(self, x: Tensor) -> Tensor:
        out, _ = self.rnn(x)
        return self.fc(out[:, -1])


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 9)
        self.lstm = nn.LSTM(9, 8, num_layers=2, dropout=0.1, batch_first=True)
        self.fc = nn.Linear(8, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        out, _ = self.lstm(self.embed(tokens))
        return self.fc(out)


class CellLoop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden_size = 9
        self.cell = nn.LSTMCell(5, 9)
        self.fc = nn.Linear(9, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(x.size(0), self.hidden_size, device=x.device)
        c = torch.zeros(x.size(0), self.hidden_size, device=x.device)
        outputs = []
        for t in range(x.size(1)):
            h, c = self.cell(x[:, t], (h, c))
            outputs.append(self.fc(h))
        return torch.stack(outputs, dim=1)


class Seq2Seq(nn.Module):
    """Bahdanau attention: the decoder starts from the encoder's state and sees all its steps."""

    def __init__(self) -> None:
        super().__init__()
        self.src_embed = nn.Embedding(11, 7)
        self.tgt_embed = nn.Embedding(13, 9)
        self.encoder = nn.LSTM(7, 8, batch_first=True)
        self.w_query = nn.Linear(8, 6, bias=False)
        self.w_key = nn.Linear(8, 6)
        self.v = nn.Linear(6, 1, bias=False)
        self.decoder = nn.LSTMCell(9 + 8, 8)
        self.mix = nn.Linear(8 + 8, 10)
        self.out = nn.Linear(10, 13)

    def forward(self, src: Tensor, tgt: Tensor) -> Tensor:
        memory, (h, c) = self.encoder(self.src_embed(src))
        h, c = h[-1], c[-1]
        keys = self.w_key(memory)
        embedded = self.tgt_embed(tgt)
        steps = []
        for t in range(tgt.size(1)):
            scores = self.v(torch.tanh(self.w_query(h).unsqueeze(1) + keys)).squeeze(-1)
            context = torch.bmm(scores.softmax(dim=1).unsqueeze(1), memory).squeeze(1)
            h, c = self.decoder(torch.cat([embedded[:, t], context], dim=1), (h, c))
            steps.append(self.out(torch.tanh(self.mix(torch.cat([h, context], dim=1)))))
        return torch.stack(steps, dim=1)


# ---------------------------------------------------------------- inputs and outputs


class TextClassifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(17, 9, padding_idx=0)
        self.fc1 = nn.Linear(9, 12)
        self.fc2 = nn.Linear(12, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        mask = (tokens != 0).unsqueeze(-1)
        total = (self.embed(tokens) * mask).sum(dim=1)
        mean = total / mask.sum(dim=1).clamp(min=1)
        return self.fc2(torch.relu(self.fc1(mean)))


@dataclass
class TabularOutput:
    """logits: (N, 3); confidence: (N,)."""

    logits: Tensor
    confidence: Tensor


class Tabular(nn.Module):
    """Takes a dict and keyword arguments, returns a dataclass."""

    def __init__(self) -> None:
        super().__init__()
        self.category = nn.Embedding(7, 6)
        self.dense = nn.Linear(5, 8)
        self.fc = nn.Linear(6 + 8, 10)
        self.head = nn.Linear(10, 3)

    def forward(
        self, batch: dict[str, Tensor], *, weight: Tensor | None = None, temperature: float = 1.0
    ) -> TabularOutput:
        h = torch.cat([self.category(batch["category"]), torch.relu(self.dense(batch["x"]))], -1)
        h = torch.relu(self.fc(h))
        if weight is not None:
            h = h * weight.unsqueeze(-1)
        logits = self.head(h) / temperature
        return TabularOutput(logits, logits.softmax(-1).amax(-1))


class TwoTowers(nn.Module):
    """Takes several tensors, returns a dict that holds a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.user = nn.Embedding(11, 7)
        self.item = nn.Embedding(13, 9)
        self.user_tower = nn.Sequential(nn.Linear(7, 10), nn.ReLU(), nn.Linear(10, 8))
        self.item_tower = nn.Sequential(nn.Linear(9 + 2, 12), nn.ReLU(), nn.Linear(12, 8))
        self.bias = nn.Linear(8, 1)

    def forward(self, user: Tensor, item: Tensor, price: Tensor) -> dict[str, Any]:
        u = self.user_tower(self.user(user))
        i = self.item_tower(torch.cat([self.item(item), price], dim=-1))
        biases = self.bias(u).squeeze(-1), self.bias(i).squeeze(-1)
        return {"score": (u * i).sum(dim=-1) + biases[0] + biases[1], "biases": biases}


def _tabular_example() -> Example:
    batch = {"x": torch.randn(3, 5), "category": torch.randint(0, 7, (3,))}
    return (batch,), {"weight": torch.rand(3), "temperature": 2.0}


def _towers_example() -> Example:
    return (torch.randint(0, 11, (3,)), torch.randint(0, 13, (3,)), torch.randn(3, 2)), {}


_IMAGE = _floats((3, 3, 8, 8))
_STEPS = _floats((3, 7, 5))

NETS: tuple[Net, ...] = (
    Net("mlp", _mlp, _floats((3, 20)), 2, "16, 12"),
    Net("mlp_layernorm", _mlp_layernorm, _floats((3, 20)), 2, "14, 10"),
    Net("mlp_batchnorm", _mlp_batchnorm, _floats((3, 20)), 2, "16, 12"),
    Net("glu", GatedMLP, _floats((3, 10)), 2, "12 and 9, each with its gate"),
    Net("bilinear", BilinearNet, _floats((3, 5), (3, 7)), 3, "8, 6, 10"),
    Net("tied_autoencoder", TiedAutoencoder, _floats((3, 20)), 2, "12, 6"),
    Net("einsum", EinsumNet, _floats((3, 6, 5)), 3, "heads 4, 6, 7"),
    Net("shared", SharedModule, _floats((3, 5)), 2, "stream 10, 14"),
    Net("buffer", BufferScale, _floats((3, 6)), 2, "9 with the buffer, 7"),
    Net("moe_soft", SoftMoE, _floats((3, 6)), 3, "stream 10, experts 4, 14"),
    Net("vae", VAE, _floats((3, 20)), 2, "16, 14; the latent 4 is an output"),
    Net("cnn", CNN, _IMAGE, 3, "8, 12 (times 2 x 2 in the linear), 14"),
    Net("resnet", _resnet, _IMAGE, 4, "8, 10, 14, 12"),
    Net("unet", UNet, _IMAGE, 7, "8, 12, 16, 10, 14, 6, 9"),
    Net("densenet", DenseNet, _IMAGE, 3, "6, 8, 10; the input's 3 stay"),
    Net("separable", _separable, _IMAGE, 3, "8, 12, 16"),
    Net("resnext", _resnext, _IMAGE, 4, "7, groups 3, 4 into and 4 out of a group"),
    Net("groupnorm", _groupnorm, _IMAGE, 4, "groups 4 x 3, groups 2 x 5"),
    Net("squeeze_excite", SENet, _IMAGE, 3, "8, 12, 4"),
    Net(
        "shuffle_view",
        _shufflenet,
        _IMAGE,
        6,
        "the passing half 6 = 3 + 3 (the second unit cuts it apart), the other half 6, 6 and 6 in "
        "the branches, 14",
    ),
    Net(
        "shuffle_module",
        GroupedShuffle,
        _IMAGE,
        3,
        "groups 2 (shared through the residual), 6 of a group in the stream, 3 in the branch",
    ),
    Net("pixel_shuffle", _pixel_shuffle, _IMAGE, 4, "5, 8, 6, 10; blocks of 4 stay"),
    Net("conv_transpose", Decoder, _floats((3, 4)), 3, "12 (times 2 x 2), 8, 6"),
    Net("auxiliary", AuxiliaryHead, _IMAGE, 3, "8, 12, 6 in the auxiliary head"),
    Net("stochastic_depth", StochasticDepth, _IMAGE, 3, "8, 10, 12"),
    Net("inception", Inception, _IMAGE, 6, "8, 4, 5, 6, 7, 9"),
    Net("layerscale", _layerscale, _IMAGE, 2, "12, 20"),
    Net("weight_norm", _weight_norm, _IMAGE, 2, "8, 10"),
    Net(
        "pointnet",
        PointNet,
        _floats((3, 3, 6)),
        10,
        "6, 8, 7 in the T-net of points; 10 = k; 12, 14, 11 in the T-net of features; 16, 18, 13",
    ),
    Net("mha", lambda: SelfAttention(False), _STEPS, 3, "stream 12, heads 3, head size 4"),
    Net("mha_weights", lambda: SelfAttention(True), _STEPS, 3, "stream 12, heads 3, head size 4"),
    Net("encoder", lambda: Encoder(False), _STEPS, 7, "stream; heads, head size, 16 of 2 layers"),
    Net("encoder_norm_first", lambda: Encoder(True), _STEPS, 7, "as encoder"),
    Net(
        "transformer",
        Translator,
        _tokens((11, (3, 7)), (13, (3, 5))),
        9,
        "stream 12 (one, as the cross attention's weight reads both streams); heads and head size "
        "of 3 attentions; 20 twice",
    ),
    Net(
        "cross_attention",
        CrossAttention,
        _floats((3, 5, 6), (3, 7, 7)),
        5,
        "10, 14, heads 3, head size 4 of queries and 5 of values",
    ),
    Net("vit", ViT, _IMAGE, 7, "stream 12; heads 3, head size 4, hidden 18 / 22 of 2 blocks"),
    Net(
        "gpt",
        GPT,
        _tokens((13, (3, 6))),
        9,
        "stream 12; heads 3, head size 4 of queries, 4 of values, hidden 20 of 2 blocks",
    ),
    Net(
        "llama",
        lambda: Llama(2, gqa=False),
        _tokens((13, (3, 7))),
        10,
        "stream 10; rotary pairs 3 (one for all layers); key heads 2, queries to a key 2, head "
        "size 6 of values, hidden 14 of 2 blocks",
    ),
    Net("llama_sdpa", lambda: Llama(1, gqa=True), _tokens((13, (3, 7))), 6, "as llama, one block"),
    Net("lstm", lambda: Recurrent(nn.LSTM(5, 8, batch_first=True), 8), _STEPS, 1, "8"),
    Net("lstm_2", Tagger, _tokens((11, (3, 7))), 2, "9, and 8 of both layers"),
    Net(
        "lstm_bidirectional",
        lambda: Recurrent(nn.LSTM(5, 7, batch_first=True, bidirectional=True), 14),
        _STEPS,
        1,
        "7 of both directions",
    ),
    Net("gru", lambda: Recurrent(nn.GRU(5, 9, batch_first=True), 9), _STEPS, 1, "9"),
    Net(
        "lstm_projected",
        lambda: Recurrent(nn.LSTM(5, 10, batch_first=True, proj_size=6), 6),
        _STEPS,
        1,
        "projection 6; the cell state of 10 must stay the wider one",
    ),
    Net("lstm_cell", CellLoop, _STEPS, 1, "9"),
    Net(
        "seq2seq",
        Seq2Seq,
        _tokens((11, (3, 7)), (13, (3, 5))),
        5,
        "7, 9, hidden 8 (the state is handed over), attention 6, 10",
    ),
    Net("text", TextClassifier, _tokens((17, (3, 7))), 2, "9, 12"),
    Net("dict_kwargs", Tabular, _tabular_example, 3, "6, 8, 10"),
    Net("several_inputs", TwoTowers, _towers_example, 5, "7, 9, 10, 12, joint 8"),
)


def net(name: str) -> Net:
    """The network of this name; raises KeyError."""
    found = {n.name: n for n in NETS}
    if name not in found:
        raise KeyError(f"There is no network {name!r}; there are {', '.join(found)}.")
    return found[name]
