"""Features that are routed, gathered, windowed or transformed by position.

Legend of shape comments as in the package: N batch, L sequence, C channels, E stream, H heads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nets.base import Net, floats


class TopExperts(nn.Module):
    """Each token goes to its two best of four experts, sorted by expert as fast kernels want it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(5, 8)
        self.gate = nn.Linear(8, 4)
        self.up = nn.Parameter(torch.randn(4, 8, 6) / 3)
        self.down = nn.Parameter(torch.randn(4, 6, 8) / 3)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.inner(x)  # (N, E)
        weight, expert = self.gate(tokens).softmax(-1).topk(2, dim=-1)
        order = expert.flatten().sort().indices  # (2 N,)
        rows = tokens[torch.div(order, 2, rounding_mode="floor")]
        hidden = torch.relu(torch.bmm(rows.unsqueeze(1), self.up[expert.flatten()[order]]))
        out = torch.bmm(hidden, self.down[expert.flatten()[order]]).squeeze(1)
        out = out * weight.flatten()[order].unsqueeze(-1)
        back = torch.empty_like(order)
        back[order] = torch.arange(order.shape[0])
        return self.head(out[back].unflatten(0, (-1, 2)).sum(1))


class MessagePassing(nn.Module):
    """A graph network: messages along edges are summed at nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(5, 8)
        self.message = nn.Linear(8, 6)
        self.gather = nn.Linear(6, 8)
        self.head = nn.Linear(8, 3)
        self.register_buffer("source", torch.tensor([0, 1, 2, 3, 4, 0, 2]))
        self.register_buffer("target", torch.tensor([1, 2, 3, 4, 0, 3, 0]))

    def forward(self, x: Tensor) -> Tensor:
        nodes = self.enter(x)  # (nodes, E)
        sent = torch.relu(self.message(nodes[self.source]))
        summed = torch.zeros(x.shape[0], sent.shape[1]).index_add(0, self.target, sent)
        most = torch.zeros_like(summed).scatter_reduce(
            0, self.target.unsqueeze(1).expand_as(sent), sent, "amax"
        )
        return self.head(nodes + self.gather(summed + most))


class Unfolded(nn.Module):
    """Convolution written as unfold and a matrix product, then folded back."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.weight = nn.Linear(6 * 9, 10)
        self.spread = nn.Linear(10, 4 * 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        windows = F.unfold(x, 3, padding=1).transpose(1, 2)  # (N, H W, C 9)
        h = torch.relu(self.weight(windows))
        image = F.fold(self.spread(h).transpose(1, 2), (9, 9), 2)  # (N, 4, 9, 9)
        return self.head(image.mean((2, 3)))


class WeightStandardised(nn.Module):
    """Convolutions whose weights have mean 0 and variance 1 over what they read."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 6, 3, padding=1)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        for conv in (self.first, self.second):
            flat = conv.weight.reshape(1, conv.out_channels, -1)
            weight = F.batch_norm(flat, None, None, training=True, momentum=0.0)
            x = torch.relu(F.conv2d(x, weight.reshape_as(conv.weight), conv.bias, padding=1))
        return self.head(x.mean((2, 3)))


class Windows(nn.Module):
    """Attention in shifted windows with a table of relative positions."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 2, stride=2)
        self.norm = nn.LayerNorm(8)
        self.qkv = nn.Linear(8, 3 * 2 * 4)
        self.bias = nn.Parameter(torch.randn(9, 2))
        self.proj = nn.Linear(2 * 4, 8)
        self.merge = nn.Linear(4 * 8, 10)
        self.head = nn.Linear(10, 3)
        place = torch.stack(torch.meshgrid(torch.arange(2), torch.arange(2), indexing="ij"))
        apart = (place.flatten(1)[:, :, None] - place.flatten(1)[:, None, :] + 1).permute(1, 2, 0)
        self.register_buffer("index", apart[..., 0] * 3 + apart[..., 1], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).permute(0, 2, 3, 1)  # (N, 4, 4, E)
        h = torch.roll(self.norm(x), (-1, -1), (1, 2))
        h = (
            h.view(-1, 2, 2, 2, 2, h.shape[-1])
            .permute(0, 1, 3, 2, 4, 5)
            .reshape(-1, 4, h.shape[-1])
        )
        q, k, v = self.qkv(h).reshape(-1, 4, 3, 2, 4).permute(2, 0, 3, 1, 4)
        bias = self.bias[self.index].permute(2, 0, 1)  # (H, 4, 4)
        h = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        h = self.proj(h.transpose(1, 2).reshape(-1, 4, 8))
        h = h.view(-1, 2, 2, 2, 2, x.shape[-1]).permute(0, 1, 3, 2, 4, 5).reshape(x.shape)
        x = x + torch.roll(h, (1, 1), (1, 2))
        x = x.reshape(-1, 2, 2, 2, 2, x.shape[-1]).permute(0, 1, 3, 2, 4, 5).flatten(3)
        return self.head(self.merge(x).mean((1, 2)))


class Scan(nn.Module):
    """A selective state-space layer, its scan written out step by step."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(5, 2 * 8)
        self.parameters_of = nn.Linear(8, 3 + 3)
        self.rate = nn.Parameter(torch.rand(8, 4 - 1))
        self.leave = nn.Linear(8, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.enter(x).chunk(2, dim=-1)  # (N, L, E)
        reads, writes = self.parameters_of(x).split((3, 3), dim=-1)  # (N, L, S)
        state = torch.zeros(x.shape[0], x.shape[2], 3)
        found = []
        for t in range(4):
            state = state * torch.exp(-self.rate) + x[:, t, :, None] * writes[:, t, None, :]
            found.append((state * reads[:, t, None, :]).sum(-1))
        y = torch.stack(found, 1) * F.silu(gate)
        return self.head(torch.relu(self.leave(y)).mean(1))


class Fourier(nn.Module):
    """Mixing of positions and features by a Fourier transform: the stream has to stay."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(5, 8)
        self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        x = x + torch.fft.fftn(x, dim=(1, 2)).real
        x = x + torch.fft.irfft(torch.fft.rfft(x, dim=1), n=4, dim=1)
        return self.head((x + self.down(torch.relu(self.up(x)))).mean(1))


class Filled(nn.Module):
    """Keys put together in a buffer that is written piece by piece, and copied side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.plain, self.turned = nn.Linear(5, 6), nn.Linear(5, 4)
        self.query = nn.Linear(5, 10)
        self.mix = nn.Linear(2 * 10, 7)
        self.head = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        key = x.new_empty(x.shape[0], x.shape[1], 10)
        key[..., :6] = self.plain(x)
        key[..., 6:] = torch.polar(torch.ones_like(self.turned(x)), self.turned(x)).real
        key = key * self.query(x)[..., :10]
        return self.head(torch.relu(self.mix(key.repeat_interleave(2, dim=-1))).mean(1))


ROUTING = (
    Net("top_experts", TopExperts, floats((6, 5)), 3, "tokens 8, experts' hidden 6, result 8"),
    Net("message_passing", MessagePassing, floats((5, 5)), 2, "stream 8, messages 6"),
    Net("unfold", Unfolded, floats((2, 3, 8, 8)), 3, "channels 6, matrix 10, folded 4"),
    Net("weight_standardised", WeightStandardised, floats((3, 3, 8, 8)), 2, "channels 8, 6"),
    Net("windows", Windows, floats((3, 3, 8, 8)), 4, "stream 8, heads 2, head size 4, 10"),
    Net("scan", Scan, floats((3, 4, 5)), 3, "inner 8, state 3, 6"),
    Net("fourier", Fourier, floats((3, 4, 5)), 1, "hidden 12; the stream is transformed"),
    Net("filled", Filled, floats((3, 4, 5)), 4, "plain 6, turned 4, mixed 7, copies 2"),
)
