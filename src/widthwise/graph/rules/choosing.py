"""Operators whose result has a size that data decide, and places found by value."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from widthwise.graph.dims import size
from widthwise.graph.rules.op import Op, Result
from widthwise.graph.rules.pointwise import broadcast, pointwise

aten = torch.ops.aten

_MASKED = "it is picked by a mask"
_PICKED = "its features are picked by number"
_IN_ORDER = "its entries are in order"
_EXPANDED = {aten.expand.default, aten.expand_as.default, aten.broadcast_to.default}
_COPIED = {
    aten._to_copy.default,
    aten.alias.default,
    aten.clone.default,
    aten.contiguous.default,
    aten.to.device,
    aten.to.dtype,
    aten.to.dtype_layout,
}


def masked_select(op: Op) -> Result:
    """masked_select(self, mask): single entries in order, however they lie."""
    op.fix([t for node in op.tensors() for t in op.dims_of(node)], _MASKED)
    return Result(op.fixed(op.sizes, _MASKED))


def masked_scatter(op: Op) -> Result:
    """masked_scatter(self, mask, source): entries of the source go where the mask is set, in order.

    A mask that was expanded along the last dim takes whole rows, so the features of rows pass.
    """
    x, source = op.dims("self"), op.dims("source")
    rows = bool(x and source) and _expanded(op.args["mask"]) and size(x[-1]) == size(source[-1])
    if rows:
        op.unify(x[-1], source[-1])
        op.unify(op.dims("self")[-1], op.dims("mask")[-1])
    for node in op.tensors():
        op.fix(op.dims_of(node)[: -1 if rows else None], _MASKED)
    return Result(op.dims("self"))


def _expanded(mask: Any) -> bool:
    """Whether the last dim of a mask holds copies of one value."""
    while isinstance(mask, fx.Node) and mask.target in _COPIED:
        mask = mask.args[0]
    if not isinstance(mask, fx.Node) or mask.target not in _EXPANDED:
        return False
    before: Any = mask.args[0]
    return bool(before.meta["val"].shape[-1] == 1)


def found(op: Op) -> Result:
    """nonzero, argwhere, unique: places or values of a number that data decide."""
    op.fix([t for node in op.tensors() for t in op.dims_of(node)], "places are counted along it")
    reason = "data decide how many there are"
    if op.several:
        return Result([op.fixed(sizes, reason) for sizes in op.sizes])
    return Result(op.fixed(op.sizes, reason))


def where(op: Op) -> Result:
    """where(condition, a, b) entry by entry; where(condition) gives the places."""
    return found(op) if op.several else pointwise(op)


def bucketize(op: Op) -> Result:
    """bucketize(self, boundaries): the number of a bucket, for each entry by itself."""
    op.fix(op.dims("boundaries"), _IN_ORDER)
    return Result(op.dims("self") if op.has("self") else [])


def searchsorted(op: Op) -> Result:
    """searchsorted(sorted_sequence (*, S), self (*, L)): places along the last dim."""
    ladder = op.dims("sorted_sequence")
    op.fix(ladder[-1], _IN_ORDER)
    if op.has("sorter"):
        op.fix(op.dims("sorter"), _IN_ORDER)
    if not op.has("self"):
        return Result([])
    if len(ladder) > 1:
        for mine, its in zip(op.dims("self")[:-1], ladder[:-1], strict=True):
            op.unify(mine, its)
    return Result(op.dims("self"))


def isin(op: Op) -> Result:
    """isin(elements, test_elements): each entry by itself, against all of a set."""
    if op.has("test_elements"):
        op.normalise(*op.dims("test_elements"))
    return Result(op.dims("elements") if op.has("elements") else [])


def one_hot(op: Op) -> Result:
    """one_hot(self (*), classes) -> (*, classes)."""
    return Result([*op.dims("self"), *op.fixed(op.sizes[-1:], "it counts classes")])


def multinomial(op: Op) -> Result:
    """multinomial(self (*, C), n) -> (*, n): numbers of features."""
    x = op.dims("self")
    op.fix(x[-1], _PICKED)
    return Result([*x[:-1], *op.fixed(op.sizes[-1:], "it counts draws")])


def segment_reduce(op: Op) -> Result:
    """segment_reduce(data, lengths or offsets, axis): rows of one dim are put together."""
    x = op.dims("data")
    at = op.dim(op.args["axis"], len(x))
    for name in ("lengths", "indices", "offsets"):
        if op.has(name):
            op.fix(op.dims(name), "it counts rows")
    op.fix(x[: at + 1], "its rows are put together by number")
    return Result([*op.fixed(op.sizes[: at + 1], "it counts segments"), *x[at + 1 :]])


def take_along_dim(op: Op) -> Result:
    """take_along_dim(indices, dim): as gather, with broadcasting; all is one dim without `dim`."""
    x, chosen = op.dims("self"), op.dims("indices")
    if op.args["dim"] is None:
        op.fix([*x, *chosen], _PICKED)
        return Result(op.fixed(op.sizes, _PICKED))
    at = op.dim(op.args["dim"], len(x))
    op.fix([x[at], chosen[at]], _PICKED)
    out = broadcast(op, [[() if i == at else t for i, t in enumerate(d)] for d in (x, chosen)])
    out[at] = chosen[at]
    return Result(out)


def take(op: Op) -> Result:
    """take(self, index): entries by their place in memory."""
    op.fix(op.dims("self"), _PICKED)
    return Result(op.dims("index"))


def put(op: Op) -> Result:
    """put(self, index, source): entries are written by their place in memory."""
    op.fix([t for node in op.tensors() for t in op.dims_of(node)], _PICKED)
    return Result(op.dims("self"))


FOUND = """
    _unique _unique2 argwhere nonzero nonzero_numpy nonzero_static unique_consecutive unique_dim
    unique_dim_consecutive
""".split()

RULES = {
    "masked_select": masked_select,
    "masked_scatter": masked_scatter,
    **dict.fromkeys(FOUND, found),
    "where": where,
    "bucketize": bucketize,
    "searchsorted": searchsorted,
    "isin": isin,
    "one_hot": one_hot,
    "multinomial": multinomial,
    "segment_reduce": segment_reduce,
    "take_along_dim": take_along_dim,
    "take": take,
    "put": put,
}
