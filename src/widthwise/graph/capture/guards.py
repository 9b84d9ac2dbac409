"""Which sizes a captured graph is right for.

While torch.export records a model, every decision that the model takes on a size of its inputs
becomes a condition: `if x.size(1) > 8` on an example of six tokens leaves `x.shape[1] <= 8`, and
`int(x.size(1))` leaves `x.shape[1] == 6`. The graph is right where all of them hold. They are
checked at every call, as one small graph of integer arithmetic; a cut graph module carries it too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import sympy
import torch
from torch import Tensor, fx
from torch.utils._sympy.functions import Mod, PythonMod
from torch.utils._sympy.interp import sympy_interp
from torch.utils._sympy.printers import PythonPrinter
from torch.utils._sympy.reference import PythonReferenceAnalysis

from widthwise.graph.capture.diagnostics import in_words

_TORCH = Path(torch.__file__).parent
_ENGINE = Path(__file__).parents[1]  # its listener calls the functions of torch for the model


@dataclass(frozen=True)
class Condition:
    """What must hold of the inputs' sizes, and the line of the user's code that decided it."""

    expression: Any
    line: str


@dataclass(frozen=True)
class Guards:
    """The sizes of a graph's inputs, as symbols, and what must hold of them.

    Args:
        names: what the inputs are called in messages.
        sizes: for each input, in order, its sizes as sympy expressions; None for a number. The
            symbol `size_i_d` stands for the size of dim d of input i.
        conditions: what must hold of the symbols besides.
        lines: for each (input, dim) whose size the model fixed, the line of the user's code.
    """

    names: tuple[str, ...]
    sizes: tuple[tuple[Any, ...] | None, ...]
    conditions: tuple[Condition, ...] = ()
    lines: Mapping[tuple[int, int], str] = field(default_factory=dict)

    @cached_property
    def _checks(self) -> list[tuple[Any, str]]:
        """Every condition, and the sentence for where it does not hold."""
        found: dict[Any, str] = {}
        for i, sizes in enumerate(self.sizes):
            for d, size in enumerate(sizes or ()):
                if size.free_symbols and size != _own(i, d):
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
        named = {s for expression, _ in self._checks for s in expression.free_symbols}
        every = [(i, d) for i, sizes in enumerate(self.sizes) for d in range(len(sizes or ()))]
        return [at for at in every if _own(*at) in named]

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
        values = {_own(*at): fx.Proxy(node, tracer) for at, node in sizes.items()}
        for expression, sentence in self._checks:
            held = sympy_interp(_Arithmetic, values, expression)
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
        return re.sub(r"\bsize_(\d+)_(\d+)\b", lambda m: self._dim(int(m[1]), int(m[2])), text)


def _own(i: int, d: int) -> Any:
    """The symbol for the size of this dim of this input itself."""
    return sympy.Symbol(f"size_{i}_{d}", integer=True, nonnegative=True)


def _sentence(text: str, line: str) -> str:
    decided = f", which the model decides{line}" if line else ""
    return (
        f"The captured graph is right only where {text}{decided}; capture the model with an "
        "example of these sizes."
    )


def _called(function: Callable[[Any], Any]) -> Any:
    """A function of Python for a number, or as a node of the number's graph."""

    def call(value: Any, dtype: Any = None) -> Any:
        if not isinstance(value, fx.Proxy):
            return function(value)
        return value.tracer.create_proxy("call_function", function, (value,), {})

    return staticmethod(call)


class _Arithmetic(PythonReferenceAnalysis):
    """Arithmetic on sizes as nodes of a graph; torch's own stops at what rounds."""

    floor_to_int = _called(math.floor)
    ceil_to_int = _called(math.ceil)
    trunc_to_int = _called(math.trunc)
    round_to_int = _called(round)

    @staticmethod
    def int_truediv(a: Any, b: Any) -> Any:
        """As Python divides."""
        return a / b


def find_guards(
    inputs: Sequence[tuple[str, Any]],
    noted: Mapping[int, str],
    inside: AbstractSet[int],
    *,
    recorded: bool,
    given: AbstractSet[int] = frozenset(),
) -> Guards:
    """The guards that torch recorded for the inputs (name, value without data) of a model.

    noted: for guards by number, the line of the user's code, where torch does not know it.
    inside: the numbers of those that functions of torch made. recorded: whether a graph was
    recorded with them; otherwise only what the model itself decides counts, what functions decided
    on sizes that the model gave them (given, by number), and what norms refuse.
    """
    names = tuple(name for name, _ in inputs)
    sizes = [
        tuple(map(_expression, value.shape)) if isinstance(value, Tensor) else None
        for _, value in inputs
    ]
    places = [(i, d) for i, row in enumerate(sizes) for d in range(len(row or ()))]
    raw: dict[Any, list[tuple[int, int]]] = {}
    environment: Any = None
    for i, d in places:
        size = inputs[i][1].shape[d]
        if isinstance(size, torch.SymInt):
            environment = size.node.shape_env
            raw.setdefault(size.node._expr, []).append((i, d))
    if environment is None:
        return Guards(names, tuple(sizes))
    named = _names(sizes)
    conditions: dict[Any, str] = {}
    lines: dict[tuple[int, int], str] = {}
    for number, guard in enumerate(environment.guards):
        line = _line(guard.sloc) or noted.get(number, "")
        for symbol in guard.expr.free_symbols:
            if isinstance(environment.replace(symbol), sympy.Integer):
                for at in raw.get(symbol, ()):
                    lines[at] = lines.get(at) or line
        counts = recorded or number in given or _function(guard) in _REFUSES
        if number not in inside or (counts and not _decides_nothing(guard)):
            expression = environment.replace(guard.expr)
            conditions[expression] = conditions.get(expression) or line
    return Guards(
        names,
        tuple(None if row is None else tuple(s.xreplace(named) for s in row) for row in sizes),
        tuple(
            Condition(e.xreplace(named), line)
            for e, line in conditions.items()
            if e.free_symbols and e.free_symbols <= named.keys()
        ),
        lines,
    )


def never_one(inputs: Sequence[Any], sizes: Sequence[tuple[Any, str]]) -> tuple[Condition, ...]:
    """The conditions that these sizes, each with its line, are not 1 (inputs: without data)."""
    named = _names(
        [tuple(map(_expression, v.shape)) if isinstance(v, Tensor) else None for v in inputs]
    )
    return tuple(
        Condition(sympy.Ne(_expression(size).xreplace(named), 1), line)
        for size, line in sizes
        if _expression(size).free_symbols <= named.keys()
    )


def _names(sizes: Sequence[tuple[Any, ...] | None]) -> dict[Any, Any]:
    """Symbol -> the symbol of the first size that it stands for."""
    named: dict[Any, Any] = {}
    for i, row in enumerate(sizes):
        for d, size in enumerate(row or ()):
            if size.is_Symbol:
                named.setdefault(size, _own(i, d))
    return named


def _expression(size: Any) -> Any:
    return sympy.sympify(size.node.expr if isinstance(size, torch.SymInt) else size)


def equalities(environment: Any) -> dict[Any, Any]:
    """Expressions that a guard found equal to one symbol: min(8, s) where s is at most 8."""
    found: dict[Any, Any] = {}
    for guard in environment.guards:
        expression = environment.replace(guard.expr)
        if isinstance(expression, sympy.Eq):
            for one, other in (expression.args, expression.args[::-1]):
                if isinstance(other, sympy.Symbol) and not isinstance(one, sympy.Symbol):
                    found[one] = other
    return found


def mixes(environment: Any) -> bool:
    """Whether a product of free sizes must be divisible: a view then mixes them with features."""
    for guard in environment.guards:
        expression = environment.replace(guard.expr)
        if any(len(m.free_symbols) > 1 for m in expression.atoms(Mod, PythonMod)):
            return True
    return False


def divisors(environment: Any) -> dict[Any, int]:
    """Symbol -> the number that a guard needs it to be a multiple of."""
    found: dict[Any, int] = {}
    for guard in environment.guards:
        expression = environment.replace(guard.expr)
        if isinstance(expression, sympy.Eq) and isinstance(expression.lhs, (Mod, PythonMod)):
            symbol, divisor = expression.lhs.args
            if expression.rhs == 0 and symbol.is_Symbol and divisor.is_number:
                found[symbol] = math.lcm(found.get(symbol, 1), int(divisor))
    return found


# One value per channel, whose statistics norms refuse and their operators do not.
_REFUSES = frozenset({"_verify_batch_size", "_verify_spatial_size"})


def _function(guard: Any) -> str:
    """The function of torch that looked at a size."""
    return getattr(guard.sloc.framework_loc, "name", "")


def _decides_nothing(guard: Any) -> bool:
    """Whether an operator looked at a size as it does again at every call: whether it is 1, say."""
    function = _function(guard)
    if function in _REFUSES:
        return False
    if function == "conv":
        return True  # which of its kernels is the fastest
    expression = guard.expr
    if not isinstance(expression, sympy.core.relational.Relational):
        return False
    if isinstance(expression, sympy.Ne):
        return _only_at_one(*expression.args) or _only_at_one(*expression.args[::-1])
    larger = expression.rhs if isinstance(expression, (sympy.Lt, sympy.Le)) else expression.lhs
    smaller = expression.lhs if larger is expression.rhs else expression.rhs
    return not isinstance(expression, sympy.Eq) and bool(smaller.is_number and smaller <= 2)


def _only_at_one(size: Any, number: Any) -> bool:
    """Whether a size, which grows with its symbols, is this number at most where all are 1 or 0."""
    at_one = size.xreplace(dict.fromkeys(size.free_symbols, sympy.Integer(1)))
    return bool(number.is_number and at_one.is_number and at_one >= number)


def _line(sloc: Any) -> str:
    """The line of the user's code at which torch saw a guard, if it was one."""
    frame = sloc.framework_loc
    file = getattr(frame, "filename", None)
    if file is None or not Path(file).exists():
        return ""
    if any(map(Path(file).is_relative_to, (_TORCH, _ENGINE))):
        return ""
    return in_words(file, frame.lineno)
