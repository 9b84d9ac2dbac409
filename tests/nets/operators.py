"""Operators rarer than layers: losses, distances, masks, sampling, chance, fake quantization.

Legend of shape comments as in the package: N batch, L sequence, C channels, E stream.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nets.base import IMAGE, STEPS, Net, floats


class Slopes(nn.Module):
    """PReLU with a slope for each channel, and with one for all; affine grids; nested pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.slopes = nn.Conv2d(3, 6, 3, padding=1), nn.PReLU(6)
        self.second, self.slope = nn.Conv2d(6, 8, 3, padding=1), nn.PReLU()
        self.place = nn.Linear(8, 6)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.slopes(self.first(x))
        pooled, where = F.max_pool2d(x, 2, return_indices=True)
        x = F.max_unpool2d(torch.tanh(pooled), where, 2) + torch.rot90(x, 2, (2, 3))
        x = F.fractional_max_pool2d(self.slope(self.second(x)), 2, output_size=(4, 4))
        theta = self.place(x.mean((2, 3))).view(-1, 2, 3)
        grid = F.affine_grid(theta, list(x.shape), align_corners=False)
        return self.head(F.grid_sample(x, grid, align_corners=False).mean((2, 3)))


class Losses(nn.Module):
    """Errors between features as values of their own: for each step, and for all at once."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(5, 6), nn.Linear(5, 6)
        self.classes = nn.Linear(6, 4)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a, b = self.one(x), self.other(x)  # (N, L, E)
        each = F.smooth_l1_loss(a, b, reduction="none") + F.huber_loss(a, b, reduction="none")
        whole = F.mse_loss(a, b) + F.kl_div(a.log_softmax(-1), b.softmax(-1), reduction="sum")
        whole = whole + F.cross_entropy(a.flatten(0, 1), b.flatten(0, 1).softmax(-1))
        whole = whole + F.binary_cross_entropy_with_logits(a, b.sigmoid())
        target = torch.zeros(x.shape[0], x.shape[1], dtype=torch.long)
        logits = self.classes(a).transpose(1, 2)  # (N, classes, L)
        step = F.cross_entropy(logits, target, reduction="none")
        ones = torch.ones(x.shape[0] * x.shape[1])
        pair = F.cosine_embedding_loss(a.flatten(0, 1), b.flatten(0, 1), ones)
        return self.head(each * step.unsqueeze(-1)), whole + pair


class Distances(nn.Module):
    """Norms, distances and products of tensors along chosen dims."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(5, 6), nn.Linear(5, 6)
        self.core = nn.Parameter(torch.randn(6, 4) / 2)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.one(x), self.other(x)  # (N, L, E)
        a = a / torch.linalg.norm(a, dim=-1, keepdim=True) + a.renorm(2, 0, 1.0)
        near = torch.exp(-torch.cdist(a, b))  # (N, L, L)
        alike = F.cosine_similarity(a, b, dim=-1) + F.pairwise_distance(a, b)  # (N, L)
        mixed = near @ b * alike.unsqueeze(-1)
        spread = mixed - mixed.quantile(0.5, dim=-1, keepdim=True)
        low, high = torch.aminmax(spread, dim=-1, keepdim=True)
        scaled = spread / (1 + high - low + torch.dist(a, b))
        out = torch.tensordot(scaled, self.core, 1)
        return self.head(torch.relu(out) / (1 + torch.linalg.matrix_norm(out, keepdim=True)))


class Masks(nn.Module):
    """Rows picked and written by masks; as many come out as the data say."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.fill = nn.Linear(5, 6), nn.Linear(6, 6)
        self.gate = nn.Linear(5, 1)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x)  # (N, L, E)
        keep = self.gate(x).squeeze(-1) > 0  # (N, L)
        row, step = torch.where(keep)
        h = h.index_put((row, step), self.fill(h[keep]))
        h = h.masked_scatter((~keep).unsqueeze(-1).expand_as(h), torch.tanh(h))
        first = h.gather(1, h.argmax(1, keepdim=True))  # (N, 1, E)
        h = h * first + h.index_reduce(1, torch.tensor([0, 0, 1, 1, 2, 2, 3]), h, "mean")
        flat = h.flatten(0, 1)
        some = (flat.sum(-1) > 0).nonzero().squeeze(-1)
        return self.head(torch.zeros_like(flat).index_add(0, some, flat[some]).view(h.shape))


class Bags(nn.Module):
    """Sums of embeddings, and rows of one dim put together."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.EmbeddingBag(9, 6, mode="sum")
        self.best = nn.EmbeddingBag(9, 6, mode="max")
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        bags = self.words(x) * self.best(x)  # (N, E)
        pairs = torch.full((3,), 2)
        return self.head(torch.segment_reduce(bags, "mean", lengths=pairs))


class Chance(nn.Module):
    """Numbers drawn in every way: noise, gates, masks of whole features, categories, orders."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(5, 8)
        self.gates = nn.Parameter(torch.zeros(8))
        self.inner = nn.Linear(8, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x)  # (N, L, E)
        if not self.training:
            return self.head(self.inner(h * self.gates.sigmoid()))
        h = h * h.new_empty(x.shape[0], 1, h.shape[2]).bernoulli_(0.7) / 0.7
        u = torch.empty_like(self.gates).uniform_(1e-6, 1 - 1e-6)
        h = h * torch.sigmoid(u.log() - (-u).log1p() + self.gates)
        h = F.rrelu(h + 0.1 * torch.zeros_like(h).normal_(), training=True)
        h = torch.normal(h, torch.full_like(h, 0.1)) * torch.bernoulli(torch.sigmoid(h)).add(1)
        h = h + 0.1 * torch.poisson(torch.exp(h)) + torch.empty_like(h).exponential_().log1p()
        h = self.inner(h)
        h = h * F.gumbel_softmax(h, dim=-1) + torch.randint_like(h, 2)
        h = h[torch.randperm(x.shape[0])]
        step = torch.multinomial(torch.ones(x.shape[0], x.shape[1]), 2)
        return self.head(h + torch.take_along_dim(h, step.unsqueeze(-1), 1).mean(1, keepdim=True))


class Rounded(nn.Module):
    """Weights and activations rounded to grids: one for a tensor, one for each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 8), nn.Linear(8, 6)
        self.head = nn.Linear(6, 3)
        self.register_buffer("scale", torch.rand(8) / 9 + 0.05)
        self.register_buffer("zero", torch.zeros(8, dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.fake_quantize_per_channel_affine(
            self.first.weight, self.scale, self.zero, 0, -128, 127
        )
        h = torch.relu(F.linear(x, weight, self.first.bias))
        scale, zero = torch.tensor(0.05), torch.tensor(0, dtype=torch.int32)
        h = torch.fake_quantize_per_tensor_affine(h, scale, zero, 0, 255)
        return self.head(self.second(h))


class Complex(nn.Module):
    """A Fourier operator: complex weights for each mode, and complex layers behind."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(5, 6)
        self.modes = nn.Parameter(torch.randn(3, 6, 8, dtype=torch.complex64) / 3)
        self.matrix = nn.Parameter(torch.randn(8, 7, dtype=torch.complex64) / 3)
        self.head = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(self.enter(x), n=6, dim=1)[:, :3]  # (N, modes, C)
        mixed = torch.einsum("nmc,mcd->nmd", spectrum, self.modes)
        turned = (mixed.conj() @ self.matrix.mH.adjoint()).resolve_conj()
        return self.head(torch.fft.irfft(turned, n=4, dim=1).mean(1))


class Modulated(nn.Module):
    """Convolutions with weights of their own for each sample, run as groups of one batch."""

    def __init__(self) -> None:
        super().__init__()
        self.style = nn.Linear(5, 6)
        self.start = nn.Parameter(torch.randn(1, 6, 4, 4))
        self.weight = nn.Parameter(torch.randn(1, 8, 6, 3, 3) / 5)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[0]
        style = self.style(x).view(n, 1, -1, 1, 1)
        weight = self.weight * (style + 1)
        weight = weight * torch.rsqrt(weight.square().sum((2, 3, 4), keepdim=True) + 1e-8)
        image = self.start.expand(n, -1, -1, -1).reshape(1, -1, 4, 4)
        image = F.conv2d(image, weight.flatten(0, 1), padding=1, groups=n)
        return self.head(image.view(n, -1, 4, 4).mean((2, 3)))


class Defined(nn.Module):
    """Operators that torch defines by others and that no rule knows."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.other = nn.Linear(5, 6), nn.Linear(5, 4)
        self.inner = nn.Linear(10, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.enter(x[:, 0]), self.other(x[:, 1])  # (N, E)
        h = self.inner(torch.hstack([torch.arctan(a), torch.special.expit(b)]))
        h = torch.flipud(h) * torch.diag(h.T @ h) + torch.negative(torch.trapezoid(h, dim=0))
        return self.head(torch.linalg.multi_dot([h, h.T, h]) / 8)


class SpectralNorm(nn.Module):
    """A weight over its largest singular value, found by power iteration."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 8)
        self.second = nn.Linear(8, 6, bias=False)
        self.register_buffer("u", F.normalize(torch.randn(6), dim=0))
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.second.weight
        v = F.normalize(torch.mv(weight.t(), self.u), dim=0)
        sigma = torch.vdot(self.u, torch.mv(weight, v)) + torch.dot(v, v)
        sigma = sigma + torch.trace(weight @ weight.T)
        return self.head(torch.relu(F.linear(torch.relu(self.first(x)), weight / sigma)))


class TwoInputs(nn.Module):
    """Attention of one input to another, whose batch and lengths have symbols of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.queries, self.memory = nn.Linear(5, 8), nn.Linear(4, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        h, m = self.queries(x), self.memory(memory)
        return self.head(h + self.attention(h, m, m, need_weights=False)[0])


def _bags() -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    return (torch.randint(0, 9, (6, 4)),), {}


OPERATORS = (
    Net("slopes", Slopes, IMAGE, 2, "channels 6, 8"),
    Net("losses", Losses, STEPS, 1, "features 6 that are compared"),
    Net("distances", Distances, STEPS, 2, "features 6 that are compared, 4"),
    Net("masks", Masks, STEPS, 1, "stream 6"),
    Net("bags", Bags, _bags, 1, "embedding 6"),
    Net("chance", Chance, STEPS, 2, "stream 8, inner 6"),
    Net("rounded", Rounded, STEPS, 2, "8 with a grid each, 6"),
    Net("complex", Complex, floats((3, 4, 5)), 3, "channels 6, 8, 7"),
    Net("modulated", Modulated, floats((3, 5)), 2, "channels 6, 8"),
    Net("defined", Defined, STEPS, 3, "two parts 6 and 4, inner 8"),
    Net("spectral_norm", SpectralNorm, STEPS, 2, "8, 6"),
    Net("two_inputs", TwoInputs, floats((3, 7, 5), (3, 6, 4)), 3, "stream 8, heads 2, head size 4"),
)
