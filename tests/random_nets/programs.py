"""Steps that are programs rather than layers: what a recorded graph is prone to get wrong.

Control flow on sizes, regions without gradients, checkpoints, norms that are called twice,
Functions with a backward of their own, hooks, writes in place, state that forward writes to,
optional arguments.
Each works on images (N, C, H, W), sequences (N, L, C) and vectors (N, C).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from random_nets.block import Block, Place, Step, weight
from random_nets.functions import FUNCTIONS, Sign


def _layer(p: Place) -> nn.Module:
    """A layer from the channels to as many."""
    return nn.Conv2d(p.c, p.c, 1) if p.shape.kind == "image" else nn.Linear(p.c, p.c)


def _by_channel(p: Place, x: Tensor) -> Tensor:
    """A vector of channels, shaped so that it is broadcast over the value."""
    return x.view(-1, 1, 1) if p.shape.kind == "image" else x


def _mean(p: Place, x: Tensor) -> Tensor:
    """The mean of every channel."""
    return x.mean(
        [d for d in range(x.dim()) if d != (1 if p.shape.kind == "image" else x.dim() - 1)]
    )


def size_branch(p: Place) -> Block:
    """A branch, a number or a loop that the sizes decide."""

    def odd(x: Tensor) -> Tensor:
        return torch.tanh(x) if x.shape[0] % 2 else 2 * x

    def many(x: Tensor) -> Tensor:
        return x - x.mean(0) if len(x) > 3 else x

    def mean_by_hand(x: Tensor) -> Tensor:
        return x - x.sum(0) / len(x)

    def loop(x: Tensor) -> Tensor:
        for row in range(x.size(0)):
            x = x * (1 + 0.1 * row)
        return x

    def long(x: Tensor) -> Tensor:
        return x[:, -5:] if x.dim() == 3 and x.size(1) > 5 else x

    def padded(x: Tensor) -> Tensor:
        return F.pad(x, (0, 0, 0, 1)) if x.dim() == 3 and x.size(1) % 2 == 0 else x

    def as_int(x: Tensor) -> Tensor:
        return x / int(x.size(1 if x.dim() == 3 else 0)) ** 0.5

    def pooled(x: Tensor) -> Tensor:
        longest = F.max_pool1d(x.transpose(1, 2), x.size(1)) if x.dim() == 3 else x.unsqueeze(-1)
        return x * torch.sigmoid(longest.transpose(1, 2)) if x.dim() == 3 else longest.squeeze(-1)

    def binned(x: Tensor) -> Tensor:
        if x.dim() != 3:
            return x
        means = F.adaptive_avg_pool1d(x.transpose(1, 2), (x.size(1) + 1) // 2)
        return x - F.interpolate(means, size=x.size(1)).transpose(1, 2)

    def rounded(x: Tensor) -> Tensor:
        return x - x[: max(1, round(len(x) * 0.5))].mean(0) + x[: math.ceil(len(x) / 3)].mean(0)

    how = p.pick((odd, many, mean_by_hand, loop, long, padded, as_int, pooled, binned, rounded))
    space = None
    if how is padded and p.shape.kind == "sequence":
        space = (p.space[0] + 1 - p.space[0] % 2,)
    return Block(lambda s, x, y: how(x), p.c, space)


def without_gradients(p: Place) -> Block:
    """A part of the network that nothing is learnt through."""
    layer = _layer(p)
    frozen = p.pick((False, True))
    if frozen:
        layer.requires_grad_(False)

    def no_grad(s: Any, x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            target = torch.sigmoid(s.layer(x))
        return x * target

    def switched(s: Any, x: Tensor, y: Tensor) -> Tensor:
        before = torch.is_grad_enabled()
        torch.set_grad_enabled(False)
        h = s.layer(x)
        torch.set_grad_enabled(before)
        return h + x

    @torch.no_grad()
    def decorated(s: Any, x: Tensor) -> Tensor:
        return torch.tanh(s.layer(x))

    def inference(s: Any, x: Tensor, y: Tensor) -> Tensor:
        with torch.inference_mode():
            h = s.layer(x)
        return x + h

    def enabled_inside(s: Any, x: Tensor, y: Tensor) -> Tensor:
        with torch.set_grad_enabled(False):
            h = s.layer(x)
            with torch.enable_grad():
                z = torch.tanh(s.layer(x))
        return h + z

    def while_training(s: Any, x: Tensor, y: Tensor) -> Tensor:
        with torch.set_grad_enabled(s.training and torch.is_grad_enabled()):
            return torch.tanh(s.layer(x))

    def detached_later(s: Any, x: Tensor, y: Tensor) -> Tensor:
        h = s.layer(x)
        return h + x if s.training else h.detach() + x

    how = p.pick(
        (
            no_grad,
            while_training,
            detached_later,
            switched,
            lambda s, x, y: x + decorated(s, x),
            lambda s, x, y: x + s.layer(x.detach()),
            lambda s, x, y: s.layer(x) + (torch.round(x) - x).detach(),
            lambda s, x, y: F.linear(x, s.fixed.detach() * s.gain),
            enabled_inside,
            inference,
        )
        if p.shape.kind != "image"
        else (
            no_grad,
            while_training,
            detached_later,
            switched,
            lambda s, x, y: x + decorated(s, x),
            enabled_inside,
        )
    )
    parts = {"layer": layer, "fixed": weight(p.c, p.c), "gain": nn.Parameter(torch.rand(p.c, 1))}
    return Block(how, p.c, **(parts if p.shape.kind != "image" else {"layer": layer}))


def checkpointed(p: Place) -> Block:
    """A part of the network that is computed again for the gradients."""

    def part(s: Any, x: Tensor) -> Tensor:
        return torch.tanh(s.fc(x))

    how = p.pick(
        (
            lambda s, x, y: checkpoint(part, s, x, use_reentrant=True),
            lambda s, x, y: checkpoint(part, s, x, use_reentrant=False),
            lambda s, x, y: checkpoint(lambda a, b: s.fc(a) * b, x, x.detach(), use_reentrant=True),
            lambda s, x, y: checkpoint_sequential(s.layers, 2, x, use_reentrant=True),
        )
    )
    fc = _layer(p)
    return Block(how, p.c, fc=fc, layers=nn.Sequential(fc, nn.ReLU(), _layer(p), nn.Tanh()))


def shared_norm(p: Place) -> Block:
    """One norm, called twice."""
    kind = p.shape.kind
    batch = nn.BatchNorm2d if kind == "image" else nn.BatchNorm1d
    options = p.pick(({}, {"momentum": None}, {"affine": False}, {"track_running_stats": False}))
    group = nn.GroupNorm(1, p.c)
    layer = nn.LayerNorm(p.c) if kind != "image" else group
    norm = p.pick((batch(p.c, **options), batch(p.c, **options), layer))
    flip = kind == "sequence" and norm is not layer

    def normed(s: Any, x: Tensor) -> Tensor:
        return s.norm(x.transpose(1, 2)).transpose(1, 2) if flip else s.norm(x)

    how = p.pick(
        (
            lambda s, x, y: normed(s, x) + normed(s, torch.tanh(s.fc(x))),
            lambda s, x, y: normed(s, normed(s, x)),
            lambda s, x, y: torch.maximum(normed(s, s.fc(x)), normed(s, x)),
        )
    )
    return Block(how, p.c, norm=norm, fc=_layer(p))


def own_function(p: Place) -> Block:
    """An autograd.Function with a backward of its own, on features or on weights."""
    function = p.pick(FUNCTIONS)
    if p.shape.kind == "image":
        return Block(lambda s, x, y: s.fc(function(x)), p.c, fc=_layer(p))
    how = p.pick(
        (
            lambda s, x, y: s.fc(function(x)),
            lambda s, x, y: function(s.fc(x)),
            lambda s, x, y: F.linear(x, Sign.apply(s.w), s.fc.bias),
        )
    )
    return Block(how, p.c, fc=_layer(p), w=weight(p.c, p.c))


def _doubled(grads: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    return tuple(None if g is None else 2 * g for g in grads)


def hooked(p: Place) -> Block:
    """Hooks on tensors and modules."""
    fc = _layer(p)

    def on_tensor(s: Any, x: Tensor, y: Tensor) -> Tensor:
        h = s.fc(x)
        if h.requires_grad:
            h.register_hook(lambda g: 0.5 * g)
        return h

    how = p.pick(("tensor", "forward", "before", "backward", "parameter"))
    if how == "forward":
        fc.register_forward_hook(lambda m, args, out: out.tanh())
    if how == "before":
        fc.register_forward_pre_hook(lambda m, args: (args[0] * 0.5,))
    if how == "backward":
        fc.register_full_backward_hook(lambda m, grads, out: _doubled(grads))
    if how == "parameter":
        fc.weight.register_hook(lambda g: 3 * g)
    plain: Callable[[Any, Tensor, Tensor], Tensor] = lambda s, x, y: s.fc(x)  # noqa: E731
    return Block(on_tensor if how == "tensor" else plain, p.c, fc=fc)


def in_place(p: Place) -> Block:
    """Writes to what a layer made, or to the value itself."""

    def relu(x: Tensor) -> Tensor:
        return F.relu_(x)

    def added(x: Tensor) -> Tensor:
        x += 1
        x.mul_(0.5)
        return x

    def first_row(x: Tensor) -> Tensor:
        x[0] = 0.25
        return x

    def part(x: Tensor) -> Tensor:
        x[..., 1:] += x[..., :-1] * 0.5
        return x

    def masked(x: Tensor) -> Tensor:
        return x.masked_fill_(x > 1, 0.5)

    def rows(x: Tensor) -> Tensor:
        x[x < -1] = -1
        return x

    def through_a_view(x: Tensor) -> Tensor:
        view = x.view(x.shape)
        view.clamp_(-1, 1)
        return x

    how = p.pick((relu, added, first_row, part, masked, rows, through_a_view))
    on_value = p.pick((False, False, True))
    keeps = p.pick((False, True))
    if on_value:
        return Block(lambda s, x, y: how(x), p.c)
    if keeps:  # what was written to is used under its old name as well

        def twice(s: Any, x: Tensor, y: Tensor) -> Tensor:
            h = s.fc(x)
            changed = how(h)
            return h + changed

        return Block(twice, p.c, fc=_layer(p))
    return Block(lambda s, x, y: how(s.fc(x)), p.c, fc=_layer(p))


def written_state(p: Place) -> Block:
    """Buffers and attributes that forward writes to."""

    def counted(s: Any, x: Tensor, y: Tensor) -> Tensor:
        s.count += 1
        return x / s.count

    def mean_of_training(s: Any, x: Tensor, y: Tensor) -> Tensor:
        if s.training:
            with torch.no_grad():
                s.mean.mul_(0.9).add_(_mean(p, x), alpha=0.1)
        return x - _by_channel(p, s.mean)

    def assigned(s: Any, x: Tensor, y: Tensor) -> Tensor:
        s.mean = 0.5 * s.mean + 0.5 * _mean(p, x).detach()
        return x - _by_channel(p, s.mean)

    def copied(s: Any, x: Tensor, y: Tensor) -> Tensor:
        out = x + _by_channel(p, s.mean)
        s.mean.copy_(_mean(p, x).detach())
        return out

    def cached(s: Any, x: Tensor, y: Tensor) -> Tensor:
        if s.seen != x.shape:
            s.seen, s.table = x.shape, torch.linspace(0, 1, x.shape[0], dtype=torch.float64)
        return x * (1 + s.table.view(-1, *[1] * (x.dim() - 1)))

    def calls(s: Any, x: Tensor, y: Tensor) -> Tensor:
        s.calls += 1
        return x * s.calls

    def flattened(s: Any, x: Tensor, y: Tensor) -> Tensor:
        flat = x.flatten(1)
        if s.training:
            with torch.no_grad():
                s.flat[0].lerp_(flat.mean(0), 0.1)
        return (flat - s.flat[0]).view(x.shape)

    how = p.pick((counted, mean_of_training, assigned, copied, cached, calls, flattened))
    parts = {
        "count": torch.zeros((), dtype=torch.long),
        "mean": torch.zeros(p.c),
        "flat": torch.zeros(2, p.c * math.prod(p.space)),
    }
    return Block(how, p.c, seen=None, calls=0, **parts)


def noise(p: Place) -> Block:
    """Random numbers, drawn in the ways that there are."""
    how = p.pick(
        (
            lambda x: x + 0.1 * torch.randn_like(x),
            lambda x: x * torch.rand(x.shape[0], *[1] * (x.dim() - 1)),
            lambda x: x * torch.empty_like(x).bernoulli_(0.7),
            lambda x: x + x.detach().clone().normal_() * 0.1,
            lambda x: x * torch.bernoulli(torch.full_like(x, 0.5)),
            lambda x: x + torch.empty_like(x).uniform_(-0.1, 0.1),
        )
    )
    return Block(lambda s, x, y: how(x) if s.training else x, p.c)


def optional(p: Place) -> Block:
    """Optional arguments of forward, used here."""

    def gated(
        s: Any, x: Tensor, y: Tensor, gate: Tensor | None, strength: float, flip: bool
    ) -> Any:
        if gate is not None:
            x = x * gate.view(-1, *[1] * (x.dim() - 1))
        return -x if flip else x * strength

    def chosen(
        s: Any, x: Tensor, y: Tensor, gate: Tensor | None, strength: float, flip: bool
    ) -> Any:
        return s.fc(x) if gate is None or flip else x + gate.mean()

    return Block(p.pick((gated, chosen)), p.c, takes_arguments=True, fc=_layer(p))


PROGRAMS: tuple[Step, ...] = (
    size_branch, without_gradients, checkpointed, shared_norm, own_function, hooked, in_place,
    written_state, noise, optional,
)  # fmt: skip
