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
    picked = _picked(op)
    if picked is None:
        op.fix(op.dims("self"), "it is picked by a mask")
        return Result(op.kept())
    return Result(picked)


def _picked(op: Op) -> Dims | None:
    """The dims of x[i, :, j], whose indexed dims stay; None where a mask picks."""
    x = op.dims("self")
    indices: list[Any] = list(op.args["indices"])
    given = [i for i, v in enumerate(indices) if v is not None]
    op.fix([x[i] for i in given], PICKED)
    nodes = [indices[i] for i in given]
    if any(n.meta["val"].dtype.itemsize == 1 for n in nodes):
        op.fix([t for n in nodes for t in op.dims_of(n)], "it is picked by a mask")
        return None
    picked = broadcast(op, [op.dims_of(n) for n in nodes])
    rest = [t for i, t in enumerate(x) if i not in given]
    adjacent = given == list(range(given[0], given[-1] + 1))
    at = given[0] if adjacent else 0
    return [*rest[:at], *picked, *rest[at:]]


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


def index_put(op: Op) -> Result:
    """x[i, :, j] = values: indexed dims stay; the others are those of the values."""
    picked = _picked(op)
    if picked is None:
        op.fix([*op.dims("self"), *op.dims("values")], "it is picked by a mask")
    else:
        broadcast(op, [picked, op.dims("values")])
    return Result(op.dims("self"))


def index_add(op: Op) -> Result:
    """index_add, index_copy, index_fill(dim, index, source): rows of one dim are written to."""
    x = op.dims("self")
    at = op.dim(op.args["dim"], len(x))
    op.fix(x[at], PICKED)
    if op.has("source"):
        source = op.dims("source")
        op.fix(source[at], PICKED)
        for i, (mine, its) in enumerate(zip(x, source, strict=True)):
            if i != at:
                op.unify(mine, its)
    return Result(op.dims("self"))


def scatter(op: Op) -> Result:
    """scatter, scatter_add, scatter_reduce(dim, index, src): dims of equal size are the same."""
    x, chosen = op.dims("self"), op.dims("index")
    at = op.dim(op.args["dim"], len(x))
    op.fix([x[at], chosen[at]], PICKED)
    others = [chosen] + ([op.dims("src")] if op.has("src") else [])
    for other in others:
        for i, (mine, its) in enumerate(zip(x, other, strict=True)):
            if i != at and size(mine) == size(its):
                op.unify(mine, its)
            else:
                op.fix([mine, its], PICKED)
    return Result(op.dims("self"))


def histogram(op: Op) -> Result:
    """histc, bincount: counts of values, whatever their places."""
    for node in op.tensors():
        op.fix(op.dims_of(node), "its features are counted")
    return Result(op.fixed(op.sizes, "it counts values"))


def meshgrid(op: Op) -> Result:
    """meshgrid(a, b, ...): as many dims as there are tensors."""
    dims = [(op.dims_of(t) or [()])[0] for t in op.tensors()]
    if op.args.get("indexing") == "xy" and len(dims) > 1:
        dims[:2] = dims[1], dims[0]
    return Result([list(dims) for _ in op.sizes])


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
    "index_put": index_put,
    **dict.fromkeys(("index_add", "index_copy", "index_fill"), index_add),
    **dict.fromkeys(("scatter", "scatter_add", "scatter_reduce"), scatter),
    **dict.fromkeys(("histc", "bincount"), histogram),
    "meshgrid": meshgrid,
    **dict.fromkeys(MADE, made),
    "arange": counted,
    "linspace": counted,
    "scalar_tensor": counted,
    "eye": eye,
}
