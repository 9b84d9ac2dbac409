"""The sizes that the user's classes hold as attributes: finding what to set them to.

    Attention.num_heads 12 -> 6        Mlp.split (64, 64) -> (32, 32)

An attribute that equals a size which was cut may be that size, or equal it by chance. The operators
that a module runs say which sizes its code speaks of: those attributes are set first. Then the
module is run, and where it fails the attributes of the classes that were running are set in other
ways, as long as it gets further. The outputs decide in the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product

from torch import nn

from widthwise.graph.rebuild.equivalence import Outcome
from widthwise.graph.rebuild.evidence import Evidence, Sizes
from widthwise.graph.rebuild.layers import layer_sizes

ATTEMPTS = 64  # ways of setting the sizes that are tried

Number = tuple[str, str, int | None]  # module path, attribute, position in a tuple or list


@dataclass(frozen=True)
class Group:
    """Attributes of one name in all modules of one class, of one value: set in the same manner.

    options: ways of setting them, each a value for every number; the first is the one of the start.
    """

    kind: type
    numbers: tuple[Number, ...]
    options: tuple[tuple[int, ...], ...]
    spoken: bool


Choice = dict[Group, int]  # group -> which option


def search(
    groups: Sequence[Group], outcome: Callable[[dict[Number, int]], Outcome]
) -> dict[Number, int] | str:
    """The values with which the module computes the same, or what stands in the way."""
    tried: dict[tuple[int, ...], Outcome] = {}

    def attempt(choice: Choice) -> Outcome:
        key = tuple(choice.values())
        if key not in tried:
            tried[key] = outcome(values(choice))
        return tried[key]

    choice = dict.fromkeys(groups, 0)
    best = first = attempt(choice)
    while best.problem is not None and len(tried) < ATTEMPTS:
        better = next(
            (
                other
                for other in _neighbours(choice, best)
                if len(tried) < ATTEMPTS and _further(attempt(other), best)
            ),
            None,
        )
        if better is None:
            return (first if best.calls == first.calls else best).problem or ""
        choice, best = better, attempt(better)
    return values(choice) if best.problem is None else best.problem


def _further(one: Outcome, other: Outcome) -> bool:
    return one.problem is None or one.calls > other.calls


def values(choice: Choice) -> dict[Number, int]:
    """What every number is set to."""
    return {
        number: value
        for group, option in choice.items()
        for number, value in zip(group.numbers, group.options[option], strict=True)
    }


def _neighbours(choice: Choice, outcome: Outcome) -> Iterator[Choice]:
    """Choices that differ in one group, then in two; classes that were running come first."""
    running = [type(m) for m in reversed(outcome.stack)]
    groups = sorted(
        choice, key=lambda g: running.index(g.kind) if g.kind in running else len(running)
    )
    for many in (1, 2):
        for changed in combinations(groups, many):
            others = [[o for o in range(len(g.options)) if o != choice[g]] for g in changed]
            for options in product(*others):
                yield {**choice, **dict(zip(changed, options, strict=True))}


def size_groups(model: nn.Module, known: Evidence) -> list[Group]:
    """The attributes that may have to follow the cut."""
    members: dict[tuple[type, str, int | None, int], list[Number]] = {}
    for path, module in model.named_modules():
        for attribute, index, value in _numbers(module):
            if known.everywhere.get(value, {value}) != {value}:
                key = (type(module), attribute, index, value)
                members.setdefault(key, []).append((path, attribute, index))
    groups = [_group(key[0], key[3], numbers, known) for key, numbers in members.items()]
    return [g for g in groups if len(g.options) > 1]


def _numbers(module: nn.Module) -> Iterator[tuple[str, int | None, int]]:
    """(attribute, position, value) of the whole numbers that a module holds."""
    torchs_own = type(module).__module__.startswith("torch.nn.")
    if torchs_own and not isinstance(module, nn.MultiheadAttention):
        return
    known = {"training", *(name for name, _ in layer_sizes(module, 1))}
    for name, value in vars(module).items():
        if name in known:
            continue
        if type(value) is int:
            yield name, None, value
        elif isinstance(value, (tuple, list)) and all(type(v) is int for v in value):
            for i, item in enumerate(value):
                yield name, i, item


def _group(kind: type, old: int, numbers: list[Number], known: Evidence) -> Group:
    near = [known.near.get(path, {}) for path, _, _ in numbers]
    unchanged = tuple(old for _ in numbers)
    told = list(_readings(near, old))
    guessed = [
        *_readings([known.below(path) for path, _, _ in numbers], old),
        *_readings([known.everywhere] * len(numbers), old),
    ]
    spoken = bool(told)
    ordered = [*told, unchanged, *guessed] if spoken else [unchanged, *guessed]
    return Group(kind, tuple(numbers), tuple(dict.fromkeys(ordered)), spoken)


def _readings(sources: Sequence[Sizes], old: int) -> Iterator[tuple[int, ...]]:
    """Ways to read what a size became, where it became several: all the smallest, and so on."""
    found = [sorted(s.get(old, {old}) - {old}) for s in sources]
    for rank in range(max(map(len, found), default=0)):
        yield tuple(v[min(rank, len(v) - 1)] if v else old for v in found)
