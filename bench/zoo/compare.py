"""Running two networks alike and saying how far apart they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

import widthwise as ww
from widthwise.graph.slicing import layout, positions


def randomise(model: nn.Module) -> None:
    """Ones and zeros of fresh norms and biases would hide mistakes.

    Matrices get a variance that keeps activations at about unit scale, however deep the network.
    """
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() > 1 and p.numel():
                p.normal_(std=float(p[0].numel()) ** -0.5)
            else:
                p.add_(0.1 * torch.randn_like(p))
        for name, b in model.named_buffers():
            if name.endswith("running_var"):
                b.add_(torch.rand_like(b))
            elif name.endswith("running_mean"):
                b.add_(0.1 * torch.randn_like(b))


def run(module: Callable[..., Any], args: Any, kwargs: Any, **more: Any) -> list[Tensor]:
    """The output tensors of one call, without gradients and with the same chance every time."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        outputs = module(*args, **kwargs, **more)
    return [t for t in pytree.tree_leaves(outputs) if isinstance(t, Tensor)]


def difference(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """The largest difference, relative to the largest entry of its output; inf for other shapes."""
    if len(ours) != len(theirs):
        return float("inf")
    return max((_apart(a, b) for a, b in zip(ours, theirs, strict=True)), default=0.0)


def _apart(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape or a.dtype != b.dtype:
        return float("inf")
    finite = b.isfinite()
    others = ~finite
    if not torch.equal(a.isfinite(), finite) or not _same(a[others], b[others]):
        return float("inf")
    if not bool(finite.any()):
        return float("inf") if b.numel() else 0.0  # nothing to compare: no proof of anything
    a, b = a[finite].double(), b[finite].double()
    scale = float(b.abs().max())
    apart = float((a - b).abs().max())
    return apart / scale if scale else apart


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether infinities and what is not a number are the same."""
    return torch.equal(torch.nan_to_num(a), torch.nan_to_num(b))


def random_widths(net: ww.Elastic, seed: int, *, zeroable: bool = False) -> ww.Widths:
    """A random width for every axis, inner axes too.

    zeroable: only axes where a cut feature is the same as a zero; the others stay full.
    """
    g = torch.Generator().manual_seed(seed)
    return ww.Widths(
        {
            name: int(torch.randint(1, axis.size + 1, (1,), generator=g))
            for name, axis in net.free.items()
            if not (zeroable and axis.normalised)
        }
    )


@contextmanager
def zeroed(net: ww.Elastic, widths: ww.Widths) -> Iterator[None]:
    """The full network with zeros, for a while, in all parameters wherever the cut one has nothing.

    Buffers stay: nothing reads what they make then, and a zero may be no value for them (a period).
    """
    full = net.complete(widths)
    kept = {f: full[axis] for f, axis in net.engine.table.of.items()}
    saved = {n: t.detach().clone() for n, t in net.engine.state().items()}
    with torch.no_grad():
        try:
            for name, tensor in net.model.named_parameters(remove_duplicate=False):
                if tensor.is_floating_point():
                    _zero(tensor, net.engine.relations.state.get(name, ()), kept)
            yield
        finally:
            for name, tensor in net.engine.state().items():
                tensor.copy_(saved[name])


def _zero(tensor: Tensor, dims: Any, kept: Any) -> None:
    for d, term in enumerate(dims):
        gone = torch.ones(tensor.shape[d], dtype=torch.bool)
        gone[positions(layout(term, kept.__getitem__))] = False
        tensor.index_fill_(d, gone.nonzero().flatten(), 0.0)


@contextmanager
def kept_buffers(model: nn.Module) -> Iterator[None]:
    """Undo what a training step does to statistics."""
    saved = {name: b.detach().clone() for name, b in model.named_buffers()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, b in model.named_buffers():
                b.copy_(saved[name])
