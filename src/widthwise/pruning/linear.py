"""The operators that multiply what they read by a parameter: those that least squares can fit.

    for reader in linear_readers(net): ...

Linear layers, convolutions over one or two dims of space that read all channels, and products with
a matrix (`addmm`, `matmul`). Grouped convolutions, recurrent layers and products of two activations
are none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from widthwise.graph.capture.program import Program

aten = torch.ops.aten


@dataclass(frozen=True)
class Reader:
    """An operator z = W x + b, in a graph.

    source: what makes x. weight, bias: the names of the tensors; None where there is no bias.
    channel: the dim of x, and of z, that holds the features. kind: how the weight lies.
    """

    node: fx.Node
    source: fx.Node
    weight: str
    bias: str | None
    channel: int
    kind: str

    @property
    def reading_dim(self) -> int:
        """The dim of the weight that reads features."""
        return 0 if self.kind == "matrix" else 1

    @property
    def padded(self) -> bool:
        """Whether some of what it multiplies is padding rather than features."""
        return self.kind == "convolution" and any(self._argument(4))

    def matrix(self, weight: Tensor) -> Tensor:
        """The weight as (outputs, columns), the features of x outermost in the columns."""
        return weight.T if self.kind == "matrix" else weight.flatten(1)

    def as_weight(self, matrix: Tensor, like: Tensor) -> Tensor:
        """The inverse of `matrix`."""
        return matrix.T if self.kind == "matrix" else matrix.view_as(like)

    def features(self, x: Tensor) -> Tensor:
        """What is read, or comes out, as (rows, features)."""
        return x.movedim(self.channel, -1).flatten(0, -2)

    def rows(self, x: Tensor, weight: Tensor, thin: int = 1) -> Tensor:
        """What is multiplied, as (rows, columns); a window of a convolution is a row.

        thin: take every so manieth window along each dim of space, as `results` does.
        """
        if self.kind != "convolution":
            return self.features(x)
        stride, padding, dilation = (_pair(self._argument(i)) for i in (3, 4, 5))
        window = (1, *weight.shape[2:]) if weight.dim() == 3 else tuple(weight.shape[2:])
        flat = x.unsqueeze(-2) if weight.dim() == 3 else x
        apart = (stride[0] * thin, stride[1] * thin)
        columns = F.unfold(flat, window, dilation, padding, apart)  # (N, columns, windows), or no N
        return columns.movedim(-2, -1).flatten(0, -2)

    def results(self, z: Tensor, thin: int = 1) -> Tensor:
        """What comes out, as (rows, outputs), row for row as in `rows`."""
        if self.kind == "convolution" and thin > 1:
            for dim in range(self.channel + 1, 0):
                z = z[(slice(None),) * (z.dim() + dim) + (slice(None, None, thin),)]
        return self.features(z)

    def _argument(self, i: int) -> tuple[int, ...]:
        default = {3: 1, 4: 0, 5: 1}[i]
        given: Any = self.node.args[i] if len(self.node.args) > i else (default,)
        count = 1 if self.node.target is aten.conv1d.default else 2
        values = tuple(given) * (count if len(given) == 1 else 1)
        return values if count == 2 else (1 if default else 0, *values)


def _pair(values: tuple[int, ...]) -> tuple[int, int]:
    return values[0], values[1]


def linear_readers(program: Program) -> list[Reader]:
    """The linear operators of a graph whose weight nothing else uses, in the order they run."""
    found = []
    for node in program.graph.nodes:
        parts = _parts(node, program.sizes)
        if parts is None:
            continue
        source, weight, bias, channel, kind = parts
        names = [_parameter(program, n) for n in (weight, bias)]
        if names[0] is None or (bias is not None and names[1] is None):
            continue
        found.append(Reader(node, source, names[0], names[1], channel, kind))
    return found


def _parameter(program: Program, node: Any) -> str | None:
    """The name of a tensor of the model that one operator alone uses."""
    if not isinstance(node, fx.Node) or len(node.users) != 1:
        return None
    return program.state.get(node.name)


def _parts(node: fx.Node, sizes: Mapping[Any, Any]) -> tuple[fx.Node, Any, Any, int, str] | None:
    """(source, weight, bias, channel dim, kind) of a linear operator."""
    arguments: Any = node.args
    if node.target is aten.linear.default:
        return arguments[0], arguments[1], _third(arguments), -1, "linear"
    if node.target in (aten.conv1d.default, aten.conv2d.default):
        if len(arguments) > 6 and arguments[6] != 1:
            return None
        space = 1 if node.target is aten.conv1d.default else 2
        return arguments[0], arguments[1], _third(arguments), -space - 1, "convolution"
    if node.target is aten.addmm.default and not node.kwargs and len(sizes[arguments[0]]) == 1:
        return arguments[1], arguments[2], arguments[0], -1, "matrix"
    product = node.target in (aten.matmul.default, aten.mm.default)
    if product and len(sizes[arguments[0]]) > 1 and len(sizes[arguments[1]]) == 2:
        return arguments[0], arguments[1], None, -1, "matrix"
    return None


def _third(arguments: Any) -> Any:
    return arguments[2] if len(arguments) > 2 else None
