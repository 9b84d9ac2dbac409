"""Operators without a rule, written out as the operators that torch makes them of.

`hstack` is `atleast_1d` and `cat`, `linalg_multi_dot` is products of matrices, `arccos` is another
name of `acos`: torch defines several hundred operators by others, gradients included. Where there
is no rule for one of these, there mostly are rules for its parts.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import fx
from torch._guards import detect_fake_mode
from torch.fx.experimental.proxy_tensor import make_fx

from widthwise.graph import rules

_WITHOUT_GRADIENT = {
    getattr(torch.ops.aten.randint_like, name)
    for name in torch.ops.aten.randint_like.overloads()
    if "out" not in name
}


def decompose(graph: fx.Graph) -> None:
    """Replace operators that have no rule by those that torch defines them by."""
    for node in list(graph.nodes):
        if _is_defined(node):
            _write_out(graph, node)
        elif node.target in _WITHOUT_GRADIENT:
            # Python calls these beneath autograd, which would refuse them in a graph.
            with graph.inserting_before(node):
                source = graph.call_function(torch.ops.aten.detach.default, (node.args[0],))
            source.meta = dict(node.args[0].meta)  # type: ignore[union-attr]
            node.args = (source, *node.args[1:])


def _is_defined(node: fx.Node) -> bool:
    """Whether an operator has no rule and is defined by others; its gradients are theirs then."""
    target = node.target
    return (
        isinstance(target, torch._ops.OpOverload)
        and target.namespace == "aten"
        and rules.find(target) is None
        and _has_tensor(node)
        and torch._C._dispatch_has_kernel_for_dispatch_key(
            target.name(), "CompositeImplicitAutograd"
        )
    )


def _has_tensor(node: fx.Node) -> bool:
    values = pytree.tree_leaves(node.meta.get("val"))
    return any(isinstance(v, torch.Tensor) for v in values)


def _write_out(graph: fx.Graph, node: fx.Node) -> None:
    """Put the parts of an operator in its place, where torch can tell them."""
    try:
        body, sources = _parts(node)
    except Exception:  # noqa: BLE001 - a definition that looks at values, say
        return
    if any(n.op == "get_attr" or n.target is node.target for n in body.nodes):
        return
    values = dict(zip(body.find_nodes(op="placeholder"), sources, strict=True))
    before = {*graph.nodes}
    with graph.inserting_before(node):
        result = graph.graph_copy(body, values)
    for new in [n for n in graph.nodes if n not in before]:
        new.meta = {**node.meta, **new.meta}
        new.meta.pop("original_aten", None)
    if isinstance(result, (tuple, list)):
        for user in list(node.users):
            user.replace_all_uses_with(result[user.args[1]])  # type: ignore[index,arg-type]
            graph.erase_node(user)
    else:
        node.replace_all_uses_with(result)  # type: ignore[arg-type]
    graph.erase_node(node)


def _parts(node: fx.Node) -> tuple[fx.Graph, list[fx.Node]]:
    """The graph of an operator's definition, and the nodes that are its inputs."""
    leaves, spec = pytree.tree_flatten((tuple(node.args), dict(node.kwargs)))
    sources = list(dict.fromkeys(leaf for leaf in leaves if isinstance(leaf, fx.Node)))
    target: Any = node.target

    def defined(*values: Any) -> Any:
        given = dict(zip(sources, values, strict=True))
        known = [given[x] if isinstance(x, fx.Node) else x for x in leaves]
        args, kwargs = pytree.tree_unflatten(known, spec)
        return target(*args, **kwargs)

    values = [source.meta["val"] for source in sources]
    mode = detect_fake_mode(values)
    assert mode is not None
    with mode, torch.no_grad():  # what autograd adds to a trace is not part of the definition
        return make_fx(defined)(*values).graph, sources
