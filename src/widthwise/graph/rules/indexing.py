"""Operators that pick by number, and operators that make tensors from nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from widthwise.graph.dims import Dims, Term, fresh, size
from widthwise.graph.rules.op import Op, Result
from widthwise.graph.rules.pointwise import broadcast, pointwise

PICKED = "its features are picked by number"
MASKED = "it is picked by a mask"


def embedding(op: Op) -> Result:
    """embedding(weight (V, E), indices (*)) -> (*, E)."""
    weight = op.dims("weight")
    op.fix(weight[0], "its rows are picked by number")
    return Result([*op.dims("indices"), weight[1]])


def embedding_bag(op: Op) -> Result:
    """embedding_bag(weight (V, E), indices, offsets) -> bags (B, E), and three tables of places."""
    weight = op.dims("weight")
    op.fix(weight[0], "its rows are picked by number")
    for name in ("indices", "offsets", "per_sample_weights"):
        if op.has(name):
            op.fix(op.dims(name), PICKED)
    bags, *places = [op.fixed(sizes, "it counts rows") for sizes in op.sizes]
    # A maximum is found for each feature by itself: the last table says from which row it came.
    if len(places[-1]) > 1:
        places[-1] = [places[-1][0], weight[1]]
    return Result([[bags[0], weight[1]], *places])


def index(op: Op) -> Result:
    """x[i, :, j], x[mask]: indexed dims stay; the index tensors' own dims appear in the result."""
    return Result(_picked(op, op.sizes))


def _picked(op: Op, sizes: Sequence[int] | None = None) -> Dims:
    """The dims of x[i, :, j], whose indexed dims stay; the others pass.

    A mask stands for as many dims as it has, and gives one that counts rows. Data decide how many,
    so that its size is read from the result's `sizes`; without these it broadcasts with any.
    """
    x = op.dims("self")
    taken: list[int] = []
    rows: list[Dims] = []
    masked, at = False, 0
    for node in op.args["indices"]:
        mask = node is not None and node.meta["val"].dtype in (torch.bool, torch.uint8)
        covers = node.meta["val"].dim() if mask else 1
        if node is not None:
            taken += range(at, at + covers)
            rows.append([()] if mask else op.dims_of(node))
        if mask:
            op.fix(op.dims_of(node), MASKED)
        masked, at = masked or mask, at + covers
    op.fix([x[i] for i in taken], MASKED if masked else PICKED)
    rest = [t for i, t in enumerate(x) if i not in taken]
    start = taken[0] if taken == list(range(taken[0], taken[-1] + 1)) else 0
    picked = broadcast(op, rows)
    if masked:
        op.fix(picked, MASKED)
        if sizes is not None:
            picked = op.fixed(sizes[start : start + len(picked)], MASKED)
    return [*rest[:start], *picked, *rest[start:]]


def index_select(op: Op) -> Result:
    """index_select(dim, index)."""
    x = op.dims("self")
    at = op.dim(op.args["dim"], len(x))
    op.fix(x[at], PICKED)
    x[at] = op.dims("index")[0] if op.dims("index") else ()
    return Result(x)


def gather(op: Op) -> Result:
    """gather(dim, index): the index's dims; dims of equal size are the same features."""
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
    """x[i, :, j] = values, x[mask] = values: indexed dims stay; the others are the values'."""
    broadcast(op, [_picked(op), op.dims("values")])
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


def select_scatter(op: Op) -> Result:
    """select_scatter(src, dim, index): one entry of the dim is written."""
    x = op.dims("self")
    at = op.dim(op.args["dim"], len(x))
    op.fix(x[at], PICKED)
    for mine, its in zip([*x[:at], *x[at + 1 :]], op.dims("src"), strict=True):
        op.unify(mine, its)
    return Result(op.dims("self"))


def slice_scatter(op: Op) -> Result:
    """slice_scatter(src, dim, start, end, step): a range of the dim is written."""
    x, source = op.dims("self"), op.dims("src")
    at = op.dim(op.args["dim"], len(x))
    for i, (mine, its) in enumerate(zip(x, source, strict=True)):
        if i != at or size(mine) == size(its):
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


def normal(op: Op) -> Result:
    """normal(mean, std) of tensors, entry by entry, or of two numbers and a size."""
    return made(op) if "size" in op.args else pointwise(op)


def counted(op: Op) -> Result:
    """arange, linspace: entries that know their position."""
    return Result(op.fixed(op.sizes, "its entries are numbers in order"))


def blocks(op: Op) -> Result:
    """block_diag, cartesian_prod, combinations: whole tensors at places of their own."""
    op.fix([t for node in op.tensors() for t in op.dims_of(node)], "it lies at a place of its own")
    return Result(op.kept())


def eye(op: Op) -> Result:
    """eye(n): the same features on both dims."""
    if len(set(op.sizes)) > 1:
        return Result(op.kept())
    term = _any(op, op.args["n"])
    out: Dims = [term, term]
    return Result(out, follow={"n": term} | ({"m": term} if "m" in op.args else {}))


MADE = """
    empty empty_permuted full new_empty new_full new_ones new_zeros ones rand randint randn
    zeros
""".split()
COUNTED = """
    arange bartlett_window blackman_window fft_fftfreq fft_rfftfreq hamming_window hann_window
    kaiser_window linspace logspace randperm range scalar_tensor tril_indices triu_indices
""".split()
BLOCKS = "block_diag cartesian_prod combinations".split()

RULES = {
    "embedding": embedding,
    "index": index,
    "index_select": index_select,
    "gather": gather,
    "index_put": index_put,
    "_unsafe_index": index,
    "_unsafe_index_put": index_put,
    "_index_put_impl": index_put,
    **dict.fromkeys(("index_add", "index_copy", "index_fill", "index_reduce"), index_add),
    **dict.fromkeys(("scatter", "scatter_add", "scatter_reduce"), scatter),
    **dict.fromkeys(("histc", "bincount"), histogram),
    "meshgrid": meshgrid,
    **dict.fromkeys(MADE, made),
    "normal": normal,
    **dict.fromkeys(COUNTED, counted),
    **dict.fromkeys(BLOCKS, blocks),
    **dict.fromkeys(("embedding_bag", "_embedding_bag"), embedding_bag),
    "select_scatter": select_scatter,
    "slice_scatter": slice_scatter,
    "eye": eye,
}
