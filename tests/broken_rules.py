"""Rules with a mistake in them.

Most are the right rule with one statement left out (`no_unify`, `no_fix`, `no_follow`) or with a
product read the wrong way round (`swapped`); the rest are written out.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from widthwise.graph.dims import Dims, additive, fresh, size, split
from widthwise.graph.rules import convolution, matrix, shape
from widthwise.graph.rules.op import Op, Result

Rule = Callable[[Op], Result]

# ---------------------------------------------------------------- one statement left out


def no_unify(rule: Rule, *numbers: int) -> Rule:
    """Without the calls of `unify` of these numbers, in the order that the rule makes them."""

    def broken(op: Op) -> Result:
        unify, calls = op.unify, iter(range(1000))
        op.unify = lambda a, b: None if next(calls) in numbers else unify(a, b)  # type: ignore[method-assign]
        return rule(op)

    return broken


def no_fix(rule: Rule) -> Rule:
    """Nothing is fixed; new dims are free."""

    def broken(op: Op) -> Result:
        op.fix = lambda terms, reason: None  # type: ignore[method-assign]
        op.fixed = lambda sizes, reason: [fresh(s) for s in sizes]  # type: ignore[method-assign]
        return rule(op)

    return broken


def no_follow(rule: Rule, *names: str) -> Rule:
    """The arguments of these names stay as they were."""

    def broken(op: Op) -> Result:
        result = rule(op)
        return Result(
            result.outputs, {n: v for n, v in result.follow.items() if names and n not in names}
        )

    return broken


def swapped(rule: Rule, module: Any) -> Rule:
    """Products are read the wrong way round: what is outside is taken to be inside."""

    def broken(op: Op) -> Result:
        right = module.split
        module.split = _inside_out
        try:
            return rule(op)
        finally:
            module.split = right

    return broken


def _inside_out(term: Any, outer: int, inner: int) -> Any:
    pair = split(term, inner, outer)
    return None if pair is None else (pair[1], pair[0])


def blind(op: Op) -> Result:
    """Order, position and space are all the same to it: dims of the input, sizes allowing."""
    x = op.dims_of(op.tensors()[0])
    if op.sizes and isinstance(op.sizes[0], list):
        return Result([_like(x, s) for s in op.sizes])
    return Result(_like(x, op.sizes))


def _like(x: Dims, sizes: list[int]) -> Dims:
    x = [*x, *(fresh(s) for s in sizes[len(x) :])]
    return [
        t if size(t) == wanted else fresh(wanted)
        for t, wanted in zip(x[: len(sizes)], sizes, strict=True)
    ]


def unrelated(op: Op) -> Result:
    """Free dims that have nothing to do with the inputs."""
    if op.sizes and isinstance(op.sizes[0], list):
        return Result([_unrelated(op, s) for s in op.sizes])
    return Result(_unrelated(op, op.sizes))


def _unrelated(op: Op, sizes: list[int]) -> Dims:
    return [*op.fixed(sizes[:1], "batch"), *(fresh(s) for s in sizes[1:])]


def first_operand(op: Op) -> Result:
    """add, mul, where, ... without relating the operands."""
    return Result(max((op.dims_of(t) for t in op.tensors()), key=len))


# ---------------------------------------------------------------- written out


def linear_transposed(op: Op) -> Result:
    x, weight = op.dims("input"), op.dims("weight")
    op.unify(x[-1], weight[0])
    return Result([*x[:-1], weight[1]])


def product_transposed(op: Op) -> Result:
    """The result's last two dims in the wrong order."""
    out = matrix.matmul(op).outputs
    return Result([*out[:-2], out[-1], out[-2]])


def einsum_backwards(op: Op) -> Result:
    out = matrix.einsum(op).outputs
    return Result([out[0], *out[:0:-1]])


def bilinear_crossed(op: Op) -> Result:
    """The weight's two inputs taken for each other."""
    op.args["input1"], op.args["input2"] = op.args["input2"], op.args["input1"]
    return matrix.bilinear(op)


def kron_inside_out(op: Op) -> Result:
    """kron with the first tensor's features inside of the second's."""
    first, second = (op.dims_of(t) for t in op.tensors()[:2])
    return Result([(*b, *a) for a, b in zip(first, second, strict=True)])


def queries_like_values(op: Op) -> Result:
    """Attention's queries tied to the values instead of the keys."""
    q, k, v = op.dims("query"), op.dims("key"), op.dims("value")
    op.unify(q[-1], v[-1])
    heads = q[:-2]
    for a, b, c in zip(q[:-2], k[:-2], v[:-2], strict=True):
        if size(a) == size(b) == size(c):
            op.unify(a, b)
            op.unify(a, c)
    return Result([*heads, q[-2], v[-1]])


def attends_to_queries(op: Op) -> Result:
    """Attention's result has the features of the queries."""
    result = matrix.scaled_dot_product_attention(op)
    return Result([*result.outputs[:-1], op.dims("query")[-1]])


def ungrouped(op: Op) -> Result:
    """Grouped-query heads are not related to key heads."""
    q, k, v = op.dims("query"), op.dims("key"), op.dims("value")
    op.unify(q[-1], k[-1])
    return Result([*q[:-1], v[-1]])


def groups_not_related(op: Op) -> Result:
    """A grouped convolution whose result's groups are not those of its input."""
    weight = op.dims("weight")
    op.fix([*op.dims("input")[2:], *weight[2:]], "space")
    if op.has("bias"):
        op.unify(weight[0], op.dims("bias")[0])
    group = fresh(int(op.args["groups"]))
    return Result(
        [op.dims("input")[0], weight[0], *op.fixed(op.sizes[2:], "space")], {"groups": group}
    )


def transposed_as_plain(op: Op) -> Result:
    """A transposed convolution whose weight is read as (O, I, *)."""
    x, weight = op.dims("input"), op.dims("weight")
    op.fix([*x[2:], *weight[2:]], "space")
    op.unify(x[1], weight[1])
    if op.has("bias"):
        op.unify(weight[0], op.dims("bias")[0])
    return Result([x[0], weight[0], *op.fixed(op.sizes[2:], "space")])


def block_outside(op: Op) -> Result:
    """pixel_unshuffle: the block lies outside of the channels."""
    out = convolution.pixel_unshuffle(op).outputs
    channels = out[-3]
    return Result([*out[:-3], (channels[-1], *channels[:-1]), *out[-2:]])


def window_outside(op: Op) -> Result:
    """im2col: the window lies outside of the channels."""
    out = convolution.im2col(op).outputs
    return Result([*out[:-2], (*out[-2][-1:], *out[-2][:-1]), out[-1]])


def not_shuffled(op: Op) -> Result:
    return Result(op.dims_of(op.tensors()[0]), {"groups": fresh(int(op.args["groups"]))})


def groups_ignored(op: Op) -> Result:
    """Group norm as if each channel stood alone."""
    for name in ("weight", "bias"):
        if op.has(name):
            op.unify(op.dims("input")[1], op.dims(name)[0])
    return Result(op.dims("input"))


def reduced_the_other(op: Op) -> Result:
    """A reduction that takes away the neighbour of the reduced dim."""
    x = op.dims_of(op.tensors()[0])
    at = op.args["dim"][0] % len(x)
    return Result([t for i, t in enumerate(x) if i != (at + 1 if at + 1 < len(x) else at - 1)])


def inner_before_outer(op: Op) -> Result:
    """A view that reads memory as if the last of the new dims lay outermost of two."""
    x = op.dims_of(op.tensors()[0])
    tail = list(op.sizes[len(x) - 1 :])
    if len(tail) < 2 or size(x[-1]) != prod(tail):
        return shape.view(op)
    if len(x[-1]) == 1 and x[-1][0].free:
        *rest, outer, inner = (fresh(s) for s in tail)
        x[-1][0].bound = tuple(f for t in (*rest, inner, outer) for f in t)
    elif [f.size for f in x[-1]] == [*tail[:-2], tail[-1], tail[-2]]:  # seen before
        *rest, inner, outer = ((f,) for f in x[-1])
    else:
        return shape.view(op)
    out = [*x[:-1], *rest, outer, inner]
    return Result(out, {"size": out, "shape": out})


def not_moved(op: Op) -> Result:
    """permute, transpose: dims of equal size stay where they were."""
    right = shape.RULES[_name(op)](op).outputs
    x = op.dims_of(op.tensors()[0])
    return Result([a if size(a) == size(b) else b for a, b in zip(x, right, strict=True)])


def _name(op: Op) -> str:
    return str(op.node.target).removeprefix("aten.").split(".")[0]


def copies_inside(op: Op) -> Result:
    """repeat taken for repeat_interleave."""
    result = shape.repeat(op)
    outputs = [(*t[1:], *t[:1]) if len(t) > 1 else t for t in result.outputs]
    return Result(outputs, result.follow)


def copies_outside(op: Op) -> Result:
    """repeat_interleave taken for repeat."""
    result = shape.repeat_interleave(op)
    outputs = [(*t[-1:], *t[:-1]) if len(t) > 1 else t for t in result.outputs]
    return Result(outputs, result.follow)


def parts_backwards(op: Op) -> Result:
    """cat with its tensors in the wrong order."""
    op.args["tensors"] = list(op.args["tensors"])[::-1]
    return shape.cat(op)


def concatenation_unrelated(op: Op) -> Result:
    """cat whose result is a new dim, unrelated to its parts."""
    out = shape.cat(op).outputs
    at = op.dim(op.args["dim"], len(op.sizes))
    out[at] = fresh(size(out[at]))
    return Result(out)


def pieces_backwards(op: Op) -> Result:
    """split, chunk: the pieces in the wrong order."""
    result = shape.splits(op)
    return Result(result.outputs[::-1], result.follow)


def pieces_interleaved(op: Op) -> Result:
    """split, chunk: every so many features instead of neighbours."""
    x = op.dims("self")
    at = op.dim(op.args["dim"], len(x))
    pair = split(x[at], size(x[at]) // len(op.sizes), len(op.sizes))
    if pair is None:
        return shape.splits(op)
    op.fix(pair[1], "pieces")
    return Result(
        [[*x[:at], pair[0], *x[at + 1 :]] for _ in op.sizes],
        {"split_sizes": [pair[0]] * len(op.sizes)},
    )


def pairs_instead_of_halves(op: Op) -> Result:
    """glu: features beside each other instead of half a dim apart."""
    x = op.dims("self")
    at = op.dim(op.args["dim"], len(x))
    pair = split(x[at], size(x[at]) // 2, 2)
    assert pair is not None
    op.fix(pair[1], "value and gate")
    return Result([*x[:at], pair[0], *x[at + 1 :]])


def first_part(op: Op) -> Result:
    """slice: as if it always began at 0."""
    x = op.dims("self")
    at = op.dim(op.args["dim"], len(x))
    kept, total = op.sizes[at], size(x[at])
    parts = additive(x[at], [kept, total - kept]) if kept < total else [x[at]]
    if parts is None or not isinstance(op.args.get("start"), int):
        return shape.slices(op)
    return Result([*x[:at], parts[0], *x[at + 1 :]], {"end": parts[0]})


def padded_at_the_other_end(op: Op) -> Result:
    low, high, *rest = op.args["pad"]
    op.args["pad"] = [high, low, *rest]
    return shape.pad(op)


def stacked_first(op: Op) -> Result:
    """stack: the new dim taken to lie before the one that it follows."""
    out = shape.stack(op).outputs
    return Result([*out[:-2], out[-1], out[-2]])


def rows_for_columns(op: Op) -> Result:
    """embedding: the table's dims taken for each other."""
    weight = op.dims("weight")
    op.fix(weight[1], "its rows are picked by number")
    return Result([*op.dims("indices"), weight[0]])


def rows_free(op: Op) -> Result:
    """embedding whose rows could be cut."""
    return Result([*op.dims("indices"), op.dims("weight")[1]])


def eye_of_two(op: Op) -> Result:
    """eye whose two dims are not the same."""
    out = [fresh(s) for s in op.sizes]
    return Result(out, {"n": out[0], "m": out[1]})


def directions_inside(rule: Rule) -> Rule:
    """A recurrent layer whose directions lie inside of the units."""

    def broken(op: Op) -> Result:
        output, *states = rule(op).outputs
        last = output[-1]
        return Result([[*output[:-1], (*last[1:], *last[:1])], *states])

    return broken
