"""Recurrent operators as torch.export sees them: at any length.

    with any_length():
        torch.export.export(model, args, dynamic_shapes=...)

To find the shapes that an LSTM returns, torch unrolls it step by step, which fixes the length of
its sequences to the example's. Inside the context the shapes come from the arguments, as the
operator's documentation states them, and the length stays free.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor
from torch._C import DispatchKey
from torch._decomp import decomposition_table

aten = torch.ops.aten


def _sequence(x: Tensor, features: Any, bidirectional: bool, batch_first: bool) -> Tensor:
    """The output of all steps, in the memory layout that torch gives it."""
    first, second = x.shape[:2]
    width = features * (2 if bidirectional else 1)
    if batch_first:
        return x.new_empty((second, first, width)).transpose(0, 1)
    return x.new_empty((first, second, width))


def _lstm(
    x: Tensor,
    hx: list[Tensor],
    params: list[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    out = _sequence(x, hx[0].shape[2], bidirectional, batch_first)
    return out, torch.empty_like(hx[0]), torch.empty_like(hx[1])


def _rnn(
    x: Tensor,
    hx: Tensor,
    params: list[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, Tensor]:
    return _sequence(x, hx.shape[2], bidirectional, batch_first), torch.empty_like(hx)


_SHAPES: Final[dict[Any, Callable[..., Any]]] = {
    aten.lstm.input: _lstm,
    aten.gru.input: _rnn,
    aten.rnn_tanh.input: _rnn,
    aten.rnn_relu.input: _rnn,
}
_KEYS: Final = (DispatchKey.CompositeImplicitAutograd, DispatchKey.Autograd)


@contextmanager
def any_length() -> Iterator[None]:
    """Trace recurrent layers without unrolling them; torch's own rules come back afterwards."""
    kernels = {op: dict(op.py_kernels) for op in _SHAPES}
    unrolled = {op: decomposition_table[op] for op in _SHAPES if op in decomposition_table}
    for op, shapes in _SHAPES.items():
        op.py_kernels.update({key: shapes for key in _KEYS if key in op.py_kernels})
        op._dispatch_cache.clear()
    decomposition_table.update({op: _SHAPES[op] for op in unrolled})
    try:
        yield
    finally:
        decomposition_table.update(unrolled)
        for op, before in kernels.items():
            op.py_kernels.update({key: before[key] for key in _KEYS if key in before})
            op._dispatch_cache.clear()
