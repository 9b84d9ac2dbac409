"""Dense layers over a shared input, at many widths: sums that grow.

A dense layer whose input is a prefix of a shared value sums over the first k features. Running many
widths of it, narrow to wide, repeats almost the whole sum every time. Here the sum over the first
features is kept, for all outputs, at multiples of a block, and a width adds only what is left:

    y(k)[:, :n] = kept[:, :n] + x[:, start:k] @ weight[:n, start:k].T        k - start < BLOCK

so that every width of a layer of size S costs little more than one pass at full width. The result
equals the plain product to rounding.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from widthwise.graph.slicing import part, simple

BLOCK = 16  # features; adding fewer than this costs no more than reading the outputs once

Sums = dict[int, tuple[int, Tensor]]


def use_partial_sums(graph: fx.Graph, given: set[str]) -> None:
    """Let the dense layers of a graph that read prefixes of given values add up partial sums.

    given: names of the placeholders that hold the values shared by all widths. The graph gets one
    more input, the last: an empty dict for every batch, in which the sums are kept.
    """
    found = [n for n in graph.nodes if _applies(n, given)]
    last = graph.find_nodes(op="placeholder")[-1]
    with graph.inserting_after(last):
        sums = graph.placeholder("sums")
    for number, node in enumerate(found):
        (x, weight, *bias), kept = node.args, _kept(node.args[1])
        whole = [b.args[0] if b.target is part else b for b in bias if b is not None]
        node.target = linear_in_parts
        bounds = kept[1], kept.get(0)
        node.args = (sums, number, x.args[0], weight.args[0], *(whole or [None]), *bounds)
    for node in reversed(graph.find_nodes(op="call_function", target=part)):
        if not node.users:
            graph.erase_node(node)


def _applies(node: Any, given: set[str]) -> bool:
    """Whether a node is linear(prefix of a given value, prefix of a weight, prefix of a bias)."""
    if node.target is not torch.ops.aten.linear.default or node.kwargs:
        return False
    x, weight, *bias = node.args
    if not (_is_prefix(x) and _is_prefix(weight) and x.args[0].name in given):
        return False
    if any(b is not None and b.op != "placeholder" and not _is_prefix(b) for b in bias):
        return False
    value = x.meta.get("val")
    return value is not None and list(_kept(x)) == [value.dim() - 1] and 1 in _kept(weight)


def _is_prefix(node: Any) -> bool:
    """Whether a node is the leading block of an input of the graph."""
    if not isinstance(node, fx.Node) or node.target is not part:
        return False
    source: Any = node.args[0]
    return source.op == "placeholder" and all(simple(spec) for _, spec in _specs(node))


def _specs(node: Any) -> Any:
    return node.args[1]


def _kept(node: Any) -> dict[int, Any]:
    """Dim -> how many features of it a leading block keeps."""
    return {d: spec[0][1] for d, spec in _specs(node)}


def linear_in_parts(
    sums: Sums,
    number: int,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    inner: int,
    outer: int | None,
) -> Tensor:
    """linear(x[..., :inner], weight[:outer, :inner], bias[:outer]), where x (*, I) never changes.

    weight: (O, I), bias: (O,). outer: None for O. sums: what was summed before, updated; `number`
    tells layers apart.
    """
    outer = weight.shape[0] if outer is None else outer
    if x.dtype not in (torch.float32, torch.float64):
        bias = None if bias is None else bias[:outer]
        return F.linear(x[..., :inner], weight[:outer, :inner], bias)
    flat = x.reshape(-1, x.shape[-1])  # (N, I)
    wanted = inner - inner % BLOCK
    start, kept = sums.get(number, (0, None))
    if kept is None or wanted < start:
        start, kept = 0, flat.new_zeros(1) if bias is None else bias
        kept = kept.expand(flat.shape[0], weight.shape[0])  # (N, O)
    if wanted > start:
        kept = torch.addmm(kept, flat[:, start:wanted], weight[:, start:wanted].t())
        sums[number] = start, kept = wanted, kept
    out = torch.addmm(kept[:, :outer], flat[:, start:inner], weight[:outer, start:inner].t())
    return out.view(*x.shape[:-1], outer)
