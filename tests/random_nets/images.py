"""Steps on images (N, C, H, W)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from random_nets.block import Block, Place, Step, weight


def _divisors(c: int) -> list[int]:
    return [d for d in range(2, c) if c % d == 0]


def convolution(p: Place) -> Block:
    out, act = p.size(), p.activation()
    kernel = p.pick((3, 1))
    conv: nn.Module = nn.Conv2d(p.c, out, kernel, padding=kernel // 2, bias=p.pick((True, False)))
    if p.pick((False, True)):
        conv = weight_norm(conv)
    return Block(lambda s, x, y: act(s.conv(x)), out, conv=conv)


def grouped(p: Place) -> Block:
    groups = p.pick([p.c, *_divisors(p.c)])
    out = p.pick((p.c, 2 * p.c))
    conv = nn.Conv2d(p.c, out, 3, padding=1, groups=groups, bias=p.pick((True, False)))
    return Block(lambda s, x, y: s.conv(x), out, conv=conv)


def grouped_shuffle(p: Place) -> Block | None:
    """Grouped, shuffled by module or by view, grouped again."""
    if not _divisors(p.c):
        return None
    groups, by_view = p.divisor(), p.pick((False, True))

    def compute(s: Any, x: Tensor, y: Tensor) -> Tensor:
        x = F.relu(s.first(x))
        if by_view:
            n, c, h, w = x.shape
            x = x.view(n, s.groups, c // s.groups, h, w).transpose(1, 2).reshape(n, c, h, w)
        else:
            x = F.channel_shuffle(x, s.groups)
        return s.second(x)

    parts = {n: nn.Conv2d(p.c, p.c, 1, groups=groups) for n in ("first", "second")}
    return Block(compute, p.c, groups=groups, **parts)


def norm(p: Place) -> Block:
    made = p.pick(
        (
            nn.BatchNorm2d(p.c),
            nn.GroupNorm(p.divisor(), p.c),
            nn.InstanceNorm2d(p.c, affine=True, track_running_stats=True),
            nn.GroupNorm(1, p.c),
            nn.BatchNorm2d(p.c, affine=False),
        )
    )
    act = p.activation()
    return Block(lambda s, x, y: act(s.norm(x)), p.c, norm=made)


def channels_last(p: Place) -> Block:
    """A ConvNeXt block."""
    hidden = p.size()

    def compute(s: Any, x: Tensor, y: Tensor) -> Tensor:
        h = s.norm(s.depthwise(x).permute(0, 2, 3, 1))
        return x + (s.gamma * s.down(F.gelu(s.up(h)))).permute(0, 3, 1, 2)

    parts: dict[str, Any] = {"depthwise": nn.Conv2d(p.c, p.c, 3, padding=1, groups=p.c)}
    parts |= {"norm": nn.LayerNorm(p.c), "up": nn.Linear(p.c, hidden)}
    return Block(compute, p.c, down=nn.Linear(hidden, p.c), gamma=weight(p.c), **parts)


def activation(p: Place) -> Block:
    if p.pick((True, False)):
        return Block(lambda s, x, y: s.act(x), p.c, act=nn.PReLU(p.c))
    return Block(lambda s, x, y: s.drop(x), p.c, drop=nn.Dropout2d(0.3))


def residual(p: Place) -> Block:
    hidden = p.size()
    body = nn.Sequential(
        nn.Conv2d(p.c, hidden, 3, padding=1, bias=False),
        nn.BatchNorm2d(hidden),
        nn.ReLU(inplace=True),
        nn.Conv2d(hidden, p.c, 1),
    )
    return Block(lambda s, x, y: F.relu(x + s.body(x)), p.c, body=body)


def squeeze_excite(p: Place) -> Block:
    hidden = p.size()
    parts = {"down": nn.Linear(p.c, hidden), "up": nn.Linear(hidden, p.c)}

    def compute(s: Any, x: Tensor, y: Tensor) -> Tensor:
        n, c = x.shape[:2]
        g = torch.sigmoid(s.up(F.relu(s.down(F.adaptive_avg_pool2d(x, 1).view(n, c)))))
        return x * (g.view(n, c, 1, 1) if spread else g[:, :, None, None].expand_as(x))

    spread = p.pick((True, False))
    return Block(compute, p.c, **parts)


def response_norm(p: Place) -> Block:
    """ConvNeXt v2's: each channel's energy over the mean of all."""

    def compute(s: Any, x: Tensor, y: Tensor) -> Tensor:
        energy = torch.linalg.vector_norm(x, dim=(2, 3), keepdim=True)
        return x + s.gain * x * energy / (energy.mean(1, keepdim=True) + 1e-3)

    return Block(compute, p.c, gain=weight(1, p.c, 1, 1))


def pixels(p: Place) -> Block | None:
    """Channels into space and back."""
    h, w = p.space
    if p.pick((True, False)):
        if h % 2 or w % 2:
            return None
        return Block(lambda s, x, y: F.pixel_unshuffle(x, 2), 4 * p.c, (h // 2, w // 2))
    if p.c % 4 or h > 4:
        return None
    return Block(lambda s, x, y: F.pixel_shuffle(x, 2), p.c // 4, (2 * h, 2 * w))


def windows(p: Place) -> Block | None:
    """Taken apart into windows and put together again, or mixed window by window."""
    h, w = p.space
    if h % 2 or w % 2:
        return None
    if p.pick((True, False)):
        return Block(
            lambda s, x, y: F.fold(torch.tanh(F.unfold(x, 2, stride=2)), (h, w), 2, stride=2), p.c
        )
    fc, half = nn.Linear(4 * p.c, 7), (h // 2, w // 2)

    def compute(s: Any, x: Tensor, y: Tensor) -> Tensor:
        patches = F.unfold(x, 2, stride=2).transpose(1, 2)
        return torch.tanh(s.fc(patches)).transpose(1, 2).unflatten(2, half)

    return Block(compute, 7, half, fc=fc)


def resize(p: Place) -> Block:
    h, w = p.space
    out = p.size()
    double, half = (2 * h, 2 * w), (h // 2, w // 2)
    options: list[Any] = []
    if h <= 4:
        up = nn.ConvTranspose2d(p.c, out, 2, stride=2)
        grouped_up = nn.ConvTranspose2d(p.c, 2 * p.c, 2, stride=2, groups=p.divisor())
        options += [
            (lambda s, x, y: s.up(x), out, double, {"up": up}),
            (lambda s, x, y: s.up(x), 2 * p.c, double, {"up": grouped_up}),
            (lambda s, x, y: F.interpolate(x, scale_factor=2), p.c, double, {}),
            (lambda s, x, y: F.interpolate(x, (3, 3), mode="bilinear"), p.c, (3, 3), {}),
        ]
    if h > 2:
        options += [
            (lambda s, x, y: F.max_pool2d(x, 2), p.c, half, {}),
            (lambda s, x, y: F.avg_pool2d(x, 2), p.c, half, {}),
            (lambda s, x, y: F.adaptive_max_pool2d(x, 2), p.c, (2, 2), {}),
            (lambda s, x, y: x[:, :, ::2, 1:], p.c, ((h + 1) // 2, w - 1), {}),
        ]
    how, channels, space, parts = p.pick(options)
    return Block(how, channels, space, **parts)


def combine(p: Place) -> Block:
    other = p.earlier()
    into = p.shapes[other].channels
    join = p.pick((torch.add, torch.mul, torch.maximum, torch.sub))
    fit = nn.Identity() if into == p.c else nn.Conv2d(into, p.c, 1)
    return Block(lambda s, x, y: join(x, s.fit(y)), p.c, other=other, fit=fit)


def concatenate(p: Place) -> Block:
    other = p.earlier()
    first, out = p.pick((True, False)), p.c + p.shapes[other].channels
    return Block(lambda s, x, y: torch.cat((x, y) if first else (y, x), 1), out, other=other)


def split_and_mix(p: Place) -> Block | None:
    """ShuffleNet v2: a part goes through a layer, and the halves may be shuffled."""
    if p.c < 4:
        return None
    k = p.pick((p.c // 2, p.c // 3))
    shuffled = p.pick((True, False)) and p.c % 2 == 0

    def compute(s: Any, x: Tensor, y: Tensor) -> Tensor:
        a, b = x[:, : s.k], x[:, s.k :]
        x = torch.cat((a, s.norm(s.conv(b))), 1)
        return F.channel_shuffle(x, 2) if shuffled else x

    rest = p.c - k
    return Block(compute, p.c, k=k, conv=nn.Conv2d(rest, rest, 1), norm=nn.BatchNorm2d(rest))


def gate(p: Place) -> Block:
    """Channels compared, gated or pooled."""
    options = [
        (lambda x: x.softmax(1), p.c),
        (lambda x: x * x.mean(1, keepdim=True), p.c),
        (lambda x: torch.cat((x.mean(1, keepdim=True), x.amax(1, keepdim=True), x), 1), p.c + 2),
        (lambda x: F.normalize(x, dim=1), p.c),
        (lambda x: x * x.sum(1, keepdim=True).sigmoid(), p.c),
    ]
    if p.c % 2 == 0:
        options += [(lambda x: F.glu(x, 1), p.c // 2)]
    how, out = p.pick(options)
    return Block(lambda s, x, y: how(x), out)


def space_attention(p: Place) -> Block:
    """Pixels attend to pixels, with flattened space."""

    def compute(s: Any, x: Tensor, y: Tensor) -> Tensor:
        q, k, v = s.qkv(x).flatten(2).chunk(3, 1)
        scores = torch.bmm(q.transpose(1, 2), k).softmax(-1)
        return x + s.proj(torch.bmm(v, scores.transpose(1, 2)).view(-1, s.inner, *x.shape[2:]))

    qkv, proj = nn.Conv2d(p.c, 18, 1), nn.Conv2d(6, p.c, 1)
    return Block(compute, p.c, qkv=qkv, proj=proj, inner=6)


def to_sequence(p: Place) -> Block:
    how = p.pick(
        (
            lambda x: x.flatten(2).transpose(1, 2),
            lambda x: x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, x.shape[1]),
        )
    )
    space = (p.space[0] * p.space[1],)
    return Block(lambda s, x, y: how(x), p.c, space, "sequence")


def to_vector(p: Place) -> Block:
    wide = p.c * p.space[0] * p.space[1]
    how, out = p.pick(
        (
            (lambda x: x.mean((2, 3)), p.c),
            (lambda x: x.flatten(1), wide),
            (lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1), p.c),
            (lambda x: x.amax((2, 3)), p.c),
            (lambda x: x.permute(0, 2, 3, 1).flatten(1), wide),
            (lambda x: x.view(x.shape[0], -1), wide),
        )
    )
    return Block(lambda s, x, y: how(x), out, (), "vector")


IMAGES: tuple[Step, ...] = (
    convolution, grouped, grouped_shuffle, norm, channels_last, activation, residual,
    squeeze_excite, response_norm, pixels, windows, resize, combine, concatenate, split_and_mix,
    gate, space_attention, to_sequence, to_vector,
)  # fmt: skip
