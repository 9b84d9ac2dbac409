"""Steps on sequences (N, L, C) and vectors (N, C): attention, recurrence, one-dimensional space."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from random_nets.block import Block, Place, Step, weight


def _by_hand(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    if causal:
        mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).tril()
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(-1) @ v


def _fused(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal)


def _einsum(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    scores = torch.einsum("nhqd,nhkd->nhqk", q * 0.5, k)
    return torch.einsum("nhqk,nhkd->nhqd", scores.softmax(-1), v)


def _layout(name: str) -> Callable[[Any, Tensor], tuple[Tensor, ...]]:
    """Ways to read fused queries, keys and values as three of (N, H, L, D)."""

    def split(s: Any, x: Tensor) -> tuple[Tensor, ...]:
        n, length, _ = x.shape
        parts = s.qkv(x).split(s.h * s.d, -1)
        return tuple(t.view(n, length, s.h, s.d).transpose(1, 2) for t in parts)

    def threes(s: Any, x: Tensor) -> tuple[Tensor, ...]:
        n, length, _ = x.shape
        return s.qkv(x).reshape(n, length, 3, s.h, s.d).permute(2, 0, 3, 1, 4).unbind(0)

    def heads_first(s: Any, x: Tensor) -> tuple[Tensor, ...]:
        n, length, _ = x.shape
        return s.qkv(x).view(n, length, s.h, 3 * s.d).transpose(1, 2).chunk(3, -1)

    def heads_inside(s: Any, x: Tensor) -> tuple[Tensor, ...]:
        parts = s.qkv(x).chunk(3, -1)
        return tuple(t.unflatten(-1, (s.d, s.h)).permute(0, 3, 1, 2) for t in parts)

    named = {f.__name__: f for f in (split, threes, heads_first, heads_inside)}
    return named[name]


def attention(p: Place) -> Block:
    layout = p.pick(("split", "threes", "heads_first", "heads_inside"))
    attend, causal = p.pick((_by_hand, _fused, _einsum)), p.pick((False, True))
    h, d = 3, 4

    def compute(s: Any, x: Tensor, y: Tensor) -> Tensor:
        q, k, v = _layout(layout)(s, x)
        out = attend(q, k, v, causal).transpose(1, 2).flatten(2)
        return x + s.proj(out)

    parts = {"qkv": nn.Linear(p.c, 3 * h * d), "proj": nn.Linear(h * d, p.c)}
    return Block(compute, p.c, h=h, d=d, **parts)


def _turned(x: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return torch.cat((-b, a), -1)


def _pairs(x: Tensor) -> Tensor:
    return torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)


def _complex(x: Tensor, angle: Tensor) -> Tensor:
    """Rotation of pairs as multiplication of complex numbers."""
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    turn = torch.polar(torch.ones_like(angle[..., ::2]), angle[..., ::2])
    return torch.view_as_real(pairs * turn).flatten(-2)


def grouped_query(p: Place) -> Block:
    """More query heads than key heads; with rotation of halves, of pairs, or none."""
    way = p.pick(("flag", "expand", "interleave", "grouped"))
    turn, norm = p.pick((None, _turned, _pairs, _complex)), p.pick((nn.Identity, nn.RMSNorm))
    kv, group, d = 2, 2, 6
    h = kv * group

    def compute(s: Any, x: Tensor, y: Tensor) -> Tensor:
        n, length, _ = x.shape
        q = s.q_norm(s.q(x).view(n, length, s.h, s.d)).transpose(1, 2)
        k, v = (f(x).view(n, length, s.kv, s.d).transpose(1, 2) for f in (s.k, s.v))
        if turn is not None:
            angle = torch.arange(length).unsqueeze(-1) * s.frequency
            q, k = (
                _complex(t, angle) if turn is _complex else t * angle.cos() + turn(t) * angle.sin()
                for t in (q, k)
            )
        if way == "flag":
            out = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        elif way == "grouped":
            q = q.unflatten(1, (s.kv, -1))
            out = _by_hand(q, k.unsqueeze(2), v.unsqueeze(2), causal=False).flatten(1, 2)
        else:
            k, v = (_repeated(t, s.h // s.kv, way) for t in (k, v))
            out = _by_hand(q, k, v, causal=True)
        return s.proj(out.transpose(1, 2).reshape(n, length, -1))

    half = torch.rand(d // 2)
    frequency = half.repeat_interleave(2) if turn in (_pairs, _complex) else torch.cat((half, half))
    parts = {"q": nn.Linear(p.c, h * d), "k": nn.Linear(p.c, kv * d), "v": nn.Linear(p.c, kv * d)}
    parts |= {"proj": nn.Linear(h * d, p.c), "q_norm": norm(d)}
    return Block(compute, p.c, h=h, kv=kv, d=d, frequency=frequency, **parts)


def _repeated(x: Tensor, times: int, way: str) -> Tensor:
    if way == "interleave":
        return x.repeat_interleave(times, 1)
    n, kv, length, d = x.shape
    return x[:, :, None].expand(n, kv, times, length, d).reshape(n, kv * times, length, d)


def torch_attention(p: Place) -> Block:
    """nn.MultiheadAttention, onto itself or an earlier value, and the encoder layer."""
    h = p.divisor()
    if p.pick((True, False)):
        layer = nn.MultiheadAttention(p.c, h, batch_first=True)
        return Block(lambda s, x, y: x + s.layer(x, x, x, need_weights=False)[0], p.c, layer=layer)
    encoder = nn.TransformerEncoderLayer(p.c, h, 10, 0.1, batch_first=True)
    return Block(lambda s, x, y: s.encoder(x), p.c, encoder=encoder)


def cross_attention(p: Place) -> Block:
    """Queries of this value, keys of an earlier one, head sizes of their own, in einsum."""
    other = p.earlier()
    into, h = p.shapes[other].channels, 3

    def compute(s: Any, x: Tensor, y: Tensor) -> Tensor:
        q, k, v = (f(t).unflatten(-1, (s.h, -1)) for f, t in ((s.q, x), (s.k, y), (s.v, y)))
        scores = torch.einsum("nqhd,nkhd->nhqk", q, k).softmax(-1)
        return s.proj(torch.einsum("nhqk,nkhd->nqhd", scores, v).flatten(2))

    parts = {"q": nn.Linear(p.c, 12), "k": nn.Linear(into, 12), "v": nn.Linear(into, 15)}
    return Block(compute, p.c, other=other, h=h, proj=nn.Linear(15, p.c), **parts)


def channel_attention(p: Place) -> Block:
    """Features attend to features."""

    def compute(s: Any, x: Tensor, y: Tensor) -> Tensor:
        q, k, v = s.qkv(x).chunk(3, -1)
        return (v @ (q.transpose(1, 2) @ k).softmax(-1).transpose(1, 2)) + s.gain

    return Block(compute, 8, qkv=nn.Linear(p.c, 24), gain=weight(8))


def token_mix(p: Place) -> Block:
    hidden, act = p.size(), p.activation()
    length = p.space[0]
    parts = {"up": nn.Linear(length, hidden), "down": nn.Linear(hidden, length)}
    return Block(
        lambda s, x, y: x + s.down(act(s.up(x.transpose(1, 2)))).transpose(1, 2), p.c, **parts
    )


def recurrence(p: Place) -> Block:
    make, hidden = p.pick((nn.LSTM, nn.GRU, nn.RNN)), p.size()
    layers, both = p.pick(((1, False), (2, False), (1, True), (2, True)))
    rnn = make(p.c, hidden, layers, batch_first=True, bidirectional=both)
    return Block(lambda s, x, y: s.rnn(x)[0], hidden * (1 + both), rnn=rnn)


def cell_loop(p: Place) -> Block:
    """A cell stepped by hand, from zeros or from a layer's output."""
    lstm, hidden, learned = p.pick((True, False)), p.size(), p.pick((False, True))

    def compute(s: Any, x: Tensor, y: Tensor) -> Tensor:
        h = torch.tanh(s.start(x[:, 0])) if learned else x.new_zeros(x.shape[0], s.hidden)
        c, outs = h, []
        for t in range(2):
            h, c = s.cell(x[:, t], (h, c)) if lstm else (s.cell(x[:, t], h), c)
            outs.append(h)
        return torch.stack(outs, 1)

    cell = (nn.LSTMCell if lstm else nn.GRUCell)(p.c, hidden)
    return Block(compute, hidden, (2,), cell=cell, hidden=hidden, start=nn.Linear(p.c, hidden))


def convolution(p: Place) -> Block:
    out = p.size()
    groups = p.pick([1, p.c, *(d for d in range(2, p.c) if p.c % d == 0)])
    out = out if groups == 1 else p.pick((p.c, 2 * p.c))
    conv = nn.Conv1d(p.c, out, 3, padding=1, groups=groups)
    act = p.pick((F.gelu, lambda x: F.glu(x, 1) if out % 2 == 0 else x))
    kept = out // 2 if act is not F.gelu and out % 2 == 0 else out
    return Block(lambda s, x, y: act(s.conv(x.transpose(1, 2))).transpose(1, 2), kept, conv=conv)


def channel_norm(p: Place) -> Block:
    """Batch, group and instance norm over the channels of a sequence."""
    norm = p.pick(
        (nn.BatchNorm1d(p.c), nn.GroupNorm(p.divisor(), p.c), nn.InstanceNorm1d(p.c, affine=True))
    )
    return Block(lambda s, x, y: s.norm(x.transpose(1, 2)).transpose(1, 2), p.c, norm=norm)


def position(p: Place) -> Block:
    length = p.space[0]
    if p.pick((True, False)):
        return Block(lambda s, x, y: x + s.table, p.c, table=weight(1, length, p.c))
    table = nn.Embedding(length, p.c)
    return Block(lambda s, x, y: x + s.table(torch.arange(x.shape[1])), p.c, table=table)


def class_token(p: Place) -> Block:
    token = weight(1, 1, p.c)
    return Block(
        lambda s, x, y: torch.cat((s.token.expand(x.shape[0], -1, -1), x), 1),
        p.c,
        (p.space[0] + 1,),
        token=token,
    )


def shift(p: Place) -> Block:
    how = p.pick(
        (
            lambda x: x.roll(1, 1),
            lambda x: x.flip(1),
            lambda x: x.cumsum(1),
            lambda x: F.pad(x, (0, 0, 1, 0))[:, :-1],
            lambda x: x - x.mean(1, keepdim=True),
            lambda x: x.softmax(1),
        )
    )
    return Block(lambda s, x, y: how(x), p.c)


def to_vector(p: Place) -> Block:
    wide = p.space[0] * p.c
    how, out = p.pick(
        (
            (lambda s, x, y: x.mean(1), p.c),
            (lambda s, x, y: x[:, -1], p.c),
            (lambda s, x, y: x.amax(1), p.c),
            (lambda s, x, y: x.max(1).values, p.c),
            (lambda s, x, y: x.flatten(1), wide),
            (lambda s, x, y: x.transpose(1, 2).reshape(x.shape[0], -1), wide),
            (lambda s, x, y: (s.score(x).softmax(1) * x).sum(1), p.c),
            (lambda s, x, y: torch.cat((x.mean(1), x.logsumexp(1)), -1), 2 * p.c),
        )
    )
    return Block(how, out, (), "vector", score=nn.Linear(p.c, 1))


def batch_norm(p: Place) -> Block:
    return Block(lambda s, x, y: s.norm(x), p.c, norm=nn.BatchNorm1d(p.c))


def cell(p: Place) -> Block:
    """One step of a cell whose state is an earlier value's layer, or zeros."""
    hidden, lstm, other = p.size(), p.pick((True, False)), p.earlier()

    def compute(s: Any, x: Tensor, y: Tensor) -> Tensor:
        h = s.start(y)
        return s.cell(x, (h, torch.tanh(h)))[0] if lstm else s.cell(x, h)

    made = (nn.LSTMCell if lstm else nn.GRUCell)(p.c, hidden)
    start = nn.Linear(p.shapes[other].channels, hidden)
    return Block(compute, hidden, other=other, cell=made, start=start)


def to_sequence(p: Place) -> Block | None:
    """Groups of features become tokens."""
    length = p.divisor()
    if length == 1:
        return None
    inside = p.pick((False, True))

    def compute(s: Any, x: Tensor, y: Tensor) -> Tensor:
        if inside:
            return x.view(x.shape[0], -1, s.length).transpose(1, 2)
        return x.view(x.shape[0], s.length, -1)

    return Block(compute, p.c // length, (length,), "sequence", length=length)


def to_image(p: Place) -> Block:
    fc = nn.Linear(p.c, 6 * 4)
    act = p.activation()
    return Block(
        lambda s, x, y: act(s.fc(x)).view(-1, s.made, 2, 2), 6, (2, 2), "image", fc=fc, made=6
    )


SEQUENCES: tuple[Step, ...] = (
    attention, grouped_query, torch_attention, cross_attention, channel_attention, token_mix,
    recurrence, cell_loop, convolution, channel_norm, position, class_token, shift, to_vector,
)  # fmt: skip
VECTORS: tuple[Step, ...] = (batch_norm, cell, to_sequence, to_image)
