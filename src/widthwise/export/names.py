"""What an ONNX file says of its inputs and outputs: names, sizes that vary, conditions on these.

    described(model, traced, ("logits", "hidden_states_0"))

Names are the user's model's: arguments of forward, keys and fields of what it returns. Sizes
that are equal share a name. A condition that the network puts on a size (`ids_dim_1 > 8`) becomes
part of the graph, which fails where it does not hold, instead of computing something else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import reduce
from typing import Any, Final

import sympy
import torch.utils._pytree as pytree
from torch import Tensor

from widthwise.errors import ExportError
from widthwise.export.free_sizes import Symbol, Traced
from widthwise.graph.capture.program import name_leaves

_RELATIONS: Final = {
    sympy.Eq: "Equal",
    sympy.Lt: "Less",
    sympy.Le: "LessOrEqual",
    sympy.Gt: "Greater",
    sympy.Ge: "GreaterOrEqual",
}
_ARITHMETIC: Final = {
    "Add": "Add",
    "Mul": "Mul",
    "Max": "Max",
    "Min": "Min",
    "FloorDiv": "Div",  # sizes are not negative
    "CleanDiv": "Div",
    "Mod": "Mod",
    "PythonMod": "Mod",
}


def output_names(outputs: Any) -> tuple[str, ...]:
    """A name for every tensor that a model returned.

        {"logits": y, "boxes": z}    ->  logits, boxes
        (y, (a, b))                  ->  output_0, output_1_0, output_1_1
        y                            ->  output

    Keys of dicts, fields of dataclasses and named tuples, positions of others, joined by "_".
    """
    leaves, spec = pytree.tree_flatten(outputs)
    found = [
        name.replace(".", "_")
        for name, leaf in zip(name_leaves(spec), leaves, strict=True)
        if isinstance(leaf, Tensor)
    ]
    return tuple(
        "output" if not name else f"output_{name}" if name[0].isdigit() else name for name in found
    )


def describe(model: Any, traced: Traced, outputs: tuple[str, ...]) -> None:
    """Name inputs, outputs and sizes of an ONNX model in place, and put its conditions in.

    outputs: as `output_names` gives them. Raises ExportError when the file has other inputs or
    outputs than the network.
    """
    graph = model.graph
    if len(graph.input) != len(traced.names) or len(graph.output) != len(outputs):
        raise ExportError(
            f"The file would have {len(graph.input)} inputs and {len(graph.output)} outputs, and "
            f"the network has {len(traced.names)} and {len(outputs)}, so it was not written; give "
            "tensors where it has numbers, or export it with export_program."
        )
    _own_outputs(graph)
    wanted = _unique([*traced.names, *outputs])
    old = [value.name for value in (*graph.input, *graph.output)]
    others = {name for node in _nodes(graph) for name in (*node.input, *node.output)} - {*old}
    others |= {tensor.name for tensor in graph.initializer} - {*old}
    away = {name: f"{name}_inner" for name in others if name in wanted}
    _rename(graph, away | dict(zip(old, wanted, strict=True)))
    _rename_sizes(graph, {str(s.expr): s.name for s in traced.symbols})
    if traced.guards:
        _conditions(graph, traced, wanted)


def _unique(names: Iterable[str]) -> list[str]:
    """The names, an output called like an input or another output with a mark."""
    found: list[str] = []
    for name in names:
        mine = name if name not in found else f"output_{name}"
        while mine in found:
            mine += "_"
        found.append(mine)
    return found


def _own_outputs(graph: Any) -> None:
    """Give an output that is an input, or is returned twice, a value of its own."""
    from onnx import helper

    taken = {value.name for value in (*graph.input, *graph.initializer)}
    for number, value in enumerate(graph.output):
        if value.name in taken:
            name = f"returned.{number}"
            graph.node.append(helper.make_node("Identity", [value.name], [name]))
            value.name = name
        taken.add(value.name)


def _nodes(graph: Any) -> Iterator[Any]:
    """All nodes, in branches and loops too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)


def _graphs(graph: Any) -> Iterator[Any]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _graphs(inner)


def _rename(graph: Any, names: Mapping[str, str]) -> None:
    for node in _nodes(graph):
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for each in _graphs(graph):
        for value in (*each.input, *each.output, *each.value_info, *each.initializer):
            value.name = names.get(value.name, value.name)


def _rename_sizes(graph: Any, names: Mapping[str, str]) -> None:
    """Name the sizes that vary; a size that is computed of them is named by its expression."""
    for each in _graphs(graph):
        for value in (*each.input, *each.output, *each.value_info):
            for dim in value.type.tensor_type.shape.dim:
                if dim.dim_param.isdigit():  # torch.onnx writes sizes that it found to be fixed so
                    dim.dim_value = int(dim.dim_param)
                elif dim.dim_param:
                    dim.dim_param = re.sub(
                        r"\b[su]\d+\b", lambda m: names.get(m[0], m[0]), dim.dim_param
                    )


class UnsaidError(Exception):
    """A condition that ONNX's operators cannot say; `guard` is it."""

    def __init__(self, guard: Any) -> None:
        super().__init__(str(guard))
        self.guard = guard


class _Conditions:
    """Nodes that compute whether conditions hold, each value a tensor of one number."""

    def __init__(self, traced: Traced, inputs: list[str]) -> None:
        from onnx import helper

        self.make = helper.make_node
        self.traced, self.inputs = traced, inputs
        self.nodes: list[Any] = []
        self.known: dict[Any, str] = {}

    def node(self, operator: str, inputs: list[str], **attributes: Any) -> str:
        """Add a node; the name of its value."""
        name = f"sizes.{len(self.nodes)}"
        self.nodes.append(self.make(operator, inputs, [name], **attributes))
        return name

    def zero_if(self, holds: str, words: str) -> str:
        """A zero, computed by a node that is called `words` and fails where `holds` is false."""
        from onnx import TensorProto

        index = self.node("Cast", [self.node("Not", [holds])], to=TensorProto.INT64)
        zero = self.node("Constant", [], value_ints=[0])
        return self.node("Gather", [zero, index], name=words)

    def value(self, expression: Any) -> str:
        """The name of the value of an expression. Raises UnsaidError."""
        if expression not in self.known:
            self.known[expression] = self._value(expression)
        return self.known[expression]

    def _value(self, expression: Any) -> str:
        if isinstance(expression, sympy.Integer):
            return self.node("Constant", [], value_ints=[int(expression)])
        symbol = next((s for s in self.traced.symbols if s.expr == expression), None)
        if symbol is not None and symbol.exact:
            n, d = symbol.places[0]
            return self.node("Shape", [self.inputs[n]], start=d, end=d + 1)
        if isinstance(expression, sympy.Ne):
            return self.node("Not", [self.value(sympy.Eq(*expression.args))])
        parts = [self.value(part) for part in expression.args]
        relation = _RELATIONS.get(expression.func)
        if relation is not None:
            return self.node(relation, parts)
        operator = _ARITHMETIC.get(type(expression).__name__)
        if operator is None or not parts:
            raise UnsaidError(expression)
        return reduce(lambda a, b: self.node(operator, [a, b]), parts)


def _conditions(graph: Any, traced: Traced, inputs: list[str]) -> None:
    """Let the graph fail, by an index out of range, where a condition does not hold.

    Raises UnsaidError.
    """
    made = _Conditions(traced, inputs)
    checked: dict[int, list[str]] = {}  # number of an input -> zeros, or failures
    for guard in traced.guards:
        try:
            holds = made.value(guard)
        except UnsaidError as error:
            raise UnsaidError(guard) from error
        n = next(s.places[0][0] for s in traced.symbols if s.expr in guard.free_symbols)
        zero = made.zero_if(holds, f"This file needs {_words(guard, traced.symbols)}")
        checked.setdefault(n, []).append(zero)
    renamed: dict[str, str] = {}
    for n, zeros in checked.items():
        name = inputs[n]
        shape = reduce(lambda a, b: made.node("Add", [a, b]), [made.node("Shape", [name]), *zeros])
        renamed[name] = made.node("Reshape", [name, shape])
    for node in _nodes(graph):
        node.input[:] = [renamed.get(name, name) for name in node.input]
    nodes = [*made.nodes, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _words(guard: Any, symbols: Iterable[Symbol]) -> str:
    text = str(guard)
    for symbol in symbols:
        text = re.sub(rf"\b{symbol.expr}\b", symbol.name, text)
    return text
