"""What a rule sees of one operator, and what it says about it.

A rule is one function of an `Op`. It relates the terms of the operator's inputs (`unify`, `fix`)
and returns a `Result`: the terms of the outputs, and which of the operator's arguments follow the
widths. Analysis and rewriting so stand side by side, and neither can forget the other.

    def layer_norm(op: Op) -> Result:
        x, weight = op.dims("input"), op.dims("weight")
        op.unify(x[-1], weight[0])
        op.normalise(x[-1])
        return Result(x, follow={"normalized_shape": [x[-1]]})
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from widthwise.graph import dims as algebra
from widthwise.graph.dims import Dims, Term


@dataclass(frozen=True)
class Result:
    """What a rule found.

    outputs: the terms of the output's dims, or a list of such for an operator with several outputs.
    follow: argument name -> the term (or list of terms) whose size the argument is.
    """

    outputs: Any
    follow: dict[str, Any] = field(default_factory=dict)


class Op:
    """One operator of the graph, its arguments by the names of its schema.

    Besides unifying and fixing, a rule records what it did to whole dims:
    contracted: terms summed over (a cut feature then contributes what a zero would).
    normalised: terms whose features are compared with each other (a cut differs from a zero).
    consumed: (argument, dim) of weights that read the features of a contracted term.
    roles: (term, name) pairs for naming axes.

    Args:
        node: the operator in the graph.
        known: the terms of the nodes before it.
        sizes: the sizes of all nodes at full width.
    """

    def __init__(self, node: fx.Node, known: dict[fx.Node, Any], sizes: dict[fx.Node, Any]) -> None:
        self.node = node
        self.known = known
        self.sizes: Any = sizes.get(node)
        self._all_sizes = sizes
        self.contracted: list[Term] = []
        self.normalised: list[Term] = []
        self.consumed: list[tuple[fx.Node, int]] = []
        self.roles: list[tuple[Term, str]] = []
        self.args: dict[str, Any] = {}
        target = node.target
        assert isinstance(target, torch._ops.OpOverload)
        for i, argument in enumerate(target._schema.arguments):
            if not argument.kwarg_only and i < len(node.args):
                self.args[argument.name] = node.args[i]
            else:
                self.args[argument.name] = node.kwargs.get(argument.name, argument.default_value)

    def dims(self, name: str) -> Dims:
        """The resolved terms of a tensor argument's dims; raises KeyError when it is absent."""
        return self.dims_of(self.args[name])

    def dims_of(self, node: Any) -> Dims:
        """The resolved terms of a node's dims."""
        return [algebra.resolve(t) for t in self.known[node]]

    def has(self, name: str) -> bool:
        """Whether a tensor argument is given."""
        return isinstance(self.args.get(name), fx.Node)

    @property
    def several(self) -> bool:
        """Whether the operator has several outputs; `sizes` is a list of lists then."""
        target = self.node.target
        assert isinstance(target, torch._ops.OpOverload)
        returns = target._schema.returns
        return len(returns) > 1 or (len(returns) == 1 and str(returns[0].type) == "List[Tensor]")

    def tensors(self) -> list[fx.Node]:
        """All tensor arguments, lists of tensors included."""
        found: list[fx.Node] = []
        for value in self.args.values():
            for item in value if isinstance(value, (list, tuple)) else (value,):
                if isinstance(item, fx.Node) and isinstance(self.known.get(item), list):
                    found.append(item)
        return found

    def number(self, value: Any) -> int:
        """An integer argument's value at full width; a symbolic one stands as its prime."""
        return int(self._all_sizes[value]) if isinstance(value, fx.Node) else int(value)

    def listed(self, value: Any, rank: int) -> list[int]:
        """A dim or several counted from the front; all where none is named."""
        if value is None or value == []:
            return list(range(rank))
        return [self.dim(d, rank) for d in (value if isinstance(value, (list, tuple)) else [value])]

    def dim(self, value: Any, rank: int) -> int:
        """A dim argument counted from the front."""
        return int(value) % rank if rank else 0

    def unify(self, a: Term, b: Term) -> None:
        """The two dims hold the same features."""
        algebra.unify(a, b)

    def fix(self, terms: Term | Iterable[Term], reason: str) -> None:
        """These dims must stay at their size."""
        for term in [terms] if isinstance(terms, tuple) else terms:
            algebra.fix(term, f"{reason} ({self.where})")

    @property
    def where(self) -> str:
        """The operator and the module that called it, for people."""
        name = str(self.node.target).removeprefix("aten.").split(".")[0]
        path = module_path(self.node)
        return f"{name} in {path}" if path else name

    def contract(self, *terms: Term) -> None:
        """The features of these terms are summed over."""
        self.contracted += terms

    def normalise(self, *terms: Term) -> None:
        """The features of these terms are compared with each other, as in softmax or layer norm."""
        self.normalised += terms

    def consume(self, name: str, dim: int) -> None:
        """This dim of a weight reads features."""
        if isinstance(self.args[name], fx.Node):
            self.consumed.append((self.args[name], dim))

    def fixed(self, sizes: Sequence[int], reason: str) -> Dims:
        """New dims that stay at their size."""
        return [algebra.fresh(s, f"{reason} ({self.where})") for s in sizes]

    def kept(self) -> Dims:
        """New fixed dims for every dim of the single output."""
        return self.fixed(self.sizes, "its size is fixed by this operator")


def module_path(node: fx.Node) -> str:
    """Dotted path of the innermost module that ran the node; empty for the model itself."""
    stack = [entry[0] for entry in (node.meta.get("nn_module_stack") or {}).values()]
    stack = [p for p in stack if not p.startswith("_empty")]
    return stack[-1] if stack else ""
