"""Normalisation, softmax and reductions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx

from widthwise.graph.dims import size, split
from widthwise.graph.rules.op import Op, Result
from widthwise.graph.rules.pointwise import pointwise


def batch_norm(op: Op) -> Result:
    """batch_norm and instance_norm: (N, C, *) with one statistic and weight for each channel."""
    x = op.dims("input")
    for name in ("weight", "bias", "running_mean", "running_var"):
        if op.has(name):
            op.unify(x[1], op.dims(name)[0])
    if op.args.get("training") or op.args.get("use_input_stats"):
        # Statistics of weights (weight standardisation) are taken over features.
        op.normalise(*(t for i, t in enumerate(x) if i != 1))
    return Result(op.dims("input"))


def layer_norm(op: Op) -> Result:
    """layer_norm, rms_norm: over the last len(normalized_shape) dims."""
    x = op.dims("input")
    last = x[-len(op.args["normalized_shape"]) :]
    for name in ("weight", "bias"):
        if op.has(name):
            for mine, its in zip(last, op.dims(name), strict=True):
                op.unify(mine, its)
    op.normalise(*last)
    return Result(op.dims("input"), follow={"normalized_shape": last})


def group_norm(op: Op) -> Result:
    """group_norm(input (N, C, *), num_groups): C = groups x channels of a group."""
    x = op.dims("input")
    groups = int(op.args["num_groups"])
    pair = split(x[1], groups, size(x[1]) // groups)
    if pair is None:
        op.fix(x[1], "its parts do not fall on whole groups")
        pair = split(x[1], groups, size(x[1]) // groups)
    assert pair is not None
    for name in ("weight", "bias"):
        if op.has(name):
            op.unify(op.dims("input")[1], op.dims(name)[0])
    op.normalise(pair[1])
    return Result(op.dims("input"), follow={"num_groups": pair[0]})


def weight_norm(op: Op) -> Result:
    """_weight_norm(v, g, dim): v over its norm along every dim but one, times g."""
    v, g = op.dims("v"), op.dims("g")
    at = op.dim(op.args["dim"], len(v))
    op.unify(v[at], g[at])
    op.normalise(*v)  # a zero in the place of a cut feature would have no norm to be divided by
    return Result(op.dims("v"))


def softmax(op: Op) -> Result:
    """softmax, log_softmax: features of one dim are compared with each other."""
    x = op.dims_of(op.tensors()[0])
    op.normalise(x[op.dim(op.args["dim"], len(x))])
    return Result(x)


def _reduced(op: Op) -> tuple[list[int], bool]:
    x = op.dims_of(op.tensors()[0])
    asked: Any = op.args.get("dim")
    if asked is None or asked == []:
        dims = list(range(len(x)))
    else:
        dims = [op.dim(d, len(x)) for d in (asked if isinstance(asked, (list, tuple)) else [asked])]
    return dims, bool(op.args.get("keepdim", False))


def reduction(plain_sum: bool) -> Callable[[Op], Result]:
    """sum, mean, var, amax, norm, ...: the reduced dims go.

    A plain sum sees no difference between a cut feature and a zero; the others do.
    """

    def rule(op: Op) -> Result:
        x = op.dims_of(op.tensors()[0])
        dims, keep = _reduced(op)
        for d in dims:
            (op.contract if plain_sum else op.normalise)(x[d])
        out = [() if i in dims else t for i, t in enumerate(x) if keep or i not in dims]
        return Result([list(out) for _ in op.sizes] if _several(op) else out)

    return rule


def _several(op: Op) -> bool:
    return bool(op.sizes) and isinstance(op.sizes[0], list)


def chosen(op: Op) -> Result:
    """max, min, median, argmax along a dim: fine as values, but an index counts positions."""
    x = op.dims_of(op.tensors()[0])
    if len(op.tensors()) > 1:
        return pointwise(op)
    dims, keep = _reduced(op)
    positions_used = not _several(op) or any(u.args[1] == 1 for u in op.node.users)
    is_value = not _several(op) and not str(op.node.target).startswith("aten.arg")
    for d in dims:
        if positions_used and not is_value:
            op.fix(x[d], "an index counts its features")
        op.normalise(x[d])
    out = [() if i in dims else t for i, t in enumerate(x) if keep or i not in dims]
    return Result([list(out), list(out)] if _several(op) else out)


def ordered(op: Op) -> Result:
    """cumsum, sort, topk, flip, roll: the order along a dim matters, the rest passes."""
    source: fx.Node = op.tensors()[0]
    x = op.dims_of(source)
    asked: Any = op.args.get("dim", op.args.get("dims"))
    listed = asked if isinstance(asked, (list, tuple)) else [asked]
    dims = [op.dim(d, len(x)) for d in listed] if asked not in (None, []) else range(len(x))
    for d in dims:
        op.fix(x[d], "the order of its features matters")
    sizes = op.sizes if _several(op) else [op.sizes]
    outs = [
        [op.fixed([s[i]], "the order matters")[0] if i in dims else t for i, t in enumerate(x)]
        for s in sizes
    ]
    return Result(outs if _several(op) else outs[0])


def transformed(op: Op) -> Result:
    """fft and its kin: every value along the transformed dims depends on all of them, by place."""
    x = op.dims_of(op.tensors()[0])
    asked: Any = op.args.get("dim")
    listed = asked if isinstance(asked, (list, tuple)) else [asked]
    dims = range(len(x)) if asked is None else [op.dim(d, len(x)) for d in listed]
    for d in dims:
        op.fix(x[d], "a Fourier transform mixes its features by place")
        x[d] = op.fixed([op.sizes[d]], "a Fourier transform mixes its features by place")[0]
    return Result(x)


def lower_triangle(op: Op) -> Result:
    """tril, triu: positions in the last two dims."""
    x = op.dims_of(op.tensors()[0])
    op.fix(x[-2:], "positions are in order")
    return Result(x)


AVERAGES = "mean var std var_mean std_mean amax amin prod logsumexp linalg_vector_norm norm".split()
FOURIER = "fft ifft rfft irfft hfft ihfft fft2 ifft2 rfft2 irfft2 fftn ifftn rfftn irfftn".split()
ORDERED = "cumsum cumprod sort argsort topk flip roll diff logcumsumexp".split()

RULES = {
    "batch_norm": batch_norm,
    "instance_norm": batch_norm,
    "layer_norm": layer_norm,
    "rms_norm": layer_norm,
    "group_norm": group_norm,
    "_weight_norm": weight_norm,
    "softmax": softmax,
    "_softmax": softmax,
    "log_softmax": softmax,
    "_log_softmax": softmax,
    "sum": reduction(plain_sum=True),
    **dict.fromkeys([*AVERAGES, "any", "all", "nansum", "nanmean"], reduction(plain_sum=False)),
    **dict.fromkeys(["max", "min", "median", "argmax", "argmin"], chosen),
    **dict.fromkeys(ORDERED, ordered),
    **dict.fromkeys([f"fft_{name}" for name in FOURIER], transformed),
    "tril": lower_triangle,
    "triu": lower_triangle,
}
