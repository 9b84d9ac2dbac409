"""Operators that pick by number, and operators that make tensors from nothing."""

from __future__ import annotations

from typing import Any

from torch import fx

from widthwise.graph.dims import Dims, Term, fresh, size
from widthwise.graph.rules.op import Op, Result
from widthwise.graph.rules.pointwise import broadcast

PICKED = "its features are picked by number"


def embedding(op: Op) -> Result:
    """embedding(weight (V, E), indices (*)) -> (*, E)."""
    weight = op.dims("weight")
    op.fix(weight[0], "its rows are picked by number")
    return Result([*op.dims("indices"), weight[1]])


def index(op: Op) -> Result:
    """x[i, :, j]: indexed dims stay; the index tensors' own dims appear in the result."""
    x = op.dims("self")
    indices: list[Any] = list(op.args["indices"])
    given = [i for i, v in enumerate(indices) if v is not None]
    op.fix([x[i] for i in given], PICKED)
    nodes = [indices[i] for i in given]
    if any(
        n.meta["val"].dtype.is_floating_point or not n.meta["val"].dtype.itemsize > 1 for n in nodes
    ):
        op.fix([*x, *(t for n in nodes for t in op.dims_of(n))], "it is picked by a mask")
        return Result(op.kept())
    picked = broadcast(op, [op.dims_of(n) for n in nodes])
    rest = [t for i, t in enumerate(x) if i not in given]
    adjacent = given == list(range(given[0], given[-1] + 1))
    at = given[0] if adjacent else 0
    return Result([*rest[:at], *picked, *rest[at:]])


def index_select(op: Op) -> Result:
    """index_select(dim, index)."""
    x = op.dims("self")
    at = op.dim(op.args["dim"], len(x))
    op.fix(x[at], PICKED)
    x[at] = op.dims("index")[0] if op.dims("index") else ()
    return Result(x)


def gather(op: Op) -> Result:
    """gather(dim, index): the index's dims; those of equal size are the same features."""
    x, chosen = op.dims("self"), op.dims("index")
    at = op.dim(op.args["dim"], len(x))
    op.fix(x[at], PICKED)
    for i, (mine, its) in enumerate(zip(x, chosen, strict=True)):
        if i == at:
            continue
        if size(mine) == size(its):
            op.unify(mine, its)
        else:
            op.fix([mine, its], PICKED)
    return Result(op.dims("index"))


def made(op: Op) -> Result:
    """zeros, ones, full, empty, new_zeros: any number of equal entries would do."""
    literals = op.args["size"]
    out = [_any(op, v) for v in literals]
    return Result(out, follow={"size": out})


def _any(op: Op, literal: Any) -> Term:
    if isinstance(literal, fx.Node):
        return op.fixed([op.number(literal)], "its size comes with the input")[0]
    return fresh(int(literal))


def counted(op: Op) -> Result:
    """arange, linspace: entries that know their position."""
    return Result(op.fixed(op.sizes, "its entries are numbers in order"))


def eye(op: Op) -> Result:
    """eye(n): the same features on both dims."""
    if len(set(op.sizes)) > 1:
        return Result(op.kept())
    term = _any(op, op.args["n"])
    out: Dims = [term, term]
    return Result(out, follow={"n": term} | ({"m": term} if "m" in op.args else {}))


MADE = "zeros ones full empty rand randn new_zeros new_ones new_full new_empty".split()

RULES = {
    "embedding": embedding,
    "index": index,
    "index_select": index_select,
    "gather": gather,
    **dict.fromkeys(MADE, made),
    "arange": counted,
    "linspace": counted,
    "scalar_tensor": counted,
    "eye": eye,
}
