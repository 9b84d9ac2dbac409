"""Captured graphs as plain objects that can be pickled, and back.

A node of a graph knows its neighbours, so pickling one would recurse through the whole graph; its
tensors are fake ones of the export; operators have no pickle of their own. Here a graph becomes a
list of records, and everywhere else a node becomes (graph, name).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx

from widthwise.graph.capture.containers import register


@dataclass(frozen=True)
class _Node:
    """In the place of a node: its graph's number and its name."""

    graph: int
    name: str


@dataclass(frozen=True)
class _Graph:
    """In the place of a graph: its number."""

    number: int


@dataclass(frozen=True)
class _Operator:
    """In the place of an operator of torch."""

    space: str
    name: str
    overload: str


@dataclass(frozen=True)
class _Tree:
    """In the place of a tree's spec, whose leaves torch warns of: None stands for a leaf."""

    kind: type | None
    context: Any
    children: tuple[_Tree | None, ...]


@dataclass(frozen=True)
class _Made:
    """In the place of a dataclass that holds nodes: its class and its fields."""

    kind: type
    fields: dict[str, Any]


@dataclass
class _Record:
    """A node by itself."""

    op: str
    name: str
    target: Any
    args: Any
    kwargs: Any
    meta: dict[str, Any]


@dataclass
class Flat:
    """A value without nodes: the records of its graphs, its kinds of containers, and itself."""

    graphs: list[list[_Record]]
    containers: list[type]
    value: Any


def flat(value: Any) -> Flat:
    """A value that may hold graphs and nodes, in tuples, lists, dicts and dataclasses."""
    numbers: dict[fx.Graph, int] = {}
    containers: dict[type, None] = {}

    def word(leaf: Any) -> Any:
        if isinstance(leaf, fx.Node):
            return _Node(numbers.setdefault(leaf.graph, len(numbers)), leaf.name)
        if isinstance(leaf, fx.Graph):
            return _Graph(numbers.setdefault(leaf, len(numbers)))
        if isinstance(leaf, torch._ops.OpOverload):
            space, name = leaf._schema.name.split("::")
            return _Operator(space, name, leaf._overloadname)
        if isinstance(leaf, pytree.TreeSpec):
            containers.update(dict.fromkeys(_kinds(leaf)))
            return _tree(leaf)
        return leaf

    plain = _Change(word)(value)
    graphs = [[_record(node, word) for node in graph.nodes] for graph in numbers]
    return Flat(graphs, list(containers), plain)


def whole(flat: Flat) -> Any:
    """The value that `flat` was made of, with graphs of its own."""
    for kind in flat.containers:
        register(kind)
    graphs = [_graph(records) for records in flat.graphs]

    def thing(leaf: Any) -> Any:
        if isinstance(leaf, _Node):
            return graphs[leaf.graph][1][leaf.name]
        if isinstance(leaf, _Graph):
            return graphs[leaf.number][0]
        if isinstance(leaf, _Tree):
            return _spec(leaf)
        return _operator(leaf) if isinstance(leaf, _Operator) else leaf

    return _Change(thing)(flat.value)


class _Change:
    """Changes the leaves of a value; what holds none that changes stays the object that it is."""

    def __init__(self, leaf: Callable[[Any], Any]) -> None:
        self.leaf = leaf
        self.done: dict[int, tuple[Any, Any]] = {}  # what is held twice is changed once

    def __call__(self, value: Any) -> Any:
        if id(value) not in self.done:
            self.done[id(value)] = (value, self._changed(value))
        return self.done[id(value)][1]

    def _changed(self, value: Any) -> Any:
        if isinstance(value, dict):
            pairs = [(self(k), self(v)) for k, v in value.items()]
            same = all(
                k is a and v is b for (k, v), (a, b) in zip(pairs, value.items(), strict=True)
            )
            return value if same else dict(pairs)
        if type(value) in (list, tuple):
            some = [self(v) for v in value]
            same = all(a is b for a, b in zip(some, value, strict=True))
            return value if same else type(value)(some)
        if isinstance(value, _Made):
            return _built(value.kind, self(value.fields))
        if not _is_ours(value):
            return self.leaf(value)
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        changed = {name: self(v) for name, v in fields.items()}
        same = all(changed[name] is v for name, v in fields.items())
        return value if same else _Made(type(value), changed)


def _is_ours(value: Any) -> bool:
    """Whether a value is a dataclass of widthwise's that may hold nodes."""
    return (
        dataclasses.is_dataclass(value)
        and type(value).__module__.startswith("widthwise.")
        and not isinstance(value, (_Node, _Graph, _Operator, _Tree))
    )


def _built(kind: type, fields: dict[str, Any]) -> Any:
    made: Any = object.__new__(kind)
    for name, value in fields.items():
        object.__setattr__(made, name, value)
    return made


def _operator(word: _Operator) -> Any:
    packet = getattr(getattr(torch.ops, word.space), word.name)
    return getattr(packet, word.overload or "default")


def _record(node: fx.Node, word: Callable[[Any], Any]) -> _Record:
    args, kwargs = fx.node.map_aggregate((node.args, dict(node.kwargs)), word)
    meta: dict[str, Any] = {}
    if "val" in node.meta:
        meta["val"] = pytree.tree_map(_without_data, node.meta["val"])
    if node.meta.get("nn_module_stack"):
        stack = node.meta["nn_module_stack"]
        meta["nn_module_stack"] = {key: (entry[0], "") for key, entry in stack.items()}
    return _Record(node.op, node.name, word(node.target), args, kwargs, meta)


def _without_data(value: Any) -> Any:
    """A tensor on the meta device, of the example's sizes; what is no tensor, as a number."""
    if isinstance(value, Tensor):
        sizes = [_number(size) for size in value.shape]
        return torch.empty(sizes, dtype=value.dtype, device="meta")
    return _number(value)


def _number(value: Any) -> Any:
    if isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
        return 2 if value.node.hint is None else value.node.hint
    return value


def _graph(records: list[_Record]) -> tuple[fx.Graph, dict[str, fx.Node]]:
    graph = fx.Graph()
    named: dict[str, fx.Node] = {}

    def thing(leaf: Any) -> Any:
        if isinstance(leaf, _Node):
            return named[leaf.name]
        return _operator(leaf) if isinstance(leaf, _Operator) else leaf

    for record in records:
        args, kwargs = fx.node.map_aggregate((record.args, record.kwargs), thing)
        node = graph.create_node(record.op, thing(record.target), args, kwargs, record.name)
        # Names of torch's own functions are not given twice, but a node may be called by one.
        node.name = record.name
        node.meta = dict(record.meta)
        named[record.name] = node
    return graph, named


def _tree(spec: pytree.TreeSpec) -> _Tree:
    children = tuple(None if c.is_leaf() else _tree(c) for c in spec.children())
    return _Tree(spec.type, spec.context, children)


def _spec(tree: _Tree | None) -> pytree.TreeSpec:
    if tree is None:
        return pytree.tree_structure(0)
    return pytree.TreeSpec(tree.kind, tree.context, [_spec(child) for child in tree.children])


def _kinds(spec: pytree.TreeSpec) -> list[type]:
    """The containers of a tree that torch does not know by itself."""
    mine = [] if spec.is_leaf() or spec.type in (tuple, list, dict) else [spec.type]
    return [*mine, *(kind for child in spec.children() for kind in _kinds(child))]
