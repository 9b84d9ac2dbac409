"""Slicing, once and for all: which entries of a dim are kept, and the part of a tensor they make.

A *layout* is a term with a kept count put in for every axis: a tuple of factors, outermost first,
each `(size, kept)`, where kept is a number (its first features), a tensor of positions (any
features), or for a sum the tuple of its parts' layouts. It holds plain values only, so it can
stand in a graph, with graph nodes for the counts.

    ((12, 6), (64, 64))         # the first 6 of 12 heads, all of the head size: 384 of 768
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from widthwise.graph.dims import Factor, Term, fully_fixed, resolve

Layout = tuple[tuple[int, Any], ...]


@dataclass(frozen=True)
class KeptDim:
    """What a cut keeps of one dim of a tensor, and by which number it multiplies what is kept."""

    dim: int
    layout: Layout
    scale: float


def layout(
    term: Term, kept: Callable[[Factor], Any], full: Callable[[Factor], int] | None = None
) -> Layout:
    """The layout of a term; `kept` gives a count (number or graph node) or positions for an axis.

    `full` gives the sizes of a tensor that has been cut already; by default the full ones.
    """
    return tuple(
        (count((f,), full) if full else f.size, tuple(layout(p, kept, full) for p in f.parts))
        if f.parts
        else (f.size, f.size)
        if f.fixed is not None
        else (full(f) if full else f.size, kept(f))
        for f in resolve(term)
    )


def count(term: Term, kept: Callable[[Factor], Any]) -> Any:
    """How many features of the term are kept; `kept` may give numbers or things that multiply."""
    total: Any = 1
    for f in resolve(term):
        if f.parts and not fully_fixed((f,)):
            value: Any = sum(count(p, kept) for p in f.parts)
        else:
            value = f.size if fully_fixed((f,)) else kept(f)
        total = value if isinstance(total, int) and total == 1 else total * value
    return total


def positions(spec: Layout) -> Tensor:
    """The kept entries of a dim, ascending within each factor, as int64 (kept,)."""
    found = torch.zeros(1, dtype=torch.int64)
    for full, kept in spec:
        inner = _kept(kept)
        found = (found.unsqueeze(1) * full + inner).flatten()
    return found


def _kept(kept: Any) -> Tensor:
    if isinstance(kept, Tensor):
        return kept
    if not isinstance(kept, tuple):
        return torch.arange(kept)
    pieces, offset = [], 0
    for part in kept:
        pieces.append(positions(part) + offset)
        offset += math.prod([f[0] for f in part])
    return torch.cat(pieces)


def simple(spec: Layout) -> bool:
    """Whether the kept entries are the first ones of the dim, so that slicing is a view."""
    return len(spec) == 1 and not isinstance(spec[0][1], (tuple, Tensor))


def part(tensor: Tensor, dims: tuple[tuple[int, Layout], ...]) -> Tensor:
    """The part of a tensor that the layouts of some of its dims keep.

    A view where every layout is simple, otherwise a copy. Gradients flow to the full tensor.
    """
    compiling = torch.compiler.is_compiling()
    if not compiling:
        # What is kept whole needs no slice, whose backward would fill and copy a full gradient.
        dims = tuple((d, s) for d, s in dims if not (simple(s) and s[0][0] == s[0][1]))
    learns = tensor.requires_grad and torch.is_grad_enabled()
    if learns and len(dims) > 1 and all(simple(s) for _, s in dims) and not compiling:
        cut: Tensor = _Prefix.apply(tensor, tuple((d, spec[0][1]) for d, spec in dims))
        return cut
    # A view of inner dims is contiguous at full width only, which would compile another graph;
    # buffers stay views, since operators write to them.
    copied = compiling and tensor.requires_grad
    for d, spec in dims:
        if simple(spec) and not (copied and d):
            tensor = tensor.narrow(d, 0, spec[0][1])
        else:
            tensor = tensor.index_select(d, positions(spec).to(tensor.device))
    return tensor


def put_back(tensor: Tensor, dims: tuple[tuple[int, Layout], ...], value: Tensor) -> None:
    """Write a part back where it came from; needed for copies that an operator updates in place."""
    with torch.no_grad():
        where: list[Any] = [slice(None)] * tensor.dim()
        grid = [d for d, _ in dims]
        index = torch.meshgrid(*(positions(s).to(tensor.device) for _, s in dims), indexing="ij")
        for d, i in zip(grid, index, strict=True):
            where[d] = i
        tensor[tuple(where)] = value


class _Prefix(torch.autograd.Function):
    """The leading block of a tensor.

    Chained slices would each allocate and zero a full-size gradient; this does it once.
    """

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, dims: tuple[tuple[int, int], ...]) -> Tensor:
        ctx.shape, ctx.dims = tensor.shape, dims
        return _narrow(tensor, dims)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        full = grad.new_zeros(ctx.shape)
        _narrow(full, ctx.dims).copy_(grad)
        return full, None


def _narrow(tensor: Tensor, dims: tuple[tuple[int, int], ...]) -> Tensor:
    for d, kept in dims:
        tensor = tensor.narrow(d, 0, kept)
    return tensor
