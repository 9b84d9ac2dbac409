"""Networks of one trait that the test set of `nets` has no need of, for the broken rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nets import net

Compute = Callable[[Any, Tensor], Tensor]
Build = Callable[[], tuple[nn.Module, Tensor]]


class Tiny(nn.Module):
    """A function of one input over a few layers."""

    def __init__(self, compute: Compute, **parts: Any) -> None:
        super().__init__()
        self.compute = compute
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.compute(self, x)


def network(name: str) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    """(model, args, kwargs) of a network of TINY or of `nets`, the same every time."""
    torch.manual_seed(0)
    if name in TINY:
        model, x = TINY[name]()
        return model, (x,), {}
    described = net(name)
    model = described.build()
    return model, *described.example()


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape) / shape[0] ** 0.5)


def between(operator: Callable[[Tensor], Tensor], made: int = 8, wide: int = 8) -> Build:
    """An operator between two layers."""

    def build() -> tuple[nn.Module, Tensor]:
        first, last = nn.Linear(5, wide), nn.Linear(made, 3)
        return Tiny(lambda s, x: s.last(operator(s.first(x))), first=first, last=last), rows()

    return build


def of_two(operator: Callable[[Tensor, Tensor], Tensor], made: int = 8) -> Build:
    """An operator on the results of two layers."""

    def build() -> tuple[nn.Module, Tensor]:
        layers = {"a": nn.Linear(5, 8), "b": nn.Linear(5, 8), "last": nn.Linear(made, 3)}
        return Tiny(lambda s, x: s.last(operator(s.a(x), torch.tanh(s.b(x)))), **layers), rows()

    return build


def built(shape: tuple[int, ...], compute: Compute, parts: Callable[[], dict[str, Any]]) -> Build:
    return lambda: (Tiny(compute, **parts()), torch.randn(shape))


def rows() -> Tensor:
    return torch.randn(3, 5)


def _self_attention(s: Any, x: Tensor) -> Tensor:
    q, k, v = (f(x).unflatten(-1, (3, 4)).transpose(1, 2) for f in (s.q, s.k, s.v))
    return s.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def _square_heads(move: Callable[[Tensor], Tensor]) -> Compute:
    def compute(s: Any, x: Tensor) -> Tensor:
        x = move(s.first(x).unflatten(-1, (4, 4)))
        return s.last((x * s.gain.unsqueeze(-1)).flatten(-2))

    return compute


def _heads_parts() -> dict[str, Any]:
    return {"first": nn.Linear(5, 16), "gain": weight(4), "last": nn.Linear(16, 3)}


def _features_by_features(s: Any, x: Tensor) -> Tensor:
    scores = torch.bmm(s.a(x).transpose(1, 2), s.b(x))  # N, features of a, features of b
    return (scores * s.gain).sum(1)


def _attention_parts() -> dict[str, Any]:
    layers = {name: nn.Linear(5, 12, bias=name != "v") for name in ("q", "k", "v")}
    return layers | {"out": nn.Linear(12, 3)}


def _layers(**shapes: tuple[int, int]) -> Callable[[], dict[str, Any]]:
    return lambda: {name: nn.Linear(*shape) for name, shape in shapes.items()}


TINY: dict[str, Build] = {
    "masked_rows": of_two(lambda a, b: a.masked_scatter((a[:, :1] > 0).expand_as(a), b)),
    "errors": of_two(lambda a, b: F.smooth_l1_loss(a, b, reduction="none")),
    "class_errors": built(
        (3, 8, 5),
        lambda s, x: s.last(F.cross_entropy(s.first(x), s.other(x).softmax(1), reduction="none")),
        _layers(first=(5, 8), other=(5, 8), last=(8, 3)),
    ),
    "kron": of_two(lambda a, b: torch.kron(a[:1], b[:1]).expand(3, -1), 64),
    "alike": of_two(lambda a, b: a * F.cosine_similarity(a, b).unsqueeze(-1)),
    "dotted": built(
        (3, 5),
        lambda s, x: s.last(torch.tensordot(torch.tanh(s.first(x)), s.core, 1)),
        lambda: {"first": nn.Linear(5, 8), "core": weight(8, 6), "last": nn.Linear(6, 3)},
    ),
    "diagonal_of_square": built(
        (3, 5),
        lambda s, x: s.last(s.first(x) * torch.diagonal(s.core)),
        lambda: {"first": nn.Linear(5, 8), "core": weight(8, 8), "last": nn.Linear(8, 3)},
    ),
    "difference": of_two(torch.sub),
    "where": of_two(lambda a, b: torch.where(b > 0, a, b)),
    "lerp": of_two(lambda a, b: torch.lerp(a, b, 0.3)),
    "two_halves": of_two(lambda a, b: torch.cat((a, b), -1), 16),
    "stack": of_two(lambda a, b: torch.stack((a, b), -1).flatten(1), 16),
    "square": built(
        (3, 5),
        lambda s, x: s.last(torch.tanh(s.mid(torch.tanh(s.first(x))))),
        _layers(first=(5, 8), mid=(8, 8), last=(8, 3)),
    ),
    "turned_square": built(
        (3, 5),
        lambda s, x: s.last(F.linear(torch.tanh(s.first(x)), s.mid.weight.t())),
        _layers(first=(5, 8), mid=(8, 8), last=(8, 3)),
    ),
    "features_by_features": built(
        (3, 6, 5),
        _features_by_features,
        lambda: {"a": nn.Linear(5, 8), "b": nn.Linear(5, 8), "gain": weight(8, 1)},
    ),
    "addmm": built(
        (3, 5),
        lambda s, x: s.last(torch.tanh(torch.addmm(s.bias, torch.tanh(s.first(x)), s.mid))),
        lambda: (
            {"first": nn.Linear(5, 8), "mid": weight(8, 6), "bias": weight(6)}
            | {"last": nn.Linear(6, 3)}
        ),
    ),
    "bilinear_square": built(
        (3, 5),
        lambda s, x: s.last(s.mid(torch.tanh(s.a(x)), torch.tanh(s.b(x)))),
        lambda: _layers(a=(5, 8), b=(5, 8), last=(4, 3))() | {"mid": nn.Bilinear(8, 8, 4)},
    ),
    "einsum_square": built(
        (3, 5),
        lambda s, x: torch.einsum("nhd,hdo->no", torch.einsum("nc,chd->nhd", x, s.w), s.out),
        lambda: {"w": weight(5, 4, 4), "out": weight(4, 4, 3)},
    ),
    "attention": built((3, 6, 5), _self_attention, _attention_parts),
    "square_transposed": built(
        (3, 3, 4, 4),
        lambda s, x: s.last(F.relu(s.up(F.relu(s.first(x))))),
        lambda: (
            {"first": nn.Conv2d(3, 8, 1), "up": nn.ConvTranspose2d(8, 8, 2, 2)}
            | {"last": nn.Conv2d(8, 2, 1)}
        ),
    ),
    "grouped_transposed": built(
        (3, 3, 4, 4),
        lambda s, x: s.last(F.relu(s.up(F.relu(s.first(x))))),
        lambda: (
            {"first": nn.Conv2d(3, 9, 1), "up": nn.ConvTranspose2d(9, 6, 2, 2, groups=3)}
            | {"last": nn.Conv2d(6, 2, 1)}
        ),
    ),
    "rms_norm": built(
        (3, 5),
        lambda s, x: s.last(s.norm(s.first(x))),
        lambda: _layers(first=(5, 8), last=(8, 3))() | {"norm": nn.RMSNorm(8)},
    ),
    "mean_of_square": built(
        (3, 8, 5), lambda s, x: s.last(s.first(x).mean(1)), _layers(first=(5, 8), last=(8, 3))
    ),
    "argmax": between(lambda x: x * x.argmax(-1, keepdim=True)),
    "cumsum": between(lambda x: x.cumsum(-1)),
    "roll": between(lambda x: x.roll(1, -1)),
    "flip": between(lambda x: x.flip(-1)),
    "sort": between(lambda x: x.sort(-1).values),
    "topk": between(lambda x: x.topk(4, -1).values, 4),
    "diff": between(lambda x: x.diff(dim=-1), 7),
    "tril": built(
        (3, 6, 5),
        lambda s, x: s.last((s.first(x).transpose(1, 2) @ s.first(x)).tril().sum(1)),
        _layers(first=(5, 8), last=(8, 3)),
    ),
    "permuted_square": built((3, 5), _square_heads(lambda x: x.permute(0, 2, 1)), _heads_parts),
    "transposed_square": built((3, 5), _square_heads(lambda x: x.transpose(1, 2)), _heads_parts),
    "movedim": built((3, 5), _square_heads(lambda x: x.movedim(1, 2)), _heads_parts),
    "repeat": between(lambda x: x.repeat(1, 2), 16),
    "interleave": between(lambda x: x.repeat_interleave(2, -1), 16),
    "chunked": between(lambda x: torch.tanh(x.chunk(2, -1)[0]), 4),
    "select": between(lambda x: x * x[..., 0:1] + x.select(-1, 2).unsqueeze(-1)),
    "last_half": between(lambda x: x[..., 4:], 4),
    "first_half": between(lambda x: x[..., :4], 4),
    "every_other": between(lambda x: x[..., ::2], 4),
    "padded": between(lambda x: F.pad(x, (1, 2)), 11),
    "unfold": between(lambda x: x.unfold(-1, 3, 1).mean(-1), 6),
    "index": between(lambda x: x[:, [4, 0, 2]], 3),
    "index_select": between(lambda x: x.index_select(-1, torch.tensor([4, 0, 2])), 3),
    "gather_features": between(lambda x: x.gather(-1, (x > 0).long())),
    "gather_rows": built(
        (3, 4, 5),
        lambda s, x: s.last(s.a(x).gather(1, (s.b(x) > 0).long())),
        _layers(a=(5, 8), b=(5, 8), last=(8, 3)),
    ),
    "scattered": between(lambda x: x.scatter(-1, (x > 0).long(), x.square())),
    "scatter_rows": of_two(lambda a, b: a.scatter_add(0, (a > 0).long(), b)),
    "index_add": of_two(lambda a, b: a.index_add(0, torch.tensor([0, 1]), b[1:3])),
    "index_copy": of_two(lambda a, b: a.index_copy(1, torch.tensor([0, 5]), b[:, 1:3])),
    "index_put": of_two(lambda a, b: a.index_put((torch.tensor([0, 1]),), b[1:3])),
    "fourier": between(lambda x: torch.fft.rfft(x).abs(), 5),
    "windows": built(
        (3, 3, 4, 4),
        lambda s, x: s.last(F.unfold(s.first(x), 2, stride=2).transpose(1, 2)),
        lambda: {"first": nn.Conv2d(3, 8, 1), "last": nn.Linear(32, 3)},
    ),
    "folded": built(
        (3, 5),
        lambda s, x: s.last(F.fold(s.first(x).view(-1, 20, 4), (4, 4), 2, stride=2)),
        lambda: {"first": nn.Linear(5, 80), "last": nn.Conv2d(5, 3, 1)},
    ),
    "arange": between(lambda x: x * torch.arange(8)),
    "square_table": lambda: (
        nn.Sequential(nn.Embedding(8, 8), nn.Linear(8, 3)),
        torch.randint(0, 8, (3, 5)),
    ),
    "rnn": built(
        (3, 4, 5),
        lambda s, x: s.last(s.rnn(x)[0]),
        lambda: {"rnn": nn.RNN(5, 8, batch_first=True), "last": nn.Linear(8, 3)},
    ),
    "gru_cell": built(
        (3, 5),
        lambda s, x: s.last(s.cell(x, s.start(x))),
        lambda: {"cell": nn.GRUCell(5, 8), "start": nn.Linear(5, 8), "last": nn.Linear(8, 3)},
    ),
}
