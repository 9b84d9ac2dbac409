"""Widths that the user's class can express, near those that are wanted.

A class often ties sizes that the network itself leaves free: attention that writes `hidden size =
heads x head size`, blocks that share one number, a configuration that knows one width for all
layers. What a class can say is not written anywhere; so widths are proposed, from the ones nearest
to what was asked to the more careful, and the first at which it computes the same are taken.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations

from widthwise.graph.axes import Axes
from widthwise.graph.dims import Term, fully_fixed, resolve, size
from widthwise.graph.relate import Relations
from widthwise.graph.rewrite import keeper
from widthwise.graph.slicing import count
from widthwise.variant import Widths

Expressed = Callable[[Widths], bool]


def realizable(
    relations: Relations, axes: Axes, wanted: Mapping[str, int], expressed: Expressed
) -> Widths:
    """Widths near the wanted ones at which `expressed` holds; in the last resort the full ones.

    expressed: whether the class comes back at these widths; it is asked often, so it should be
    quick.
    """
    proposals = list(_proposals(relations, axes, dict(wanted)))
    for widths in dict.fromkeys(proposals):
        if expressed(widths):
            return widths
    return _step_by_step(axes, proposals, expressed)


def _proposals(relations: Relations, axes: Axes, wanted: dict[str, int]) -> Iterator[Widths]:
    """The wanted widths, then with streams following heads, then heads whole and narrower."""
    composite = dict(_composite(relations))
    for widths in (wanted, _alike(axes, wanted)):
        for proposal in (
            widths,
            _follow(axes, composite, widths),
            _follow(axes, composite, _narrower_heads(axes, widths)),
        ):
            allowed = {name: axes.free[name].near(width) for name, width in proposal.items()}
            yield Widths(allowed)


def _alike(axes: Axes, wanted: Mapping[str, int]) -> dict[str, int]:
    """Axes of one size get the width that most of them have, as a configuration demands."""
    votes: dict[int, Counter[int]] = {}
    for name, axis in axes.free.items():
        votes.setdefault(axis.size, Counter())[wanted[name]] += 1
    return {
        name: max(votes[axis.size].items(), key=lambda item: (item[1], item[0]))[0]
        for name, axis in axes.free.items()
    }


def _composite(relations: Relations) -> Iterator[tuple[int, Term]]:
    """Size -> what is that large in several factors, such as heads x head size."""
    for dims in relations.state.values():
        for term in map(resolve, dims):
            for i, j in combinations(range(len(term) + 1), 2):
                part = term[i:j]
                if sum(not fully_fixed((f,)) for f in part) > 1:
                    yield size(part), part


def _follow(axes: Axes, composite: Mapping[int, Term], widths: dict[str, int]) -> dict[str, int]:
    """Axes as large as heads x head size are as wide as these are."""
    kept = keeper(axes, widths)
    return {
        name: count(composite[axis.size], kept) if axis.size in composite else widths[name]
        for name, axis in axes.free.items()
    }


def _narrower_heads(axes: Axes, widths: Mapping[str, int]) -> dict[str, int]:
    """Heads stay whole and each becomes narrower, in the proportion in which heads were cut."""
    new = dict(widths)
    for inner in axes.free.values():
        outer = axes.free.get(inner.inner_of or "")
        if outer is not None:
            new[outer.name] = outer.size
            share = widths[outer.name] * widths[inner.name] / (outer.size * inner.size)
            new[inner.name] = inner.near(inner.size * share)
    return new


def _step_by_step(axes: Axes, proposals: Sequence[Widths], expressed: Expressed) -> Widths:
    """From full widths, cut one kind of axes after another, as long as the class can express it."""
    best = dict(axes.complete({}))
    for proposal in dict.fromkeys(proposals[:3]):
        for kind in _kinds(axes):
            attempt = best | {name: proposal[name] for name in kind if best[name] > proposal[name]}
            if attempt != best and expressed(Widths(attempt)):
                best = attempt
    return Widths(best)


def _kinds(axes: Axes) -> list[list[str]]:
    """Axes that are alike in name and size, those that lie in the most places first."""
    kinds: dict[tuple[str, int], list[str]] = {}
    for name, axis in axes.free.items():
        kinds.setdefault((re.sub(r"\d+", "*", name), axis.size), []).append(name)

    def weight(names: list[str]) -> int:
        return sum(axes.free[n].size * len(axes.free[n].places) for n in names)

    return sorted(kinds.values(), key=weight, reverse=True)
