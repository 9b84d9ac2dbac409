"""Multilayer perceptrons and what is made of dense layers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nets.base import Net, floats


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


DENSE: tuple[Net, ...] = (
    Net("mlp", _mlp, floats((3, 20)), 2, "16, 12"),
    Net("mlp_layernorm", _mlp_layernorm, floats((3, 20)), 2, "14, 10"),
    Net("mlp_batchnorm", _mlp_batchnorm, floats((3, 20)), 2, "16, 12"),
    Net("glu", GatedMLP, floats((3, 10)), 2, "12 and 9, each with its gate"),
    Net("bilinear", BilinearNet, floats((3, 5), (3, 7)), 3, "8, 6, 10"),
    Net("tied_autoencoder", TiedAutoencoder, floats((3, 20)), 2, "12, 6"),
    Net("einsum", EinsumNet, floats((3, 6, 5)), 3, "heads 4, 6, 7"),
    Net("shared", SharedModule, floats((3, 5)), 2, "stream 10, 14"),
    Net("buffer", BufferScale, floats((3, 6)), 2, "9 with the buffer, 7"),
    Net("moe_soft", SoftMoE, floats((3, 6)), 3, "stream 10, experts 4, 14"),
    Net("vae", VAE, floats((3, 20)), 2, "16, 14; the latent 4 is an output"),
)
