"""The largest network of a kind whose file fits a budget.

largest([1, 2, 4, 8], fits)                       # by bisection
widths = widest(net, lambda w: apply(net, Variant(w), recalibrate=False).bytes <= budget)
coded = fitted([budget], partial(widest_file, net, variant), make)      # narrower till it fits
sparse = densest(lambda share: made(share).bytes <= budget)
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeVar

from widthwise.elastic.network import Elastic
from widthwise.formats import Format
from widthwise.quantization import quantizable
from widthwise.variant import Variant, Widths
from widthwise.variants.apply import apply


class _Sized(Protocol):
    """Something whose file has so many bytes."""

    @property
    def bytes(self) -> int: ...


T = TypeVar("T")
Made = TypeVar("Made", bound=_Sized)
_STEPS: Final = 12  # of a bisection: a four-thousandth of the range
_MOST: Final = 0.999  # zeros

_MARGINS: Final = (0.995, 0.98, 0.95, 0.9)  # what to aim at where a file came out too large


def largest(ascending: Sequence[T], fits: Callable[[T], bool]) -> T | None:
    """The last one that fits, where all before it do; None where not even the first does."""
    count = bisect.bisect_left(ascending, True, key=lambda candidate: not fits(candidate))
    return ascending[count - 1] if count else None


def along(net: Elastic) -> list[Widths]:
    """All widths at which every axis keeps the same share, from one feature of the widest on.

    None is narrower than training draws.
    """
    widest = max((a.size for a in net.free.values() if a.inner_of is None), default=1)
    every = (net.raised(k / widest) for k in range(1, widest + 1))
    return list(dict.fromkeys(every))


def widest(net: Elastic, fits: Callable[[Widths], bool]) -> Widths | None:
    """The widest of `levels` that fits, None where none does."""
    return largest(along(net), fits)


def widest_file(net: Elastic, variant: Callable[[Widths], Variant], most: float) -> Widths | None:
    """The widest of `levels` whose file has at most so many bytes before any training.

    variant: what is made of the network at given widths.
    """

    def size(widths: Widths) -> int:
        return apply(net, variant(widths), calibration="minmax", recalibrate=False).bytes

    return widest(net, lambda widths: size(widths) <= most)


def fitted(
    limits: Sequence[int],
    widest: Callable[[float], Widths | None],
    make: Callable[[list[Widths]], Sequence[Made]],
) -> dict[int, Made]:
    """Trained networks whose files are no larger than their limits, by the place of the limit.

    Codes of trained weights take other bytes than those before: what came out too large is made
    again, as much narrower, a few times.

    limits: bytes. widest: the widest network of at most so many bytes before any training. make:
    trains networks, all together.
    """
    found: dict[int, Made] = {}
    targets = {i: float(limit) for i, limit in enumerate(limits)}
    for margin in _MARGINS:
        wanted = {i: kept for i, most in targets.items() if (kept := widest(most)) is not None}
        if not wanted:
            break
        large: dict[int, float] = {}
        for i, made in zip(wanted, make(list(wanted.values())), strict=True):
            if made.bytes <= limits[i]:
                found[i] = made
            else:
                large[i] = targets[i] * margin * limits[i] / made.bytes
        targets = large
    return found


def coded(net: Elastic, form: Format | None, widths: Widths) -> Variant:
    """The network at these widths with all its matrices in one format; None leaves floats."""
    return Variant(widths, {}, dict.fromkeys(quantizable(net), form) if form else {})


def densest(fits: Callable[[float], bool]) -> float | None:
    """The smallest share of zeros, from 0 to 99.9 %, with which it fits; None for none."""
    if fits(0.0):
        return 0.0
    if not fits(_MOST):
        return None
    low, high = 0.0, _MOST
    for _ in range(_STEPS):
        # The geometric mean of what is kept: halves of small networks matter as halves of large.
        middle = 1 - ((1 - low) * (1 - high)) ** 0.5
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high
