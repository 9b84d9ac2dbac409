"""Run the rules over captured graphs: which dims belong together.

Both modes of a model are related with the same terms for its parameters, so what is found holds
in both.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from widthwise.graph import rules
from widthwise.graph.capture.own_functions import Whole
from widthwise.graph.capture.program import Program
from widthwise.graph.dims import Dims, Term, fix, fresh, fully_fixed
from widthwise.graph.rules.op import Op, module_path


@dataclass
class Related:
    """One program with the terms of everything in it.

    dims: node -> terms of its dims (a list of such for several outputs; absent for numbers).
    follow: node -> argument name -> terms whose size the argument is.
    contracted, normalised: node -> terms it sums over, or compares with each other.
    stands_for: what a body of user code is given -> the node that gives it.
    """

    program: Program
    dims: dict[fx.Node, Any] = field(default_factory=dict)
    follow: dict[fx.Node, dict[str, Any]] = field(default_factory=dict)
    contracted: dict[fx.Node, list[Term]] = field(default_factory=dict)
    normalised: dict[fx.Node, list[Term]] = field(default_factory=dict)
    stands_for: dict[fx.Node, fx.Node] = field(default_factory=dict)


@dataclass
class Relations:
    """What the rules found in all programs of a model.

    state: tensor name -> terms of its dims. consumed: (tensor name, dim) that read features.
    roles: (term, role) in the order found. unknown: operators without a rule, and where.
    """

    programs: list[Related]
    state: dict[str, Dims]
    consumed: set[tuple[str, int]] = field(default_factory=set)
    roles: list[tuple[Term, str]] = field(default_factory=list)
    unknown: dict[str, str] = field(default_factory=dict)


def relate(programs: Iterable[Program]) -> Relations:
    """Relate the dims of all programs of one model."""
    relations = Relations([], {})
    for program in programs:
        related = Related(program)
        relations.programs.append(related)
        for node in program.graph.nodes:
            if node.op == "placeholder":
                _placeholder(relations, related, node)
            elif node.op == "call_function":
                _call(relations, related, node)
            elif node.op == "output":
                outputs: Any = node.args[0]
                for out, matters in zip(outputs, program.matters, strict=True):
                    if matters and isinstance(out, fx.Node):
                        _fix_all(related.dims.get(out), "it is an output of the model")
    return relations


def _placeholder(relations: Relations, related: Related, node: fx.Node) -> None:
    sizes = related.program.sizes.get(node)
    if not isinstance(sizes, list):
        return
    target = related.program.state.get(node.name)
    if target is None:
        related.dims[node] = [fresh(s, "it is an input of the model") for s in sizes]
    else:
        related.dims[node] = relations.state.setdefault(target, [fresh(s) for s in sizes])


def _call(relations: Relations, related: Related, node: fx.Node) -> None:
    if node.target is operator.getitem:
        source: Any = node.args[0]
        at: Any = node.args[1]
        if source in related.dims:
            related.dims[node] = related.dims[source][at]
        return
    if isinstance(node.target, Whole):
        _whole(relations, related, node, node.target)
        return
    if not isinstance(node.target, torch._ops.OpOverload):
        if not isinstance(related.program.sizes.get(node), list):
            return  # arithmetic on sizes
        _unknown(relations, related, node)
        return
    if not isinstance(related.program.sizes.get(node), list):
        return
    op = Op(node, related.dims, related.program.sizes)
    result = rules.apply(op)
    if result is None:
        _unknown(relations, related, node)
        return
    related.dims[node] = result.outputs
    related.follow[node] = result.follow
    related.contracted[node] = op.contracted
    related.normalised[node] = op.normalised
    relations.roles += op.roles
    for source, dim in op.consumed:
        while source in related.stands_for:
            source = related.stands_for[source]
        target = related.program.state.get(source.name)
        if target is not None:
            relations.consumed.add((target, dim % len(relations.state[target])))


def _whole(relations: Relations, related: Related, node: fx.Node, whole: Whole) -> None:
    """User code that is called as it is: its body relates the dims, and no size in it follows."""
    reason = f"it is a size in {whole.__name__}"
    inner = [n for n in whole.body.nodes if n.op == "call_function"]
    given = [*node.args, *node.kwargs.get("reads", ())]  # type: ignore[misc]
    for stand_in, source in zip(whole.body.find_nodes(op="placeholder"), given, strict=True):
        if isinstance(source, fx.Node):
            related.stands_for[stand_in] = source
            related.dims[stand_in] = related.dims.get(source)
    reads: Any = node.kwargs.get("reads", ())
    for read in reads:
        _fix_all(related.dims.get(read), f"{whole.__name__} reads it")
    for each in inner:
        _call(relations, related, each)
        _fix_all(list(related.follow.pop(each, {}).values()), reason)
    outputs: Any = next(n for n in whole.body.nodes if n.op == "output").args[0]
    related.dims[node] = (
        [related.dims.get(n) for n in outputs]
        if isinstance(outputs, tuple)
        else related.dims[outputs]
    )
    for kind in (related.contracted, related.normalised):
        kind[node] = [term for each in inner for term in kind.get(each, ())]


def _unknown(relations: Relations, related: Related, node: fx.Node) -> None:
    """No rule: everything that touches the operator stays as it is."""
    name = str(node.target)
    path = module_path(node)
    reason = f"widthwise has no rule for {name}" + (f" in {path}" if path else "")
    relations.unknown.setdefault(name, path)
    for source in node.all_input_nodes:
        _fix_all(related.dims.get(source), reason)
    sizes: Any = related.program.sizes[node]
    if sizes and isinstance(sizes[0], list):
        related.dims[node] = [[fresh(s, reason) for s in one] for one in sizes]
    else:
        related.dims[node] = [fresh(s, reason) for s in sizes]


def _fix_all(dims: Any, reason: str) -> None:
    for item in dims or ():
        if isinstance(item, list):
            _fix_all(item, reason)
        else:
            fix(item, reason)


def is_shareable(related: Related, node: fx.Node, inputs: Mapping[fx.Node, bool]) -> bool:
    """Whether a narrower network's value of this node is a part of the full network's value.

    True when nothing upstream sums over, or compares, features that can be cut.
    """
    mixed = [*related.contracted.get(node, ()), *related.normalised.get(node, ())]
    return all(inputs[n] for n in node.all_input_nodes) and all(map(fully_fixed, mixed))
