"""Bringing a captured graph to the form that the rules expect."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from widthwise.graph.capture.decompose import decompose
from widthwise.graph.capture.diagnostics import line_of
from widthwise.graph.capture.regions import inline_regions

aten = torch.ops.aten

_CHECKS = {
    aten._assert_scalar.default,
    aten._assert_tensor_metadata.default,
    aten._assert_async.msg,
    aten.sym_constrain_range_for_size.default,
    aten.sym_constrain_range.default,
}


def flatten(owner: fx.GraphModule, graph: fx.Graph) -> None:
    """Put the bodies of regions in line and leave out checks of the example's sizes."""
    inline_regions(owner, graph)
    for node in list(graph.nodes):
        if node.target in _CHECKS or (node.op == "get_attr" and not node.users):
            graph.erase_node(node)


def spell_out(graph: fx.Graph, state: Mapping[str, str]) -> list[tuple[Any, str]]:
    """Say outright what operators leave to the sizes of their inputs, and drop dead code.

    What reads a tensor of the model (`state` names their placeholders) stays, used or not: the
    user's class computes it too, so that it has to fit at every width. Returns the sizes that must
    not be 1, each with the line that would squeeze it then.
    """
    decompose(graph)
    kept: list[tuple[Any, str]] = []
    for node in list(graph.nodes):
        if node.target in (aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims):
            line = line_of(node)
            kept += [(s, line) for s in _explicit_squeeze(graph, node)]
        elif node.target is aten.scaled_dot_product_attention.default:
            _explicit_scale(node)
        elif node.target is aten.view.default:
            # At other widths memory may lie so that no view is possible.
            node.target = aten.reshape.default
        elif node.target in _SPLITS:
            _explicit_split(node)
    graph.eliminate_dead_code(
        lambda n: n.is_impure() or any(s.name in state for s in n.all_input_nodes)
    )
    graph.lint()
    return kept


def _explicit_squeeze(graph: fx.Graph, node: fx.Node) -> list[Any]:
    """Say which dims are squeezed, so that a dim cut to width 1 is not squeezed as well.

    Returns the sizes that come with the input and stay.
    """
    source = node.args[0]
    assert isinstance(source, fx.Node)
    shape = source.meta["val"].shape
    asked: Any = node.args[1] if len(node.args) > 1 else list(range(len(shape)))
    asked = asked if isinstance(asked, (list, tuple)) else [asked]
    dims = [d % len(shape) for d in asked] if len(shape) else []  # a lone number has none
    free = [shape[d] for d in dims if not isinstance(shape[d], int)]
    dims = [d for d in dims if isinstance(shape[d], int) and shape[d] == 1]
    if dims:
        node.target = aten.squeeze.dims
        node.args = (source, dims)
    else:
        node.replace_all_uses_with(source)
        graph.erase_node(node)
    return free


_SPLITS = {aten.split.Tensor, aten.split.sizes, aten.chunk.default}


def _explicit_split(node: fx.Node) -> None:
    """Say how large each piece is, so that pieces can be cut one by one."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    rank = source.meta["val"].dim()
    given: Any = node.args[2] if len(node.args) > 2 else node.kwargs.get("dim", 0)
    dim = int(given) % rank
    counts = [piece.shape[dim] for piece in node.meta["val"]]
    if all(isinstance(c, int) for c in counts):
        node.target = aten.split_with_sizes.default
        node.args = (source, counts, dim)
        node.kwargs = {}


def _explicit_scale(node: fx.Node) -> None:
    """Freeze attention's scale at full width: a cut head size must not change it."""
    query = node.args[0]
    assert isinstance(query, fx.Node)
    head_size = query.meta["val"].shape[-1]
    if node.kwargs.get("scale") is None and isinstance(head_size, int):
        node.kwargs = {**node.kwargs, "scale": 1.0 / math.sqrt(head_size)}
