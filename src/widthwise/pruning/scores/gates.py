"""Where the features of an axis are read, and sums over what belongs to each of them.

A feature can be thought of as having a *gate*, a factor of 1 that is set to 0 when it is removed.
The gate multiplies all weights that read the feature, so whatever is known of those weights one by
one (a derivative times the weight, say) adds up to what is known of the gate:

    gates = find_gates(net)
    per_feature(gates, {"fc2.weight": g * w})["fc1"]      # dL/dgate, (256,)
    opened(gates, {"fc1": mask}, state)["fc2.weight"]     # what it is multiplied by, (1, 256)

Features that no weight reads (queries and keys, which meet in a product) have the gate at the last
weights that make or scale them. Of features that both are read and meet in such a product (head
sizes that queries, keys and values share) only what is read is seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from widthwise.elastic.network import Elastic
from widthwise.graph.axes import Place, module_of
from widthwise.graph.dims import Factor, Term, resolve
from widthwise.pruning.consumers import find_readers


@dataclass(frozen=True)
class Held:
    """A dim of a tensor that holds features of an axis.

    feature: for each entry of the dim the feature that it belongs to, int64, -1 for none.
    """

    tensor: str
    dim: int
    feature: Tensor

    def entries(self, size: int) -> Tensor:
        """Where in the dim each feature is: (size, entries of a feature) int64."""
        return entries_of(self.feature, size)

    def rows(self, tensor: Tensor, size: int) -> Tensor:
        """What the tensor holds of each feature, (size, numbers), float64; a complex one is two."""
        entries = self.entries(size).to(tensor.device)
        found = tensor.detach().movedim(self.dim, 0)[entries]
        return (torch.view_as_real(found) if found.is_complex() else found).double().flatten(1)


@dataclass(frozen=True)
class Gate:
    """Where the gates of an axis' features are. size: the number of features."""

    size: int
    held: tuple[Held, ...]


def find_gates(net: Elastic, *, everywhere: bool = False) -> dict[str, Gate]:
    """The gates of every free axis; tied tensors go by the first of their names.

    everywhere: all parameters that the features touch, rather than those that read them.
    """
    first = {id(p): name for name, p in reversed(list(net.model.named_parameters()))}
    named = net.model.named_parameters(remove_duplicate=False)
    parameters = {name: first[id(p)] for name, p in named}
    found, readers = {}, find_readers(net)
    for name, axis in net.free.items():
        places = [p for p in axis.places if p.tensor in parameters]
        reads = [p for p in places if (p.tensor, p.dim) in readers.read]
        chosen = held(net, name, places if everywhere else reads or _last_makers(places))
        once = {(parameters[h.tensor], h.dim): h.feature for h in chosen}
        distinct = tuple(Held(tensor, dim, f) for (tensor, dim), f in once.items())
        found[name] = Gate(axis.size, distinct)
    return found


def held(net: Elastic, name: str, places: Iterable[Place]) -> tuple[Held, ...]:
    """Places of an axis with the features that they hold."""
    factors = {f for f, of in net.engine.table.of.items() if of == name}
    return tuple(Held(p.tensor, p.dim, labels(p.term, factors)) for p in places)


def _last_makers(places: list[Place]) -> list[Place]:
    last = module_of(places[-1].tensor)
    return [p for p in places if module_of(p.tensor) == last]


def read_weights(gate: Gate, state: Mapping[str, Tensor]) -> Tensor:
    """All weights that the gate of each feature multiplies, (features, numbers), float64."""
    return torch.cat([place.rows(state[place.tensor], gate.size) for place in gate.held], dim=1)


def labels(term: Term, factors: Iterable[Factor]) -> Tensor:
    """For each entry of a dim the feature of these factors that it belongs to, or -1: int64."""
    wanted = set(factors)
    found = torch.full((1,), -1)
    for f in resolve(term):
        if f.parts:
            own = torch.cat([labels(part, wanted) for part in f.parts])
        else:
            own = torch.arange(f.size) if f in wanted else torch.full((f.size,), -1)
        found = torch.where(own >= 0, own, found.unsqueeze(1)).flatten()
    return found


def entries_of(feature: Tensor, size: int) -> Tensor:
    """The entries of each feature, (size, entries of a feature), from the feature of each entry."""
    return feature.argsort(stable=True)[int((feature < 0).sum()) :].view(size, -1)


def per_feature(gates: Mapping[str, Gate], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Sums over the weights that belong to each feature, by axis: (features,) each.

    weights: by the name of the tensor, of its shape.
    """
    return {name: sum_over(gate.size, gate.held, weights) for name, gate in gates.items()}


def sum_over(size: int, places: Iterable[Held], weights: Mapping[str, Tensor]) -> Tensor:
    """Sums over the entries of these places that belong to each feature: (size,)."""
    total = None
    for place in places:
        value = weights[place.tensor]
        others = [d for d in range(value.dim()) if d != place.dim]
        value = value.sum(others) if others else value
        feature = place.feature.to(value.device)
        total = value.new_zeros(size) if total is None else total
        total.index_add_(0, feature[feature >= 0], value[feature >= 0])
    assert total is not None, "an axis has places"
    return total


def opened(
    gates: Mapping[str, Gate],
    values: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    *,
    add: bool = False,
) -> dict[str, Tensor]:
    """What weights are multiplied by when the gates have these values, by the name of the tensor.

    Each has the dims of its tensor, of size 1 where there are no gates. What two features share is
    multiplied by both values; with `add` by their sum: the direction, relative to the weights, in
    which they move when the gates move by `values`.
    """
    found: dict[str, Tensor] = {}
    for name, gate in gates.items():
        for place in gate.held:
            feature = place.feature.to(values[name].device)
            value = torch.where(feature >= 0, values[name][feature], 0.0 if add else 1.0)
            dims = [1] * tensors[place.tensor].dim()
            dims[place.dim] = -1
            value = value.view(dims)
            old = found.get(place.tensor)
            combined = value if old is None else old + value if add else old * value
            found[place.tensor] = combined
    return found
