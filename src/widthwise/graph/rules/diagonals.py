"""Diagonals: the same features on two dims of a tensor."""

from __future__ import annotations

from widthwise.graph.dims import size
from widthwise.graph.rules.op import Op, Result

_DIAGONAL = "it is read along a diagonal"


def diagonal(op: Op) -> Result:
    """diagonal(offset, dim1, dim2): the same features twice; elsewhere the two dims stay."""
    x = op.dims("self")
    i, j = op.dim(op.args["dim1"], len(x)), op.dim(op.args["dim2"], len(x))
    rest = [t for d, t in enumerate(x) if d not in (i, j)]
    if op.args["offset"] or size(x[i]) != size(x[j]):
        op.fix([x[i], x[j]], _DIAGONAL)
        return Result([*rest, op.fixed(op.sizes[-1:], _DIAGONAL)[0]])
    op.unify(x[i], x[j])
    return Result([*rest, x[i]])


def trace(op: Op) -> Result:
    """trace: the sum along the diagonal of a matrix."""
    x = op.dims("self")
    if size(x[0]) == size(x[1]):
        op.unify(*x)
    else:
        op.fix(x, _DIAGONAL)
    op.contract(op.dims("self")[0])
    return Result([])


def diag_embed(op: Op) -> Result:
    """diag_embed(offset, dim1, dim2): the last dim becomes two, of the same features."""
    *x, last = op.dims("self")
    dims = sorted(op.dim(op.args[n], len(x) + 2) for n in ("dim1", "dim2"))
    twice = [last, last]
    if op.args["offset"]:
        op.fix(last, _DIAGONAL)
        twice = op.fixed([op.sizes[d] for d in dims], _DIAGONAL)
    for at, term in zip(dims, twice, strict=True):
        x.insert(at, term)
    return Result(x)


RULES = {"diagonal": diagonal, "diag_embed": diag_embed, "trace": trace}
