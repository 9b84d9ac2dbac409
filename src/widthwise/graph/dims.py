"""What a dimension is made of, and how two dimensions are found to be the same.

A dim of a tensor is a *term*: a product of factors, outermost first, as memory is laid out in
row-major order. `()` is the empty product, a dim of size 1, so broadcasting and squeezing need no
special case. A `Factor` is one of

    free      nothing is known but its size           a candidate for an axis
    fixed     its size must stay, for a reason        batch, classes, kernel
    bound     found to equal a product of factors     768 = heads 12 x head size 64
    a sum     made of parts laid end to end           cat([a, b]), or the halves of a chunk

and moves down that list only, never back. `unify` makes two terms equal by aligning the smallest
blocks of factors that have the same size and splitting factors where sizes demand it. Where two
terms cannot be related, both are fixed: that costs freedom, never correctness.

    a = fresh(768); b = (fresh(12), fresh(64))
    unify((a,), b)                  # a is now heads x head size
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

Term = tuple["Factor", ...]
Dims = list[Term]


class Factor:
    """One factor of a dim. Only this module changes it.

    size: number of features, > 1. fixed: why it must stay, or None. bound: the product it equals.
    parts: the terms it is a sum of.
    """

    __slots__ = ("bound", "fixed", "parts", "size")

    def __init__(self, size: int, fixed: str | None = None, parts: tuple[Term, ...] = ()) -> None:
        self.size = size
        self.fixed = fixed
        self.parts = parts
        self.bound: Term | None = None

    @property
    def free(self) -> bool:
        """Nothing is known of it but its size."""
        return self.bound is None and not self.parts and self.fixed is None

    def __repr__(self) -> str:
        if self.bound is not None:
            return f"({' x '.join(map(repr, self.bound))})"
        if self.parts:
            return f"({' + '.join(show(p) for p in self.parts)})"
        return f"{self.size}" if self.fixed else f"?{self.size}"


def fresh(size: int, fixed: str | None = None) -> Term:
    """A new term of one factor, free or fixed; the empty product for size 1."""
    if size == 0:
        fixed = fixed or "it is empty"
    return () if size == 1 else (Factor(size, fixed),)


def concatenated(terms: Sequence[Term]) -> Term:
    """The terms laid end to end as one dim."""
    parts: list[Term] = []
    for term in map(resolve, terms):
        nested = len(term) == 1 and term[0].parts
        parts.extend(nested if nested else [term])
    if len(parts) == 1:
        return parts[0]
    total = sum(size(p) for p in parts)
    if all(fully_fixed(p) for p in parts):
        return fresh(total, next((why(p) for p in parts if p), "its features are taken one by one"))
    return (Factor(total, parts=tuple(parts)),)


def resolve(term: Term) -> Term:
    """The term with everything known about its factors put in."""
    if all(f.bound is None for f in term):
        return term
    out: list[Factor] = []
    for f in term:
        out.extend((f,) if f.bound is None else resolve(f.bound))
    return tuple(out)


def size(term: Term) -> int:
    """Number of features at full width."""
    return math.prod(f.size for f in term)


def fully_fixed(term: Term) -> bool:
    """Whether nothing in the term can be cut."""
    return next(free_factors(term), None) is None


def free_factors(term: Term) -> Iterator[Factor]:
    """The free factors inside a term, sums included, outermost first."""
    for f in resolve(term):
        if f.parts:
            for part in f.parts:
                yield from free_factors(part)
        elif f.fixed is None:
            yield f


def why(term: Term) -> str:
    """The reason why the largest factor of a term stays as it is."""
    for f in sorted(resolve(term), key=lambda f: -f.size):
        reason = f.fixed or next((r for r in map(why, f.parts) if r), "")
        if reason:
            return reason
    return "it has a fixed size"


def fix(term: Term, reason: str) -> None:
    """Make every free factor of the term stay at its size."""
    for f in list(free_factors(term)):
        f.fixed = reason


def show(term: Term) -> str:
    """A term as text: ?64 is free, 3 is fixed."""
    return " x ".join(map(repr, resolve(term))) or "1"


def unify(a: Term, b: Term) -> None:
    """Make two terms of equal size the same, refining both as far as needed."""
    a, b = resolve(a), resolve(b)
    if a == b:
        return
    if size(a) != size(b):
        fix(a, f"sizes {size(a)} and {size(b)} meet")
        fix(b, f"sizes {size(a)} and {size(b)} meet")
    elif fully_fixed(a):
        fix(b, why(a))
    elif fully_fixed(b):
        fix(a, why(b))
    else:
        for block_a, block_b in _blocks(a, b):
            _unify_block(block_a, block_b)


def _blocks(a: Term, b: Term) -> Iterator[tuple[Term, Term]]:
    """Cut two terms of equal size into the smallest runs of factors that have equal sizes."""
    i = j = 0
    while i < len(a) or j < len(b):
        i0, j0 = i, j
        left, right = a[i].size, b[j].size
        i, j = i + 1, j + 1
        while left != right:
            if left < right:
                left, i = left * a[i].size, i + 1
            else:
                right, j = right * b[j].size, j + 1
        yield a[i0:i], b[j0:j]


def _unify_block(a: Term, b: Term) -> None:
    a, b = resolve(a), resolve(b)
    if a == b:
        return
    if len(b) == 1 and (len(a) > 1 or a[0].parts or a[0].fixed):
        a, b = b, a
    if len(a) == 1 and a[0].free:
        _bind(a[0], b)
    elif fully_fixed(a):
        fix(b, why(a))
    elif fully_fixed(b):
        fix(a, why(b))
    elif len(a) == 1 and len(b) == 1:
        _unify_sums(a[0], b[0])
    elif len(a) == 1:
        _unify_sum_and_product(a[0], b)
    else:
        _unify_products(a, b)


def _bind(f: Factor, term: Term) -> None:
    if any(f is g for g in free_factors(term)):
        fix((f,), "it would contain itself")
        fix(term, "it would contain itself")
        return
    f.bound = term


def _unify_products(a: Term, b: Term) -> None:
    """Two blocks of several factors each: split from the outside, else from the inside."""
    for outside in (True, False):
        fa, fb = (a[0], b[0]) if outside else (a[-1], b[-1])
        small, big = (fa, fb) if fa.size < fb.size else (fb, fa)
        if big.size % small.size:
            continue
        rest = big.size // small.size
        if split((big,), *((small.size, rest) if outside else (rest, small.size))):
            unify(a, b)
            return
    fix(a, "two layouts cannot be matched")
    fix(b, "two layouts cannot be matched")


def _unify_sum_and_product(s: Factor, product: Term) -> None:
    """A sum meets a product: the outer factor holds the slots, parts end in the inner ones."""
    outer, inner = product[:1], product[1:]
    step = size(inner)
    counts = [size(p) // step for p in s.parts]
    if any(size(p) % step for p in s.parts) and _slots(s, step) is not None:
        unify((s,), product)
        return
    if any(size(p) % step for p in s.parts) or not _additive(outer[0], counts):
        fix((s,), "parts of different size are viewed as a grid")
        fix(product, "parts of different size are viewed as a grid")
        return
    heads = resolve(outer)
    slots = heads[0].parts if len(heads) == 1 and heads[0].parts else [()] * len(counts)
    for part, count, slot in zip(s.parts, counts, slots, strict=True):
        unify(part, (*(slot if count > 1 else ()), *inner))
    if s.bound is None:
        s.bound = product


def _unify_sums(a: Factor, b: Factor) -> None:
    """Two sums of equal size: cut both at all their boundaries, then match part by part."""
    edges = sorted({*_edges(a.parts), *_edges(b.parts)})
    counts = [hi - lo for lo, hi in zip([0, *edges], edges, strict=False)]
    if not (_additive(a, counts) and _additive(b, counts)):
        fix((a,), "parts overlap")
        fix((b,), "parts overlap")
        return
    for part_a, part_b in zip(a.parts, b.parts, strict=False):
        unify(part_a, part_b)
    # Both are the same now; making one stand for both keeps later comparisons short.
    if a is not b and a.bound is None and b.bound is None and not _contains(b, a):
        a.bound = (b,)


def _contains(outer: Factor, inner: Factor) -> bool:
    return any(g is inner or _contains(g, inner) for p in outer.parts for g in resolve(p))


def _edges(parts: Iterable[Term]) -> list[int]:
    return list(accumulate(size(p) for p in parts))


def _additive(f: Factor, counts: list[int]) -> bool:
    """Make a factor a sum of parts of the given sizes, if it can be; say whether it could."""
    if f.parts and [size(p) for p in f.parts] == counts:
        return True
    if f.parts:
        pieces: list[Term] = []
        wanted = list(counts)
        for part in f.parts:
            mine, left = [], size(part)
            while left > 0:
                take = wanted.pop(0)
                if take > left:
                    return False
                mine.append(take)
                left -= take
            split_part = additive(part, mine)
            if split_part is None:
                return False
            pieces.extend(split_part)
        f.parts = tuple(pieces)
        return True
    if all(c == 1 for c in counts):
        f.fixed = f.fixed or "its features are taken one by one"
    else:
        f.parts = tuple(fresh(c, f.fixed) for c in counts)
    return True


def additive(term: Term, counts: Sequence[int]) -> list[Term] | None:
    """Split a term into parts laid end to end, of the given sizes; None where that cannot be.

    Splitting a product splits its outermost factor, so every part keeps the inner ones.
    """
    term = resolve(term)
    counts = list(counts)
    if len(counts) == 1:
        return [term]
    if fully_fixed(term):
        reason = why(term)
        return [fresh(c, reason) for c in counts]
    outer, inner = term[0], term[1:]
    step = size(inner)
    if any(c % step for c in counts):
        return None
    slots = [c // step for c in counts]
    # Cut where it is cut already and where it is asked to be; then put together what was asked.
    edges = sorted({*_edges(outer.parts), *accumulate(slots)})
    if not _additive(outer, [hi - lo for lo, hi in zip([0, *edges], edges, strict=False)]):
        return None
    pieces = list(outer.parts) or [fresh(1)] * outer.size
    found: list[Term] = []
    for wanted in slots:
        taken: list[Term] = []
        while sum(map(size, taken)) < wanted:
            taken.append(pieces.pop(0))
        whole = concatenated(taken) if outer.parts else fresh(wanted, outer.fixed)
        found.append((*whole, *inner))
    return found


def split(term: Term, outer: int, inner: int) -> tuple[Term, Term] | None:
    """Read a term as outer x inner features; None where its parts do not allow it.

    A term that is fixed can be read in any way.

    Args:
        term: of outer * inner features.
        outer: how many outer features there are.
        inner: how many of the inner ones each of these has.
    """
    found = _split(term, outer, inner)
    if found is None and fully_fixed(term):
        return fresh(outer, why(term)), fresh(inner, why(term))
    return found


def _split(term: Term, outer: int, inner: int) -> tuple[Term, Term] | None:
    term = resolve(term)
    if outer == 1:
        return (), term
    if inner == 1:
        return term, ()
    done = 1
    for i, f in enumerate(term):
        if done == outer:
            return term[:i], term[i:]
        if done * f.size > outer:
            if outer % done:
                return None
            halves = _split_factor(f, outer // done)
            if halves is None:
                return None
            return (*term[:i], *halves[0]), (*halves[1], *term[i + 1 :])
        done *= f.size
    return term, ()


def _split_factor(f: Factor, outer: int) -> tuple[Term, Term] | None:
    if f.size % outer:
        return None
    inner = f.size // outer
    if not f.parts:
        halves = fresh(outer, f.fixed), fresh(inner, f.fixed)
        f.bound = (*halves[0], *halves[1])
        return halves
    if any(size(p) % inner for p in f.parts):
        return _slots(f, inner)
    outers: list[Term] = []
    shared: Term | None = None
    for part in f.parts:
        pair = split(part, size(part) // inner, inner)
        if pair is None:
            return None
        outers.append(pair[0])
        if shared is None:
            shared = pair[1]
        else:
            unify(shared, pair[1])
    assert shared is not None
    head = concatenated(outers)
    f.bound = (*head, *shared)
    return head, shared


def _slots(f: Factor, inner: int) -> tuple[Term, Term] | None:
    """Read a sum as a number of slots, each made of whole parts: [3 + 3] + 6 as 2 x 6."""
    slots = additive((f,), [inner] * (f.size // inner))
    if slots is None or f.bound is not None:
        return None
    for other in slots[1:]:
        unify(slots[0], other)
    number = fresh(len(slots), "it counts equal slots")
    f.bound = (*number, *slots[0])
    return number, resolve(slots[0])


def regroup(dims: Sequence[Term], sizes: Sequence[int]) -> Dims | None:
    """The terms of `view(sizes)`: the same factors in the same order, at new boundaries."""
    rest: Term = tuple(f for term in dims for f in resolve(term))
    out: Dims = []
    for wanted in sizes:
        rest = resolve(rest)
        total = size(rest)
        if wanted == 0 or total % wanted:
            return None
        pair = split(rest, wanted, total // wanted)
        if pair is None:
            return None
        out.append(pair[0])
        rest = pair[1]
    return out
