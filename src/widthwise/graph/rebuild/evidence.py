"""Which sizes became which when a network was cut: what its code must say where it says sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from torch import nn

from widthwise.graph.axes import Axes
from widthwise.graph.dims import Factor, Term, fully_fixed, resolve, size
from widthwise.graph.relate import Relations
from widthwise.graph.rewrite import keeper
from widthwise.graph.rules.op import module_path
from widthwise.graph.slicing import count

Sizes = dict[int, set[int]]  # old size -> what it became, in one place or another


@dataclass
class Evidence:
    """Old and new sizes, by the module whose operators use them, and of all tensors.

    near: module path -> sizes that operators run by this very module hold as literals.
    everywhere: sizes of all dims of all tensors and literals, wholes and factors.
    groups: module path -> number of groups of its convolution or group norm.
    """

    near: dict[str, Sizes] = field(default_factory=dict)
    everywhere: Sizes = field(default_factory=dict)
    groups: dict[str, int] = field(default_factory=dict)

    def below(self, path: str) -> Sizes:
        """The literals of a module and of everything inside it."""
        found: Sizes = {}
        for where, sizes in self.near.items():
            if not path or where == path or where.startswith(f"{path}."):
                _merge(found, sizes)
        return found


def evidence(
    model: nn.Module, relations: Relations, axes: Axes, widths: Mapping[str, int]
) -> Evidence:
    """What the captured graphs tell of the sizes at these widths."""
    kept = keeper(axes, widths)
    first = _first_paths(model)
    found = Evidence()
    for dims in relations.state.values():
        for term in dims:
            _note(found.everywhere, term, kept)
    for related in relations.programs:
        for node, follow in related.follow.items():
            path = first.get(module_path(node), module_path(node))
            for name, value in follow.items():
                for term in value if isinstance(value, list) else [value]:
                    if isinstance(term, tuple) and not fully_fixed(term):
                        _note(found.near.setdefault(path, {}), term, kept)
                if name in ("groups", "num_groups"):
                    found.groups[path] = count(value, kept)
    for sizes in found.near.values():
        _merge(found.everywhere, sizes)
    return found


def _first_paths(model: nn.Module) -> dict[str, str]:
    """Every path of every module -> the first of its paths: modules may be used in many places."""
    first: dict[int, str] = {}
    return {
        path: first.setdefault(id(module), path)
        for path, module in model.named_modules(remove_duplicate=False)
    }


def _merge(into: Sizes, sizes: Sizes) -> None:
    for old, new in sizes.items():
        into.setdefault(old, set()).update(new)


def _note(known: Sizes, term: Term, kept: Callable[[Factor], int]) -> None:
    for part in _spoken(term):
        known.setdefault(size(part), set()).add(count(part, kept))


def _spoken(term: Term) -> Iterator[Term]:
    """The forms in which code may speak of a dim: the whole, its features alone, one by one."""
    term = resolve(term)
    if fully_fixed(term):
        return
    yield term
    yield tuple(f for f in term if not fully_fixed((f,)))
    for f in term:
        if not fully_fixed((f,)):
            yield (f,)
        for part in f.parts:
            yield from _spoken(part)
