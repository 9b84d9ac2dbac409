"""Where the scale of structural dropout stands: full size / width, by `Draw(scale=True)`.

As published (Knodt, 2022) it multiplies what a layer makes, behind its batch norm and in front of
the activation. It is folded into weights, in the elastic network as in its cuts:

    scaled_dims(relations, axes)     # GELU behind fc1: {("fc1.weight", 0), ("fc1.bias", 0)}
                                     # ReLU behind fc1: {("fc2.weight", 1)}

An activation f with f(s x) = s f(x), such as ReLU, and whatever else lies between what makes
features and what reads them may come before the scale as well: then it is on the weights that read.
It is there, too, where no single layer makes what an activation gets, as in products (gated units,
attention) and recurrent layers, and where the user has placed a layer of structural dropout behind
the activation (`placed.py`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Final

import torch
import torch.utils._pytree as pytree
from torch import fx

from widthwise.graph.axes import Axes
from widthwise.graph.dims import Factor, Term, free_factors, fully_fixed, resolve
from widthwise.graph.relate import Related, Relations

Dim = tuple[str, int]  # of a tensor

_LINEAR: Final = frozenset(
    "linear addmm conv1d conv2d conv3d convolution conv_transpose1d conv_transpose2d "
    "conv_transpose3d embedding".split()
)
_NORMS: Final = frozenset("batch_norm layer_norm group_norm instance_norm rms_norm".split())
_JOINS: Final = frozenset("cat concat stack".split())
_SUMS: Final = frozenset("add sub maximum minimum where".split())
_PRODUCTS: Final = frozenset("mul multiply div divide true_divide".split())
_THROUGH: Final = frozenset(  # f(s x) = s f(x) for s > 0, of one argument
    """
    relu leaky_relu rrelu rrelu_with_noise prelu neg abs dropout feature_dropout native_dropout
    clone contiguous alias detach _to_copy to type_as max min amax amin mean sum nansum cumsum
    view reshape _unsafe_view flatten unflatten squeeze unsqueeze expand expand_as permute
    transpose t numpy_T mT movedim swapaxes select slice index index_select narrow split
    split_with_sizes chunk unbind getitem roll flip repeat repeat_interleave gather matmul bmm mm
    pixel_shuffle pixel_unshuffle im2col col2im unfold
    """.split()
)


@dataclass(frozen=True)
class Front:
    """The place right behind the layers that make the features of an axis.

    dims: of the tensors of those layers. activations: operators that need it to be there, in order.
    """

    dims: frozenset[Dim]
    activations: tuple[fx.Node, ...]


def scaled_dims(relations: Relations, axes: Axes, behind: Collection[str] = ()) -> frozenset[Dim]:
    """The dims of tensors that are multiplied by full size / width.

    behind: axes whose scale is on the weights that read them, whatever stands in between.
    """
    state = relations.state
    read = {(t, d) for t, d in relations.consumed if not fully_fixed(state[t][d])}
    made: set[Dim] = set()
    for names in _together(axes, [state[t][d] for t, d in read]):
        fronts = [None if n in behind else in_front(relations, axes, n) for n in names]
        known = [front for front in fronts if front is not None]
        if len(known) == len(fronts) and any(front.activations for front in known):
            factors = {f for name in names for f in _factors(axes, name)}
            read -= {(t, d) for t, d in read if _holds(state[t][d], factors)}
            made |= {dim for front in known for dim in front.dims}
    return frozenset(read | made)


def _together(axes: Axes, terms: Collection[Term]) -> list[set[str]]:
    """The free axes, those that one dim of a weight reads side by side in one set."""
    found = [{name} for name in axes.free]
    for term in terms:
        here = {axes.of[f] for f in free_factors(term) if f in axes.of}
        apart = [names for names in found if names.isdisjoint(here)]
        joined = set[str]().union(*(names for names in found if not names.isdisjoint(here)))
        found = [*apart, joined] if joined else apart
    return found


def in_front(relations: Relations, axes: Axes, name: str) -> Front | None:
    """The place behind the layers that make an axis' features; None where they are no layers.

    That is so of products (gated units, attention), recurrent layers, and axes inside another.
    """
    if axes.table[name].inner_of is not None:
        return None
    related = next(r for r in relations.programs if not r.program.training)
    search = _Search(relations, related, axes, _factors(axes, name))
    try:
        return search.front()
    except _ElsewhereError:
        return None


class _ElsewhereError(Exception):
    """The features are made in a way for which no place in front of an activation is known."""


@dataclass
class _Search:
    """Goes back from what reads the features of an axis to the layers that make them.

    factors: the axis'. found, activations: what is to be scaled, and what it stands before.
    """

    relations: Relations
    related: Related
    axes: Axes
    factors: set[Factor]
    found: dict[Dim, fx.Node] = field(default_factory=dict)
    activations: list[fx.Node] = field(default_factory=list)

    def front(self) -> Front:
        """The place. Raises _ElsewhereError."""
        back = self._back()
        makers: dict[fx.Node, frozenset[fx.Node]] = {}
        for node in self.related.program.graph.nodes:
            if node in back:
                below = frozenset[fx.Node]().union(*(makers[value] for value in back[node]))
                makers[node] = self._makers(node, back[node], below)
        used = (user for parameter in self.found.values() for user in parameter.users)
        if not back or not all(user in back for user in used):
            raise _ElsewhereError  # a tensor to be scaled that something else uses as it is
        return Front(frozenset(self.found), tuple(self.activations))

    def _back(self) -> dict[fx.Node, list[fx.Node]]:
        """All values that must be scaled once, each with those that it is made of."""
        ahead: list[fx.Node] = []
        for node, terms in self.related.contracted.items():
            if any(_holds(term, self.factors) for term in terms):
                values, parameters = self._inputs(node)
                if values and not any(self._reads(p) for p in parameters):
                    raise _ElsewhereError
                ahead += values
        found: dict[fx.Node, list[fx.Node]] = {}
        while ahead:
            node = ahead.pop()
            if node not in found:
                made = operator(node) in _LINEAR | _NORMS
                found[node] = [] if made else self._inputs(node)[0]
                if not made and not found[node]:
                    raise _ElsewhereError
                ahead += found[node]
        return found

    def _makers(
        self, node: fx.Node, values: list[fx.Node], below: frozenset[fx.Node]
    ) -> frozenset[fx.Node]:
        """The layers that make a value; below: those that make what it is made of."""
        name, parameters = operator(node), self._inputs(node)[1]
        if name in _LINEAR | _NORMS:
            return self._scaled(node, [p for p in parameters if not self._reads(p)])
        if any(_holds(t, self.factors) for t in self.related.normalised.get(node, ())):
            raise _ElsewhereError
        if name in _SUMS | _JOINS:
            for parameter in parameters:
                self._note(parameter)
            if name in _SUMS and (
                len(node.all_input_nodes) != len(values) + len(parameters) or _adds_a_number(node)
            ):
                self.activations.append(node)
        elif len(below) > 1 and len(values) > 1:
            raise _ElsewhereError  # a product of two things would be scaled twice
        elif len(values) > 1 or not (name in _THROUGH | _PRODUCTS or _resizes(name)):
            self.activations.append(node)
        return below

    def _scaled(self, node: fx.Node, parameters: list[fx.Node]) -> frozenset[fx.Node]:
        """Note the weight and the bias of a layer. Raises _ElsewhereError for one without."""
        running = ("running_mean", "running_var")
        names = {p: self.related.program.state[p.name].rpartition(".")[2] for p in parameters}
        trained = [p for p in parameters if names[p] not in running]
        least = 1 if operator(node) in _NORMS else 2  # dims of its weight
        if not any(len(self.related.dims[p]) >= least for p in trained):
            raise _ElsewhereError
        for parameter in trained:
            self._note(parameter)
        return frozenset({node})

    def _note(self, parameter: fx.Node) -> None:
        name = self.related.program.state[parameter.name]
        for dim, term in enumerate(self.relations.state[name]):
            if not _holds(term, self.factors):
                continue
            others = {f for f in free_factors(term) if f in self.axes.of} - self.factors
            twice = any(known == name and at != dim for known, at in self.found)
            if others or twice or any(f.parts for f in resolve(term)):
                raise _ElsewhereError
            self.found[name, dim] = parameter

    def _inputs(self, node: fx.Node) -> tuple[list[fx.Node], list[fx.Node]]:
        """(values, parameters) that an operator takes and that hold the features."""
        if not isinstance(node.target, torch._ops.OpOverload) and operator(node) != "getitem":
            raise _ElsewhereError
        found: tuple[list[fx.Node], list[fx.Node]] = [], []
        for each in filter(self._carries, node.all_input_nodes):
            found[each.name in self.related.program.state].append(each)
        return found

    def _carries(self, node: fx.Node) -> bool:
        dims = pytree.tree_leaves(self.related.dims.get(node, []), is_leaf=_is_term)
        return any(_holds(term, self.factors) for term in dims if _is_term(term))

    def _reads(self, parameter: fx.Node) -> bool:
        name = self.related.program.state[parameter.name]
        dims = self.relations.state[name]
        there = [d for d, term in enumerate(dims) if _holds(term, self.factors)]
        return any((name, d) in self.relations.consumed for d in there)


def _is_term(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(f, Factor) for f in value)


def _holds(term: Term, factors: Collection[Factor]) -> bool:
    return any(f in factors for f in free_factors(term))


def _factors(axes: Axes, name: str) -> set[Factor]:
    return {f for f, of in axes.of.items() if of == name}


def operator(node: fx.Node) -> str:
    """The name of what a node calls, without its overload: "gelu"."""
    if getattr(node.target, "__name__", "") == "getitem":
        return "getitem"
    return str(node.target).removeprefix("aten.").split(".")[0].rstrip("_")


def _adds_a_number(node: fx.Node) -> bool:
    return operator(node) in ("add", "sub") and len(node.all_input_nodes) < 2


def _resizes(name: str) -> bool:
    return any(word in name for word in ("pool", "upsample", "pad"))
