"""Which sizes of a network's inputs may vary, as torch.export finds it, and inputs of other sizes.

    traced = trace(module, inputs)
    traced.symbols                   # batch: 2 in the example, ids_dim_1: 10
    traced.at({symbol: 17})          # the example's inputs, repeated to that size

All sizes of all inputs are given to torch.export as free. It fixes those that the network needs as
they are and records conditions (guards) on the others, such as `length > 8` or `height % 4 == 0`. A
size that has no second value under these conditions is fixed, too.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

import sympy
import torch
import torch.fx.experimental._config as shape_config
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from widthwise.export.calls import Inputs
from widthwise.graph.capture.recurrent import any_length

Place: TypeAlias = tuple[int, int]  # number of the input tensor, dim


@dataclass(frozen=True)
class Symbol:
    """A size that may vary.

    expr: its sympy symbol. name: in the file. size: in the example. places: the input dims that
    have it, or that are computed of it; the first has exactly it, if `exact`.
    """

    expr: sympy.Symbol
    name: str
    size: int
    places: tuple[Place, ...]
    exact: bool


@dataclass(frozen=True)
class Traced:
    """What torch.export made of a network.

    inputs: the example. names: of its tensors. dims: of each tensor, an integer or sympy expression
    for every dim. guards: conditions on the symbols under which the program is right. widths: how
    many tensors come first that are none of the network's. inside: whether the inputs are (widths,
    args, kwargs).
    """

    program: ExportedProgram
    inputs: Inputs
    names: tuple[str, ...]
    dims: tuple[tuple[Any, ...], ...]
    symbols: tuple[Symbol, ...]
    guards: tuple[Any, ...]
    widths: int = 0
    inside: bool = False

    @property
    def batch(self) -> Symbol | None:
        """The symbol of the batch: of dim 0 of the first input that has one."""
        first = [n for n, dims in enumerate(self.dims) if n >= self.widths and dims][:1]
        return next((s for s in self.symbols if any((n, 0) in s.places for n in first)), None)

    @property
    def user_inputs(self) -> Inputs:
        """The example without what stands before it in a network that is traced as another."""
        return (self.inputs[0][1], self.inputs[0][2]) if self.inside else self.inputs

    def allows(self, sizes: Mapping[Any, int]) -> bool:
        """Whether the guards hold at these sizes, the others as in the example."""
        values = {s.expr: s.size for s in self.symbols} | dict(sizes)
        return all(_holds(guard, values) for guard in self.guards)

    def others(self, symbol: Symbol) -> list[int]:
        """Other values of a size that the guards allow, the most telling first."""
        size = symbol.size
        near = [size + 3, size + 1, size + 2, size + 4, 2 * size, size + 8, size + 16, size + 32]
        near += [size - 1, size - 2, size // 2]
        return [n for n in dict.fromkeys(near) if n > 1 and self.allows({symbol.expr: n})]

    def at(self, sizes: Mapping[Any, int]) -> Inputs:
        """The example's inputs with these sizes: entries are repeated or left out."""
        values = {s.expr: s.size for s in self.symbols} | dict(sizes)
        leaves, spec = pytree.tree_flatten(self.inputs)
        dims = iter(self.dims)
        widths = iter(range(self.widths))
        changed = []
        for leaf in leaves:
            if isinstance(leaf, Tensor):
                mine = next(dims)
                leaf = leaf if next(widths, None) is not None else _with_shape(leaf, mine, values)
            changed.append(leaf)
        made: Inputs = pytree.tree_unflatten(changed, spec)
        return replace(self, inputs=made).user_inputs


def _with_shape(x: Tensor, dims: Iterable[Any], values: Mapping[Any, int]) -> Tensor:
    for d, expression in enumerate(dims):
        size = int(sympy.sympify(expression).subs(values))
        if size != x.shape[d]:
            x = x.index_select(d, torch.arange(size, device=x.device) % x.shape[d])
    return x


def _holds(guard: Any, values: Mapping[Any, int]) -> bool:
    """Whether a condition is met; one that cannot be computed is not."""
    return bool(sympy.sympify(guard).subs(values) == True)  # noqa: E712 - sympy's own True


def trace(
    module: nn.Module,
    inputs: Inputs,
    fixed: frozenset[Place] = frozenset(),
    *,
    dynamic: bool = True,
    widths: int = 0,
    names: tuple[str, ...] = (),
) -> Traced:
    """Export a network with every size free that may be.

    inputs: (args, kwargs) in the order of the signature. fixed: input dims that must not vary.
    dynamic: False fixes all. widths: so many input tensors come first whose length is a width
    rather than a size: they stay free and are no symbols. names: of the input tensors; by default
    names of forward's arguments.

    Raises what torch.export raises when it cannot export the network with any choice.
    """
    tensors = [x for x in pytree.tree_leaves(inputs) if isinstance(x, Tensor)]
    names = names or input_names(module, inputs)
    failure: Exception | None = None
    for choice in _choices(tensors, widths) if dynamic else [_all(tensors, widths)]:
        try:
            return _settled(module, inputs, fixed | choice, widths, names)
        except Exception as error:  # noqa: BLE001 - exporters raise errors of many classes
            failure = failure or error
    assert failure is not None
    raise failure


def _all(tensors: list[Tensor], widths: int) -> frozenset[Place]:
    return frozenset((n, d) for n, x in enumerate(tensors) if n >= widths for d in range(x.dim()))


def _choices(tensors: list[Tensor], widths: int) -> list[frozenset[Place]]:
    """What is fixed from the start: nothing; all but the batch of images; all but the batch."""
    every = _all(tensors, widths)
    images = frozenset((n, d) for n, d in every if d and tensors[n].dim() > 3)
    return list(dict.fromkeys((frozenset(), images, frozenset((n, d) for n, d in every if d))))


def _settled(
    module: nn.Module,
    inputs: Inputs,
    fixed: frozenset[Place],
    widths: int,
    names: tuple[str, ...],
) -> Traced:
    """The program in which every free size has a second value. Raises what torch.export raises."""
    while True:
        traced = _read(_exported(module, inputs, fixed, widths), inputs, names, widths)
        tied = [s for s in traced.symbols if not traced.others(s)]
        if not tied:
            return traced
        fixed |= {place for symbol in tied for place in symbol.places}


def _exported(
    module: nn.Module, inputs: Inputs, fixed: frozenset[Place], widths: int
) -> ExportedProgram:
    numbers = iter(range(10**9))

    def free(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return None
        n = next(numbers)
        if n < widths:
            return {0: Dim.DYNAMIC}
        return {d: Dim.AUTO for d in range(leaf.dim()) if (n, d) not in fixed and leaf.shape[d] > 1}

    bound = inspect.signature(module.forward).bind(*inputs[0], **inputs[1])
    shapes = pytree.tree_map(free, dict(bound.arguments))
    with any_length(), shape_config.patch(use_duck_shape=False):  # type: ignore[attr-defined]
        return torch.export.export(
            module,
            inputs[0],
            inputs[1] or None,
            dynamic_shapes=shapes,
            strict=False,
            # Without it, widths of 1 would be a case of their own.
            prefer_deferred_runtime_asserts_over_guards=bool(widths),
        )


def _read(program: ExportedProgram, inputs: Inputs, names: tuple[str, ...], widths: int) -> Traced:
    users = {spec.arg.name for spec in program.graph_signature.input_specs if spec.kind.value == 1}
    values = [
        node.meta["val"]
        for node in program.graph.find_nodes(op="placeholder")
        if node.name in users and isinstance(node.meta.get("val"), Tensor)
    ]
    dims = tuple(
        tuple(s.node.expr if isinstance(s, torch.SymInt) else s for s in value.shape)
        for value in values
    )
    tensors = [x for x in pytree.tree_leaves(inputs) if isinstance(x, Tensor)]
    found: dict[Any, list[Place]] = {}
    for n, some in enumerate(dims):
        for d, expression in enumerate(some):
            for symbol in () if n < widths else sympy.sympify(expression).free_symbols:
                found.setdefault(symbol, []).append((n, d))
    # First a dim that is the symbol itself.
    found = {
        symbol: sorted(places, key=lambda place: (dims[place[0]][place[1]] != symbol, place))
        for symbol, places in found.items()
    }
    environment = _environment(values)
    symbols = _symbols(found, dims, tensors, names, environment)
    guards = _guards(environment, {s.expr for s in symbols})
    return Traced(program, inputs, names, dims, symbols, guards, widths)


def _symbols(
    found: Mapping[Any, list[Place]],
    dims: tuple[tuple[Any, ...], ...],
    tensors: list[Tensor],
    names: tuple[str, ...],
    environment: Any,
) -> tuple[Symbol, ...]:
    symbols: list[Symbol] = []
    for expr, places in sorted(found.items(), key=lambda item: item[1]):
        n, d = places[0]
        exact = dims[n][d] == expr
        size = tensors[n].shape[d] if exact else int(environment.backed_var_to_val[expr])
        taken = any(s.name == "batch" for s in symbols)
        name = "batch" if any(d == 0 for _, d in places) and not taken else f"{names[n]}_dim_{d}"
        symbols.append(Symbol(expr, name, size, tuple(places), exact))
    return tuple(symbols)


def _environment(values: list[Tensor]) -> Any:
    """What torch.export knows of the symbols; None where there are none."""
    sizes: Iterable[Any] = (size for value in values for size in value.shape)
    first = next((size for size in sizes if isinstance(size, torch.SymInt)), None)
    return None if first is None else first.node.shape_env


_TRIVIAL: Final = (0, 1)


def _guards(environment: Any, symbols: set[Any]) -> tuple[Any, ...]:
    """The conditions on these symbols, without those that hold and those that rule out 0 and 1.

    torch rules out 0 and 1 so that no size is taken for one that is broadcast; whether the network
    computes the same there is tried (`check`).
    """
    if environment is None:
        return ()
    deferred = (each for some in environment.deferred_runtime_asserts.values() for each in some)
    found = []
    for guard in (*environment.guards, *deferred):
        expression = _replaced(guard.expr, environment.replacements)
        if expression == True or not expression.free_symbols <= symbols:  # noqa: E712
            continue
        if isinstance(expression, sympy.Ne) and {*expression.args} & {
            *map(sympy.Integer, _TRIVIAL)
        }:
            continue
        found.append(expression)
    return tuple(dict.fromkeys(found))


def _replaced(expression: Any, replacements: Mapping[Any, Any]) -> Any:
    """The expression with the symbols that torch replaced by others, until none is left."""
    for _ in range(len(replacements) + 1):
        changed = expression.xreplace(replacements)
        if changed == expression:
            break
        expression = changed
    return expression


def input_names(module: nn.Module, inputs: Inputs) -> tuple[str, ...]:
    """A name for every input tensor: its parameter of forward, and where it lies inside."""
    signature = inspect.signature(module.forward)
    bound = signature.bind(*inputs[0], **inputs[1])
    free = {n for n, p in signature.parameters.items() if p.kind is p.VAR_KEYWORD}
    leaves, _ = pytree.tree_flatten_with_path(dict(bound.arguments))
    return tuple(
        "_".join(words[1:] if words[0] in free else words)
        for path, leaf in leaves
        if isinstance(leaf, Tensor)
        for words in [[_word(key) for key in path]]
    )


def _word(key: Any) -> str:
    return str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", ""))))
