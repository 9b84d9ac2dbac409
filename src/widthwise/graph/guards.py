"""Which sizes a captured graph is right for.

While torch.export records a model, every decision that the model takes on a size of its inputs
becomes a condition: `if x.size(1) > 8` on an example of six tokens leaves `x.shape[1] <= 8`, and
`int(x.size(1))` leaves `x.shape[1] == 6`. The graph is right where all of them hold. They are checked
at every call, as one small graph of integer arithmetic; a cut graph module carries the same graph.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import sympy
import torch
from torch import Tensor, fx
from torch.utils._sympy.printers import PythonPrinter
from torch.utils._sympy.interp import sympy_interp
from torch.utils._sympy.reference import PythonReferenceAnalysis

from widthwise.graph.refusal import in_words

_TORCH = Path(torch.__file__).parent


@dataclass(frozen=True)
class Condition:
    """What must hold of the inputs' sizes, and the line of the user's code that decided it."""

    expression: Any
    line: str


@dataclass(frozen=True)
class Guards:
    """The sizes of a graph's inputs, as symbols, and what must hold of them.

    Args:
        sizes: for each input, in order, its sizes as sympy expressions; None for a number.
        names: what the inputs are called in messages.
        conditions: what must hold of the symbols besides.
        lines: for the (input, dim) whose size the model fixed, the line of the user's code that did.
    """

    names: tuple[str, ...]
    sizes: tuple[tuple[Any, ...] | None, ...]
    conditions: tuple[Condition, ...] = ()
    lines: Mapping[tuple[int, int], str] = field(default_factory=dict)

    @cached_property
    def free(self) -> dict[Any, tuple[int, int]]:
        """Symbol -> the (input, dim) whose size it is."""
        found: dict[Any, tuple[int, int]] = {}
        for i, sizes in enumerate(self.sizes):
            for d, size in enumerate(sizes or ()):
                if isinstance(size, sympy.Symbol):
                    found.setdefault(size, (i, d))
        return found

    @cached_property
    def _checks(self) -> list[tuple[Any, str]]:
        """Every condition, and the sentence for where it does not hold."""
        found: dict[Any, str] = {}
        for i, sizes in enumerate(self.sizes):
            for d, size in enumerate(sizes or ()):
                if size.free_symbols and self.free.get(size) != (i, d):
                    expression = sympy.Eq(_own(i, d), size)
                    text = f"{self._dim(i, d)} == {self._in_words(size)}"
                    found[expression] = _sentence(text, self.lines.get((i, d), ""))
        for condition in self.conditions:
            text = self._in_words(condition.expression)
            found.setdefault(condition.expression, _sentence(text, condition.line))
        return list(found.items())

    @property
    def empty(self) -> bool:
        """Whether nothing has to hold but what `sizes` says."""
        return not self._checks

    @cached_property
    def used(self) -> list[tuple[int, int]]:
        """The (input, dim) whose sizes the conditions speak of."""
        named = {str(s) for expression, _ in self._checks for s in expression.free_symbols}
        every = [(i, d) for i, sizes in enumerate(self.sizes) for d in range(len(sizes or ()))]
        free = {at: str(symbol) for symbol, at in self.free.items()}
        return [at for at in every if free.get(at) in named or _own(*at).name in named]

    @cached_property
    def _module(self) -> fx.GraphModule:
        """The sizes in `used` -> whether each condition holds."""
        graph = fx.Graph()
        sizes = {at: graph.placeholder(_own(*at).name) for at in self.used}
        graph.output(tuple(held for held, _ in self.add_to(graph, sizes)))
        return fx.GraphModule(torch.nn.Module(), graph)

    def add_to(
        self, graph: fx.Graph, sizes: Mapping[tuple[int, int], fx.Node]
    ) -> Iterator[tuple[Any, str]]:
        """Add the conditions to a graph, given its nodes of sizes; each with its sentence."""
        tracer = fx.proxy.GraphAppendingTracer(graph)
        values = {s: fx.Proxy(sizes[at], tracer) for s, at in self.free.items() if at in sizes}
        values |= {_own(*at): fx.Proxy(node, tracer) for at, node in sizes.items()}
        for expression, sentence in self._checks:
            held = sympy_interp(PythonReferenceAnalysis, values, expression)
            yield (held.node if isinstance(held, fx.Proxy) else held), sentence

    def refuse(self, values: Sequence[Any]) -> str | None:
        """The sentence for inputs whose sizes the graph is not right for; None where it is."""
        if not self._checks:
            return None
        flat = [values[i].shape[d] for i, d in self.used]
        for held, (_, sentence) in zip(self._module(*flat), self._checks, strict=True):
            if not held:
                return sentence
        return None

    def _dim(self, i: int, d: int) -> str:
        return f"{self.names[i]}.shape[{d}]"

    def _in_words(self, expression: Any) -> str:
        """An expression in Python, of shapes rather than symbols."""
        text = PythonPrinter().doprint(expression)
        for symbol, (i, d) in sorted(self.free.items(), key=lambda s: -len(str(s[0]))):
            text = re.sub(rf"\b{symbol}\b", self._dim(i, d), text)
        return text


def _own(i: int, d: int) -> Any:
    """The symbol for the size of this dim of this input itself."""
    return sympy.Symbol(f"size_{i}_{d}", integer=True)


def _sentence(text: str, line: str) -> str:
    decided = f", which the model decides{line}" if line else ""
    return (
        f"The captured graph is right only where {text}{decided}; capture the model with an example "
        "of these sizes."
    )


def find_guards(
    inputs: Sequence[tuple[str, Any]], noted: Mapping[int, str]
) -> Guards:
    """The guards that torch recorded for these inputs (name, value without data) of a graph.

    noted: for guards by number, the line of the user's code, where torch does not know it.
    """
    sizes, raw = [], {}
    environment: Any = None
    for i, (_, value) in enumerate(inputs):
        if not isinstance(value, Tensor):
            sizes.append(None)
            continue
        row = []
        for d, size in enumerate(value.shape):
            if isinstance(size, torch.SymInt):
                environment = size.node.shape_env
                raw.setdefault(size.node._expr, []).append((i, d))
                row.append(sympy.sympify(size.node.expr))
            else:
                row.append(sympy.Integer(size))
        sizes.append(tuple(row))
    names = tuple(name for name, _ in inputs)
    if environment is None:
        return Guards(names, tuple(sizes))
    conditions: dict[Any, str] = {}
    lines: dict[tuple[int, int], str] = {}
    known = {s for row in sizes for size in row or () for s in size.free_symbols}
    for number, guard in enumerate(environment.guards):
        line = _line(guard.sloc) or noted.get(number, "")
        for symbol in guard.expr.free_symbols:
            if isinstance(environment.replace(symbol), sympy.Integer):
                for at in raw.get(symbol, ()):
                    lines[at] = lines.get(at) or line
        expression = environment.replace(guard.expr)
        if expression.free_symbols and expression.free_symbols <= known:
            conditions[expression] = conditions.get(expression) or line
    return Guards(
        names, tuple(sizes), tuple(Condition(e, line) for e, line in conditions.items()), lines
    )


def _line(sloc: Any) -> str:
    """The line of the user's code at which torch saw a guard, if it was one."""
    frame = sloc.framework_loc
    file = getattr(frame, "filename", None)
    if file is None or Path(file).is_relative_to(_TORCH) or not Path(file).exists():
        return ""
    return in_words(file, frame.lineno)
