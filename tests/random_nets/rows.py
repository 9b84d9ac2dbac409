"""Steps on features in the last dim: vectors (N, C) and sequences (N, L, C)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from random_nets.block import Block, Place, Step, weight


def linear(p: Place) -> Block:
    out, act, bias = p.size(), p.activation(), p.pick((True, False))
    fc = nn.Linear(p.c, out, bias=bias)
    return Block(lambda s, x, y: act(s.fc(x)), out, fc=fc)


def activation(p: Place) -> Block:
    act = p.activation()
    return Block(lambda s, x, y: act(x), p.c)


def dropout(p: Place) -> Block:
    return Block(lambda s, x, y: s.drop(x), p.c, drop=nn.Dropout(p.pick((0.2, 0.5))))


def layer_norm(p: Place) -> Block:
    make = p.pick((nn.LayerNorm, nn.RMSNorm))
    norm = make(p.c, elementwise_affine=p.pick((True, False)))
    return Block(lambda s, x, y: s.norm(x), p.c, norm=norm)


def rms_by_hand(p: Place) -> Block:
    def compute(s: Any, x: Tensor, y: Tensor) -> Tensor:
        return s.gain * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5)

    return Block(compute, p.c, gain=weight(p.c))


def glu(p: Place) -> Block:
    half, by_chunk, act = p.size(), p.pick((True, False)), p.activation()

    def compute(s: Any, x: Tensor, y: Tensor) -> Tensor:
        if not by_chunk:
            return F.glu(s.fc(x), -1)
        value, gate = s.fc(x).chunk(2, -1)
        return value * act(gate)

    return Block(compute, half, fc=nn.Linear(p.c, 2 * half))


def gate_itself(p: Place) -> Block | None:
    if p.c % 2:
        return None
    halves = p.pick((lambda x: x.chunk(2, -1), lambda x: x.tensor_split(2, -1)))

    def compute(s: Any, x: Tensor, y: Tensor) -> Tensor:
        value, gate = halves(x)
        return value * torch.sigmoid(gate)

    return Block(compute, p.c // 2)


def residual(p: Place) -> Block:
    hidden, act, norm = p.size(), p.activation(), p.pick((nn.Identity, nn.LayerNorm))
    parts = {"up": nn.Linear(p.c, hidden), "down": nn.Linear(hidden, p.c), "norm": norm(p.c)}
    return Block(lambda s, x, y: x + s.down(act(s.up(s.norm(x)))), p.c, **parts)


def _mixed(x: Tensor, y: Tensor) -> Tensor:
    return torch.lerp(x, y, 0.3)


def combine(p: Place) -> Block:
    """With an earlier value, projected where sizes differ."""
    other = p.earlier()
    into = p.shapes[other].channels
    join = p.pick(
        (torch.add, torch.mul, torch.maximum, torch.sub, lambda x, y: torch.lerp(x, y, 0.3))
    )
    fit = nn.Identity() if into == p.c else nn.Linear(into, p.c)
    return Block(lambda s, x, y: join(x, s.fit(y)), p.c, other=other, fit=fit)


def concatenate(p: Place) -> Block:
    other = p.earlier()
    first = p.pick((True, False))
    return Block(
        lambda s, x, y: torch.cat((x, y) if first else (y, x), -1),
        p.c + p.shapes[other].channels,
        other=other,
    )


def split_and_mix(p: Place) -> Block | None:
    """A part goes through a layer and joins the rest again."""
    if p.c < 3:
        return None
    k = p.pick((p.c // 2, p.c // 3, p.c - 1))
    swapped = p.pick((False, True))

    def compute(s: Any, x: Tensor, y: Tensor) -> Tensor:
        a, b = x.split([s.k, x.shape[-1] - s.k], -1)
        a = torch.tanh(s.fc(a))
        return torch.cat((b, a) if swapped else (a, b), -1)

    return Block(compute, p.c, k=k, fc=nn.Linear(k, k))


def compare(p: Place) -> Block:
    """Features compared with each other."""
    how = p.pick(
        (
            lambda x: x.softmax(-1),
            lambda x: x - x.mean(-1, keepdim=True),
            lambda x: F.normalize(x, dim=-1),
            lambda x: x / (x.std(-1, keepdim=True, correction=0) + 1),
            lambda x: x * x.amax(-1, keepdim=True),
            lambda x: x.log_softmax(-1),
            lambda x: x - x.logsumexp(-1, keepdim=True),
            lambda x: x * (x > x.median(-1, keepdim=True).values),
        )
    )
    return Block(lambda s, x, y: how(x), p.c)


def total(p: Place) -> Block:
    """A plain sum over features gates all of them."""
    act = p.activation()
    return Block(lambda s, x, y: x * torch.tanh(act(x).sum(-1, keepdim=True)), p.c)


def heads_linear(p: Place) -> Block:
    """One layer for every head."""
    h, out = p.divisor(), p.pick((5, 3, 4))
    by_view = p.pick((True, False))

    def compute(s: Any, x: Tensor, y: Tensor) -> Tensor:
        x = x.view(*x.shape[:-1], s.h, -1) if by_view else x.unflatten(-1, (s.h, s.d))
        return torch.tanh(s.fc(x)).flatten(-2)

    return Block(compute, h * out, h=h, d=p.c // h, fc=nn.Linear(p.c // h, out))


def heads_einsum(p: Place) -> Block:
    """A matrix for each head; heads inside or outside."""
    h, e, inside = p.divisor(), p.pick((5, 3, 4)), p.pick((False, True))

    def compute(s: Any, x: Tensor, y: Tensor) -> Tensor:
        lead = x.shape[:-1]
        x = x.reshape(*lead, *((s.d, s.h) if inside else (s.h, s.d)))
        x = x.transpose(-1, -2) if inside else x
        return torch.einsum("...hd,hde->...he", x, s.w).reshape(*lead, s.h * s.e)

    return Block(compute, h * e, h=h, d=p.c // h, e=e, w=weight(h, p.c // h, e))


def shuffle_heads(p: Place) -> Block:
    h = p.divisor()
    return Block(lambda s, x, y: x.unflatten(-1, (s.h, -1)).transpose(-1, -2).flatten(-2), p.c, h=h)


def pool_heads(p: Place) -> Block:
    h, dim = p.divisor(), p.pick((-1, -2))
    how = p.pick((torch.mean, torch.sum, torch.amax, torch.logsumexp))
    out = h if dim == -1 else p.c // h
    return Block(lambda s, x, y: how(x.unflatten(-1, (s.h, -1)), dim=dim), out, h=h)


def scale(p: Place) -> Block:
    parts = {"gain": weight(p.c), "shift": nn.Parameter(torch.randn(p.c)), "fixed": torch.rand(p.c)}
    return Block(lambda s, x, y: (x * s.gain + s.shift) * s.fixed, p.c, **parts)


def bilinear(p: Place) -> Block:
    other, out = p.earlier(), p.size()
    layer = nn.Bilinear(p.c, p.shapes[other].channels, out)
    return Block(lambda s, x, y: s.layer(x, y), out, other=other, layer=layer)


def outer(p: Place) -> Block:
    a, b = nn.Linear(p.c, 3), nn.Linear(p.c, 4)

    def compute(s: Any, x: Tensor, y: Tensor) -> Tensor:
        return (s.a(x).unsqueeze(-1) * s.b(x).unsqueeze(-2)).flatten(-2)

    return Block(compute, 12, a=a, b=b)


def experts(p: Place) -> Block:
    hidden = p.size()

    def compute(s: Any, x: Tensor, y: Tensor) -> Tensor:
        h = F.gelu(torch.einsum("...c,ech->...eh", x, s.w1) + s.b1)
        return torch.einsum("...e,...eh,ehc->...c", s.gate(x).softmax(-1), h, s.w2)

    parts = {"w1": weight(3, p.c, hidden), "b1": weight(3, hidden), "w2": weight(3, hidden, p.c)}
    return Block(compute, p.c, gate=nn.Linear(p.c, 3), **parts)


def part_of(p: Place) -> Block | None:
    """Some features by their place: first, last, every other, by number."""
    if p.c < 4:
        return None
    k = p.c // 2
    take, kept = p.pick(
        (
            (lambda x: x[..., :k], k),
            (lambda x: x[..., k:], p.c - k),
            (lambda x: x[..., 1:-1], p.c - 2),
            (lambda x: x.narrow(-1, 1, k), k),
            (lambda x: x[..., ::2], (p.c + 1) // 2),
            (lambda x: x[..., 1::2], p.c // 2),
            (lambda x: x[..., [2, 0, 1]], 3),
            (lambda x: x.index_select(-1, torch.tensor([1, 3])), 2),
            (lambda x: x.topk(3, -1).values, 3),
        )
    )
    return Block(lambda s, x, y: take(x), kept)


def in_order(p: Place) -> Block:
    """The order of features matters."""
    how = p.pick(
        (
            lambda x: x.cumsum(-1),
            lambda x: x.flip(-1),
            lambda x: x.roll(1, -1),
            lambda x: x.sort(-1).values,
            lambda x: F.pad(x.diff(dim=-1), (1, 0)),
            lambda x: x.gather(-1, x.argsort(-1)),
            lambda x: x * torch.arange(x.shape[-1]),
        )
    )
    return Block(lambda s, x, y: how(x), p.c)


def written(p: Place) -> Block | None:
    """Features written to by place, in place, and rows summed by number."""
    if p.c < 4:
        return None

    def some(x: Tensor) -> Tensor:
        y = x.clone()
        y[..., 1:3] = 2 * y[..., :2]
        return y

    def one(x: Tensor) -> Tensor:
        y = torch.tanh(x)
        y[..., 0] = 0.5
        return y

    def all_but(x: Tensor) -> Tensor:
        y = torch.zeros_like(x)
        y[..., 1:] += x[..., 1:]
        return y

    how = p.pick(
        (
            some,
            one,
            all_but,
            lambda x: torch.zeros_like(x).scatter_add(0, (x > 0).long(), x),
            lambda x: x.scatter(-1, (x > 0).long(), x.square()),
            lambda x: x.index_add(0, torch.tensor([0, 1]), x[1:3]),
            lambda x: x.index_copy(-1, torch.tensor([0, 2]), x[..., 1:3]),
            lambda x: x.index_put((torch.tensor([0, 1]),), x[1:3].square(), accumulate=True),
            lambda x: torch.fft.fft(x, dim=-1).real + torch.fft.fft(x, dim=-1).imag,
            lambda x: torch.fft.fft(x, dim=0).abs(),
        )
    )
    return Block(lambda s, x, y: how(x), p.c)


def copies(p: Place) -> Block:
    """More features than before, by copies and padding."""
    ones = p.space and (1,) * len(p.space)
    how, out = p.pick(
        (
            (lambda x: F.pad(x, (1, 2)), p.c + 3),
            (lambda x: x.repeat(1, *ones, 2), 2 * p.c),
            (lambda x: x.repeat_interleave(2, -1), 2 * p.c),
            (lambda x: x.unsqueeze(-1).expand(*x.shape, 3).flatten(-2), 3 * p.c),
            (lambda x: torch.stack((x, x.tanh()), -1).flatten(-2), 2 * p.c),
            (lambda x: torch.stack((x, x.tanh()), -2).flatten(-2), 2 * p.c),
            (lambda x: torch.cat((x, -x, torch.ones_like(x[..., :1])), -1), 2 * p.c + 1),
            (lambda x: torch.cat((x, x.new_zeros(*x.shape[:-1], 3)), -1), p.c + 3),
        )
    )
    return Block(lambda s, x, y: how(x), out)


def tied(p: Place) -> Block:
    """There and back again through one weight."""
    act = p.activation()
    fc = nn.Linear(p.c, p.size(), bias=False)
    return Block(lambda s, x, y: F.linear(act(s.fc(x)), s.fc.weight.t()), p.c, fc=fc)


def shared_twice(p: Place) -> Block:
    layer = nn.Sequential(nn.Linear(p.c, p.c), nn.Tanh())
    return Block(lambda s, x, y: s.layer(s.layer(x)), p.c, layer=layer)


def random_in_training(p: Place) -> Block:
    def compute(s: Any, x: Tensor, y: Tensor) -> Tensor:
        if not s.training:
            return x
        return (
            x * (1 + 0.1 * torch.randn_like(x))
            if by_noise
            else x * torch.rand(x.shape[0]).view(-1, *(1,) * (x.dim() - 1))
        )

    by_noise = p.pick((True, False))
    return Block(compute, p.c)


def conditional(p: Place) -> Block:
    other = p.earlier()
    fit = nn.Linear(p.shapes[other].channels, p.c)
    how = p.pick(
        (
            lambda x, y: torch.where(y > 0, x, y),
            lambda x, y: x.masked_fill(y < 0, 0.5),
            lambda x, y: torch.addcmul(x, y, y.sigmoid(), value=0.5),
            lambda x, y: x * y.sigmoid() + (1 - y.sigmoid()),
        )
    )
    return Block(lambda s, x, y: how(x, s.fit(y)), p.c, other=other, fit=fit)


ROWS: tuple[Step, ...] = (
    linear, activation, dropout, layer_norm, rms_by_hand, glu, gate_itself, residual, combine,
    concatenate, split_and_mix, compare, total, heads_linear, heads_einsum, shuffle_heads,
    pool_heads, scale, bilinear, outer, experts, part_of, in_order, written, copies, tied,
    shared_twice, random_in_training, conditional,
)  # fmt: skip
