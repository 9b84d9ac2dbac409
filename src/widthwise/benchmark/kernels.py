"""Zeros that save time: linear layers as sparse products, where those are faster on this machine.

    fast, layers = run_sparse(module, (x,))      # a copy, and what was measured of each layer
    layers[0]                                    # Timed("fc1", 0.95, 0.31, 0.12, "csr")

Half of all weights being zero does not make a product faster: a sparse kernel reads an index beside
every weight, and a dense one is tuned to the processor. So nothing is assumed: every layer is timed
both ways, on the inputs that it gets.
"""

from __future__ import annotations

import copy
import functools
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from widthwise.benchmark.timing import fastest
from widthwise.common.modes import evaluating

Kernel = Literal["dense", "csr"]


class NothingFasterWarning(UserWarning):
    """Nothing runs faster here: no layer as a sparse product, or not the network in int8."""


@dataclass(frozen=True)
class Timed:
    """A linear layer measured both ways.

    name: of the layer in its network. sparsity: the share of its weights that are zero. dense_ms,
    csr_ms: the shortest time of one call, in milliseconds; infinite where torch has no sparse
    product of its type. chosen: what it runs on now.
    """

    name: str
    sparsity: float
    dense_ms: float
    csr_ms: float
    chosen: Kernel


class SparseLinear(nn.Module):
    """A linear layer that multiplies with the non-zeros of its weight only; for inference.

    linear: whose weight, of shape (out, in), has zeros. Buffers, not trained: rows (out + 1,) and
    columns (non-zeros,), int32, and values (non-zeros,) as in compressed sparse rows, and bias
    (out,) or None.
    """

    rows: Tensor
    columns: Tensor
    values: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach()
        held = weight != 0
        rows = torch.zeros(len(weight) + 1, dtype=torch.int32, device=weight.device)
        rows[1:] = held.sum(1).cumsum(0)
        self.register_buffer("rows", rows)
        self.register_buffer("columns", held.nonzero()[:, 1].to(torch.int32))
        self.register_buffer("values", weight[held])
        bias = None if linear.bias is None else linear.bias.detach().clone()
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) to (..., out)."""
        _hush()
        size = (self.out_features, self.in_features)
        weight = torch.sparse_csr_tensor(
            self.rows, self.columns, self.values, size, check_invariants=False
        )
        if x.numel() == self.in_features:
            out = weight @ x.reshape(-1)  # a vector: its kernel is the faster one
        else:
            out = (weight @ x.reshape(-1, self.in_features).t()).t()
        if self.bias is not None:
            out = out + self.bias
        return out.reshape(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """What print shows."""
        kept = self.values.numel() / max(1, self.in_features * self.out_features)
        return f"{self.in_features}, {self.out_features}, non-zero={kept:.4f}"


def run_sparse(
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    seconds: float = 0.1,
) -> tuple[nn.Module, tuple[Timed, ...]]:
    """A copy whose linear layers run on sparse products where that is faster here, for inference.

    A layer whose weight is also used by others, or read without calling the layer (fused
    transformer layers do), stays dense. Where none was faster, a NothingFasterWarning says so.

    Args:
        args: example inputs; what is faster depends on their batch size.
        kwargs: example inputs by name.
        seconds: of timing each layer each way. Timed are all `nn.Linear` (no subclasses) that the
            module calls and whose weight has zeros, on the inputs of their first call, with torch's
            number of threads.

    Returns:
        The copy, in evaluation mode, and what was measured.
    """
    made = copy.deepcopy(module).eval()
    given = (args, dict(kwargs or {}))
    layers = []
    for name, x in _inputs(made, *given).items():
        layers.append(_faster(made, name, x, seconds, given))
    if not any(layer.chosen == "csr" for layer in layers):
        message = (
            "No linear layer inside the network has zeros, so it runs as it did."
            if not layers
            else f"None of {len(layers)} layers with zeros is faster as a sparse product here, so "
            "the network runs as it did; prune further, or cut whole features instead."
        )
        warnings.warn(message, NothingFasterWarning, stacklevel=2)
    return made, tuple(layers)


def _inputs(
    module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Tensor]:
    """What each linear layer with zeros gets in its first call, by name."""
    found: dict[str, Tensor] = {}

    def keep(name: str, _: nn.Module, given: tuple[Any, ...]) -> None:
        found.setdefault(name, given[0].detach().clone())

    handles = [
        layer.register_forward_pre_hook(functools.partial(keep, name))
        for name, layer in module.named_modules()
        if type(layer) is nn.Linear and name and _alone(module, layer) and (layer.weight == 0).any()
    ]
    try:
        with evaluating(module):
            module(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _alone(module: nn.Module, layer: nn.Linear) -> bool:
    """Whether nothing else holds the weight of this layer."""
    held = [p for _, p in module.named_parameters(remove_duplicate=False) if p is layer.weight]
    return len(held) == 1


def _faster(
    module: nn.Module,
    name: str,
    x: Tensor,
    seconds: float,
    given: tuple[tuple[Any, ...], dict[str, Any]],
) -> Timed:
    """Time a layer both ways, and leave the faster one in its place."""
    dense = module.get_submodule(name)
    assert isinstance(dense, nn.Linear)
    sparse = SparseLinear(dense).eval()
    share = float((dense.weight == 0).double().mean())
    if not _runs(sparse, (x,), {}):
        return Timed(name, share, _milliseconds(x, seconds, dense)[0], math.inf, "dense")
    dense_ms, csr_ms = _milliseconds(x, seconds, dense, sparse)
    if csr_ms < dense_ms:
        module.set_submodule(name, sparse)
        if _runs(module, *given):
            return Timed(name, share, dense_ms, csr_ms, "csr")
        module.set_submodule(name, dense)
    return Timed(name, share, dense_ms, csr_ms, "dense")


def _milliseconds(x: Tensor, seconds: float, *layers: nn.Module) -> list[float]:
    with torch.no_grad():
        return fastest([functools.partial(layer, x) for layer in layers], seconds)


def _runs(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    try:
        with evaluating(module):
            module(*args, **kwargs)
    except Exception:  # noqa: BLE001  a module that wants its layer's weight may fail in any way
        return False
    return True


@functools.cache
def _hush() -> None:
    """Have torch say now, once and unheard, that sparse rows are in beta."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.sparse_csr_tensor([0, 1], [0], [1.0], (1, 1), check_invariants=False)
