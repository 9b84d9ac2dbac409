"""What cuts of a network are stored as, told from their shapes: of many, three are made.

    shapes = Shapes(net, widths)
    shapes.stored(w).bytes                  # of the file, to the byte
    shapes.module(w)                        # the cut network itself, as `Elastic.cut` has it

That a cut is of the user's own class is proven for the narrowest, a middle and the widest of the
widths that cut the same axes. The sizes that are set on the class there follow some dims of the
network; at the other widths they are set as those dims say. Where no dim tells a size, or the three
differ in what is set, every cut is made and proven.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from widthwise.elastic import zeros
from widthwise.elastic.network import Elastic
from widthwise.graph.cut import cut_state
from widthwise.graph.dims import Term, resolve, size
from widthwise.graph.rebuild.module import Patch, apply_patches, held_sizes
from widthwise.graph.rewrite import keeper
from widthwise.graph.sharded import whole
from widthwise.graph.slicing import count
from widthwise.store.file import Stored, prepare
from widthwise.variant import Widths

_Size = tuple[str, str, int | None]  # module path, attribute, position in a tuple
_Keep = Any  # how many features of a factor are kept


class Shapes:
    """What a network is stored as at any of some widths.

    widths: those that will be asked for. Raises WidthError, FileError.
    """

    def __init__(self, net: Elastic, widths: Sequence[Widths]) -> None:
        self.net = net
        self.widths = list(map(net.complete, widths))
        self.groups: dict[frozenset[str], _Group] = {}

    def stored(self, widths: Widths) -> Stored:
        """As `prepare` has it, without a module and the tensors' data."""
        widths = self.net.complete(widths)
        return self._group(widths).stored(widths)

    def module(self, widths: Widths) -> nn.Module:
        """The cut network, in the model's modes."""
        widths = self.net.complete(widths)
        return self._group(widths).module(widths)

    def _group(self, widths: Widths) -> _Group:
        uncut = self._uncut(widths)
        if uncut not in self.groups:
            alike = [w for w in self.widths if self._uncut(w) == uncut]
            self.groups[uncut] = _Group(self.net, alike)
        return self.groups[uncut]

    def _uncut(self, widths: Widths) -> frozenset[str]:
        """The axes that stay full, on which it depends what a cut is stored as."""
        return frozenset(n for n, axis in self.net.free.items() if widths[n] == axis.size)


class _Group:
    """Widths that cut the same axes."""

    def __init__(self, net: Elastic, widths: Sequence[Widths]) -> None:
        self.net = net
        by_size = sorted(widths, key=lambda w: sum(w.values()))
        probes = (by_size[0], by_size[len(by_size) // 2], by_size[-1])
        # Of their tensors the shapes are kept, for there may be many groups.
        self.proven = {w: _outline(prepare(net, w)) for w in dict.fromkeys(probes)}
        self.told = self._patterns()
        self.last: Stored | None = None  # that was made because nothing tells it

    def stored(self, widths: Widths) -> Stored:
        """See `Shapes`."""
        if widths in self.proven:
            return self.proven[widths]
        patches = self._patches(widths)
        if patches is None:
            return _outline(self._made(widths))
        first = next(iter(self.proven.values()))
        known = self.net.engine.state()
        keep = keeper(self.net.engine.table, widths)
        tensors = {name: self._shape(name, t, keep) for name, t in first.tensors.items()}
        full = {
            name: tuple(known[name].shape)
            for name, t in tensors.items()
            if name in known and known[name].shape != t.shape
        }
        manifest = replace(first.manifest, widths=widths, patches=patches, full=full)
        return replace(first, manifest=manifest, tensors=tensors)

    def module(self, widths: Widths) -> nn.Module:
        """See `Shapes`."""
        patches = self._patches(widths)
        # What is built from a configuration holds more that follows from it than sizes.
        built = any("." in attribute for _, attribute, _ in self.told or ())
        if patches is None or built:
            return self._made(widths).module
        net = self.net
        if next(iter(self.proven.values())).reason is not None:
            return net.engine.cut(widths, same_class=False)[0]
        with whole(net.model):  # whose tensors are others than outside
            full = net.engine.state()
            cut = cut_state(net.engine.relations, net.engine.table, widths, full, net.engine.scaled)
            shell = copy.deepcopy(net.model, {id(full[name]): t for name, t in cut.items()})
        apply_patches(shell, patches)
        zeros.follow(net.model, shell)
        return shell

    def _made(self, widths: Widths) -> Stored:
        if self.last is None or self.last.manifest.widths != widths:
            self.last = prepare(self.net, widths)
        return self.last

    def _shape(self, name: str, like: Tensor, keep: _Keep) -> Tensor:
        dims = self.net.engine.relations.state.get(name)
        shape = like.shape if dims is None else [count(t, keep) for t in dims]
        return _form(like, shape)

    def _patches(self, widths: Widths) -> tuple[Patch, ...] | None:
        """The sizes that are set at these widths; None where they cannot be told."""
        if self.told is None:
            return None
        keep = keeper(self.net.engine.table, widths)
        found: dict[tuple[str, str], dict[int | None, int]] = {}
        for (path, attribute, position), terms in self.told.items():
            values = {count(t, keep) for t in terms}
            if len(values) != 1:
                return None
            found.setdefault((path, attribute), {})[position] = values.pop()
        held = list(held_sizes(self.net.model))
        now = [_with(patch, found.get((patch.module, patch.attribute), {})) for patch in held]
        return tuple(new for new, old in zip(now, held, strict=True) if new != old)

    def _patterns(self) -> dict[_Size, tuple[Term, ...]] | None:
        """For each size that the cuts looked at set, the dims that it is equal to in all of them.

        None where that is not so, or where some of the cuts are of the user's class and others not.
        """
        stored = list(self.proven.values())
        if len({s.manifest.kind for s in stored}) > 1 or not self._shaped(stored):
            return None
        full = dict(_numbers(held_sizes(self.net.model)))
        sets = [full | dict(_numbers(s.manifest.patches)) for s in stored]
        if any(s.keys() != full.keys() for s in sets):
            return None
        changed = [place for place in full if any(s[place] != full[place] for s in sets)]
        known = self._dims_by_size()
        dims = {p: known.get((full[p], *(s[p] for s in sets)), ()) for p in changed}
        return None if () in dims.values() else dims

    def _shaped(self, stored: Sequence[Stored]) -> bool:
        """Whether the tensors of these are of the shapes that the network's dims tell."""
        first = stored[0]
        for each in stored:
            if (
                each.tensors.keys() != first.tensors.keys()
                or each.manifest.tied != first.manifest.tied
            ):
                return False
            keep = keeper(self.net.engine.table, each.manifest.widths)
            told = {n: self._shape(n, t, keep).shape for n, t in first.tensors.items()}
            if any(t.shape != told[n] for n, t in each.tensors.items()):
                return False
        return True

    def _dims_by_size(self) -> dict[tuple[int, ...], tuple[Term, ...]]:
        """Sizes at full width and at the widths looked at -> the dims that have them."""
        keeps = [keeper(self.net.engine.table, w) for w in self.proven]
        found: dict[tuple[int, ...], dict[Term, None]] = {}
        for term in dict.fromkeys(self._dims()):
            sizes = (size(term), *(count(term, keep) for keep in keeps))
            found.setdefault(sizes, {})[term] = None
        return {sizes: tuple(terms) for sizes, terms in found.items()}

    def _dims(self) -> Iterator[Term]:
        """The dims of all tensors, and the factors that they are made of."""
        for related in self.net.engine.relations.programs:
            for dims in [*self.net.engine.relations.state.values(), *related.dims.values()]:
                for term in _terms(dims):
                    yield resolve(term)
                    yield from ((f,) for f in resolve(term))


def _form(like: Tensor, shape: Sequence[int]) -> Tensor:
    """A tensor of this shape without data."""
    made = torch.empty(shape, dtype=like.dtype, device="meta")
    return nn.Parameter(made, like.requires_grad) if isinstance(like, nn.Parameter) else made


def _outline(stored: Stored) -> Stored:
    """What is stored, without a module and the tensors' data."""
    tensors = {name: _form(t, t.shape) for name, t in stored.tensors.items()}
    return replace(stored, module=nn.Module(), tensors=tensors)


def _terms(dims: Any) -> Iterator[Term]:
    """The terms of a tensor's dims, or of each of several tensors'."""
    for each in dims or ():
        if isinstance(each, tuple):
            yield each
        elif isinstance(each, list):
            yield from _terms(each)


def _numbers(patches: Any) -> Iterator[tuple[_Size, int]]:
    for patch in patches:
        if isinstance(patch.value, tuple):
            for i, value in enumerate(patch.value):
                yield (patch.module, patch.attribute, i), value
        else:
            yield (patch.module, patch.attribute, None), patch.value


def _with(patch: Patch, values: Mapping[int | None, int]) -> Patch:
    if not isinstance(patch.value, tuple):
        return replace(patch, value=values.get(None, patch.value))
    return replace(patch, value=tuple(values.get(i, v) for i, v in enumerate(patch.value)))
