"""Views and rearrangements: the same features at new places, in new groupings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import fx

from widthwise.graph.dims import Dims, Term, additive, concatenated, fresh, regroup, size, split
from widthwise.graph.rules.op import Op, Result


def view(op: Op) -> Result:
    """view, reshape, flatten, unflatten: factors keep their order and fall into new dims."""
    x = op.dims_of(op.tensors()[0])
    out = regroup(x, op.sizes)
    if out is None:
        op.fix(x, "its parts do not fall on the new sizes")
        out = op.kept()
    follow: dict[str, Any] = {}
    if "sizes" in op.args:  # unflatten: only the new sizes of one dim
        at = op.dim(op.args["dim"], len(x))
        follow["sizes"] = out[at : at + len(op.args["sizes"])]
    else:
        for name in ("size", "shape"):
            if name in op.args:
                follow[name] = out
    return Result(out, follow)


def permute(op: Op) -> Result:
    """permute(dims)."""
    x = op.dims("self")
    return Result([x[op.dim(d, len(x))] for d in op.args["dims"]])


def transpose(op: Op) -> Result:
    """transpose, swapaxes, t, mT, adjoint: two dims change places."""
    x = op.dims("self")
    if len(x) < 2:
        return Result(x)
    names = [n for n in op.args if n != "self"]
    if str(op.node.target).startswith("aten.numpy_T"):
        return Result(x[::-1])
    default = (0, 1) if str(op.node.target).startswith("aten.t.") else (-2, -1)
    i, j = (op.dim(op.args[n], len(x)) for n in names) if names else (d % len(x) for d in default)
    x[i], x[j] = x[j], x[i]
    return Result(x)


def movedim(op: Op) -> Result:
    """movedim(source, destination)."""
    x = op.dims("self")
    source, destination = op.args["source"], op.args["destination"]
    listed = [v if isinstance(v, (list, tuple)) else [v] for v in (source, destination)]
    sources = [op.dim(d, len(x)) for d in listed[0]]
    rest = [t for i, t in enumerate(x) if i not in sources]
    for to, at in sorted((op.dim(d, len(x)), s) for s, d in zip(sources, listed[1], strict=True)):
        rest.insert(to, x[at])
    return Result(rest)


def unsqueeze(op: Op) -> Result:
    """unsqueeze(dim): a new dim of size 1."""
    x = op.dims("self")
    x.insert(op.dim(op.args["dim"], len(x) + 1), ())
    return Result(x)


def squeeze(op: Op) -> Result:
    """squeeze of the named dims, which have size 1."""
    x = op.dims("self")
    gone = {op.dim(d, len(x)) for d in op.args["dim"]}
    return Result([t for i, t in enumerate(x) if i not in gone])


def _new_dim(op: Op, literal: Any, wanted: int) -> Term:
    """Copies of one feature: any number of them would do, unless the number came with the input."""
    if isinstance(literal, fx.Node):
        return op.fixed([wanted], "its size comes with the input")[0]
    return fresh(wanted)


def expand(op: Op) -> Result:
    """expand(size), broadcast_to: dims of size 1 become any size."""
    x = op.dims("self")
    literals: Sequence[Any] = op.args["size"]
    padded = [()] * (len(literals) - len(x)) + x
    out = [
        term if size(term) > 1 or wanted == 1 else _new_dim(op, literal, wanted)
        for term, literal, wanted in zip(padded, literals, op.sizes, strict=True)
    ]
    return Result(out, follow={"size": out})


def expand_as(op: Op) -> Result:
    """expand_as, view_as, reshape_as: the shape of the other tensor."""
    other = op.dims("other")
    if str(op.node.target).startswith("aten.expand"):
        x = op.dims("self")
        for mine, its in zip(reversed(x), reversed(other), strict=False):
            if size(mine) > 1:
                op.unify(mine, its)
        return Result(op.dims("other"))
    out = regroup(op.dims("self"), op.sizes)
    if out is None:
        op.fix([*op.dims("self"), *other], "its parts do not fall on the new sizes")
        return Result(op.kept())
    for mine, its in zip(out, other, strict=True):
        op.unify(mine, its)
    return Result(out)


def repeat(op: Op) -> Result:
    """repeat(repeats), tile: copies laid end to end, so the copies are the outer factor."""
    x = op.dims("self")
    counts: Sequence[Any] = op.args.get("repeats", op.args.get("dims", ()))
    rank = max(len(counts), len(x))
    padded = [()] * (rank - len(x)) + x
    counts = [1] * (rank - len(counts)) + list(counts)
    copies = [_new_dim(op, c, op.number(c)) for c in counts]
    out = [(*c, *t) for c, t in zip(copies, padded, strict=True)]
    name = "repeats" if "repeats" in op.args else "dims"
    return Result(out, follow={name: copies[rank - len(op.args[name]) :]})


_BY_DATA = "it is repeated by data"


def repeat_interleave(op: Op) -> Result:
    """repeat_interleave(n, dim): copies side by side, so the copies are the inner factor."""
    x = op.dims("self")
    count = op.args.get("repeats")
    if op.args.get("dim") is None:
        op.fix([t for node in op.tensors() for t in op.dims_of(node)], _BY_DATA)
        return Result(op.kept())
    at = op.dim(op.args["dim"], len(x))
    if not isinstance(count, int):
        op.fix([x[at], *(op.dims("repeats") if op.has("repeats") else ())], _BY_DATA)
        x[at] = op.fixed([op.sizes[at]], _BY_DATA)[0]
        return Result(x)
    copies = fresh(count)
    x[at] = (*x[at], *copies)
    return Result(x, follow={"repeats": copies, "output_size": x[at]})


def cat(op: Op) -> Result:
    """cat(tensors, dim): the dim is the sum of theirs, the other dims are the same."""
    # A legacy of torch: empty one-dimensional tensors may be concatenated to anything.
    operands = [op.dims_of(t) for t in op.tensors()]
    operands = [d for d in operands if len(d) == len(op.sizes)]
    at = op.dim(op.args["dim"], len(op.sizes))
    out: Dims = []
    for i in range(len(op.sizes)):
        if i == at:
            out.append(concatenated([d[i] for d in operands]))
        else:
            for other in operands[1:]:
                op.unify(operands[0][i], other[i])
            out.append(operands[0][i])
    return Result(out)


def stack(op: Op) -> Result:
    """stack(tensors, dim): a new dim that counts the tensors."""
    operands = [op.dims_of(t) for t in op.tensors()]
    for other in operands[1:]:
        for a, b in zip(operands[0], other, strict=True):
            op.unify(a, b)
    out = list(operands[0])
    at = op.dim(op.args["dim"], len(op.sizes))
    out.insert(at, op.fixed([op.sizes[at]], "it counts stacked tensors")[0])
    return Result(out)


def _parts(op: Op, x: Dims, at: int, counts: list[int]) -> list[Term]:
    parts = additive(x[at], counts)
    if parts is None:
        op.fix(x[at], "it is cut apart inside its groups")
        parts = additive(x[at], counts)
    assert parts is not None
    return parts


def splits(op: Op) -> Result:
    """split, split_with_sizes, chunk, tensor_split: the dim is a sum of the pieces."""
    x = op.dims("self")
    at = op.dim(op.args["dim"], len(x))
    parts = _parts(op, x, at, [s[at] for s in op.sizes])
    outs = [[*x[:at], p, *x[at + 1 :]] for p in parts]
    return Result(outs, follow={"split_sizes": parts})


def glu(op: Op) -> Result:
    """glu(dim): the first half times the sigmoid of the second."""
    x = op.dims("self")
    at = op.dim(op.args["dim"], len(x))
    half = size(x[at]) // 2
    first, second = _parts(op, x, at, [half, half])
    op.unify(first, second)
    x[at] = first
    return Result(x)


def unbind(op: Op) -> Result:
    """unbind(dim): the dim counts the outputs."""
    x = op.dims("self")
    at = op.dim(op.args["dim"], len(x))
    op.fix(x[at], "it is taken apart one by one")
    return Result([[*x[:at], *x[at + 1 :]] for _ in op.sizes])


def select(op: Op) -> Result:
    """select(dim, index): one entry of the dim."""
    x = op.dims("self")
    at = op.dim(op.args["dim"], len(x))
    op.fix(x[at], "one of its features is picked by number")
    return Result([*x[:at], *x[at + 1 :]])


def slices(op: Op) -> Result:
    """slice(dim, start, end, step), narrow(dim, start, length)."""
    x = op.dims("self")
    at = op.dim(op.args["dim"], len(x))
    total, kept = size(x[at]), op.sizes[at]
    if kept == total:
        return Result(x, follow={"length": x[at]} if "length" in op.args else {})
    if kept == 0:
        op.fix(x[at], "none of its features are picked")
        x[at] = op.fixed([0], "none of its features are picked")[0]
        return Result(x)
    literal = all(isinstance(op.args.get(n), int | None) for n in ("start", "end", "length"))
    step = int(op.args.get("step") or 1)
    start = (int(op.args.get("start") or 0)) if literal else 0
    start = max(start + total, 0) if start < 0 else start
    if not literal or (step > 1 and (total % step or start >= step or kept != total // step)):
        op.fix(x[at], "its features are picked by number")
        x[at] = op.fixed([kept], "its features are picked by number")[0]
        return Result(x)
    if step > 1:
        return _strided(op, x, at, step)
    before, after = start, total - start - kept
    counts = [c for c in (before, kept, after) if c]
    parts = _parts(op, x, at, counts)
    middle = parts[1 if before else 0]
    skipped = parts[0] if before else None
    x[at] = middle
    follow: dict[str, Any] = {"length": middle}
    if skipped is not None:
        follow["start"] = skipped
    follow["end"] = concatenated([p for p in (skipped, middle) if p is not None])
    return Result(x, {k: v for k, v in follow.items() if k in op.args})


def _strided(op: Op, x: Dims, at: int, step: int) -> Result:
    pair = split(x[at], size(x[at]) // step, step)
    if pair is None:
        op.fix(x[at], "every so many of its features are picked")
        pair = split(x[at], size(x[at]) // step, step)
    assert pair is not None
    op.fix(pair[1], "every so many of its features are picked")
    x[at] = pair[0]
    # The bounds are as good as "to the end" at every width.
    return Result(x, follow={"end": (*pair[0], *pair[1])})


def pad(op: Op) -> Result:
    """pad, constant_pad_nd: padded dims stay, or grow by features that nothing can cut."""
    x = op.dims("self")
    amounts = list(op.args["pad"])
    for i in range(len(amounts) // 2):
        at = len(x) - 1 - i
        low, high = amounts[2 * i], amounts[2 * i + 1]
        if low == 0 and high == 0:
            continue
        literal = isinstance(low, int) and isinstance(high, int) and low >= 0 and high >= 0
        if not literal or op.args.get("mode", "constant") != "constant":
            op.fix(x[at], "it is padded")
            x[at] = op.fixed([op.sizes[at]], "it is padded")[0]
            continue
        ends = [op.fixed([n], "these features are padding")[0] for n in (low, high)]
        pieces = [p for p, n in ((ends[0], low), (x[at], 1), (ends[1], high)) if n]
        x[at] = concatenated(pieces)
    return Result(x)


def as_real(op: Op) -> Result:
    """view_as_real: a last dim of real and imaginary part."""
    return Result([*op.dims("self"), op.fixed([2], "it is real and imaginary part")[0]])


def as_complex(op: Op) -> Result:
    """view_as_complex: the last dim, of two, goes."""
    x = op.dims("self")
    op.fix(x[-1], "it is real and imaginary part")
    return Result(x[:-1])


def unfold(op: Op) -> Result:
    """unfold(dimension, size, step): windows along one dim."""
    x = op.dims("self")
    at = op.dim(op.args["dimension"], len(x))
    op.fix(x[at], "windows are taken along it")
    x[at] = op.fixed([op.sizes[at]], "it counts windows")[0]
    return Result([*x, *op.fixed([op.sizes[-1]], "it is a window")])


SPLITS = "split split_with_sizes chunk tensor_split unsafe_split unsafe_split_with_sizes".split()
TRANSPOSED = "transpose swapaxes swapdims t mT mH numpy_T matrix_H adjoint".split()

RULES = {
    **dict.fromkeys(("view", "reshape", "_unsafe_view", "flatten", "unflatten"), view),
    "permute": permute,
    **dict.fromkeys(TRANSPOSED, transpose),
    "transpose_": transpose,
    "movedim": movedim,
    "moveaxis": movedim,
    "unsqueeze": unsqueeze,
    "squeeze": squeeze,
    "expand": expand,
    "broadcast_to": expand,
    "expand_as": expand_as,
    "view_as": expand_as,
    "reshape_as": expand_as,
    "repeat": repeat,
    "tile": repeat,
    "repeat_interleave": repeat_interleave,
    "cat": cat,
    "concat": cat,
    "concatenate": cat,
    "stack": stack,
    **dict.fromkeys(SPLITS, splits),
    "glu": glu,
    "unbind": unbind,
    "select": select,
    "slice": slices,
    "narrow": slices,
    "pad": pad,
    "constant_pad_nd": pad,
    "view_as_real": as_real,
    "view_as_complex": as_complex,
    "unfold": unfold,
}
