"""Normalisation, softmax and reductions."""

from __future__ import annotations

from collections.abc import Callable

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


def native_norm(rule: Callable[[Op], Result]) -> Callable[[Op], Result]:
    """native_layer_norm, native_batch_norm: the statistics come out as well."""

    def several(op: Op) -> Result:
        result = rule(op)
        x = result.outputs
        kept = [
            [() if size(t) != s else t for t, s in zip(x, sizes, strict=True)]
            if len(sizes) == len(x)
            else [x[1]][: len(sizes)]
            for sizes in op.sizes[1:]
        ]
        return Result([x, *kept], result.follow)

    return several


def _reduced(op: Op) -> tuple[list[int], bool]:
    x = op.dims_of(op.tensors()[0])
    return op.listed(op.args.get("dim"), len(x)), bool(op.args.get("keepdim", False))


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
        return Result([list(out) for _ in op.sizes] if op.several else out)

    return rule


def chosen(op: Op) -> Result:
    """max, min, median, argmax along a dim: fine as values, but an index counts positions."""
    x = op.dims_of(op.tensors()[0])
    if len(op.tensors()) > 1:
        return pointwise(op)
    dims, keep = _reduced(op)
    positions_used = not op.several or any(u.args[1] == 1 for u in op.node.users)
    is_value = not op.several and not str(op.node.target).startswith("aten.arg")
    for d in dims:
        if positions_used and not is_value:
            op.fix(x[d], "an index counts its features")
        op.normalise(x[d])
    out = [() if i in dims else t for i, t in enumerate(x) if keep or i not in dims]
    return Result([list(out), list(out)] if op.several else out)


def quantile(op: Op) -> Result:
    """quantile, nanquantile: the dim goes; several quantiles come first, as a dim of their own."""
    x = op.dims("self")
    dims, keep = _reduced(op)
    op.normalise(*(x[d] for d in dims))
    out = [() if i in dims else t for i, t in enumerate(x) if keep or i not in dims]
    if op.has("q"):
        op.fix(op.dims("q"), "it counts quantiles")
        out = [*op.dims("q"), *out]
    return Result(out)


def kth(op: Op) -> Result:
    """kthvalue: which one is the k-th depends on how many there are, so they stay."""
    x = op.dims("self")
    op.fix(x[op.dim(op.args["dim"], len(x))], "the k-th of its features is picked")
    return chosen(op)


def except_dim(op: Op) -> Result:
    """norm_except_dim(v, pow, dim): the norm over every dim but one, which all remain."""
    v = op.dims("v")
    at = op.args["dim"] if op.args["dim"] == -1 else op.dim(op.args["dim"], len(v))
    op.normalise(*(t for i, t in enumerate(v) if i != at))
    return Result([t if i == at else () for i, t in enumerate(v)] if at != -1 else [])


def renorm(op: Op) -> Result:
    """renorm(p, dim, maxnorm): scales what lies at each place of one dim to a norm."""
    x = op.dims("self")
    at = op.dim(op.args["dim"], len(x))
    op.normalise(*(t for i, t in enumerate(x) if i != at))
    return Result(x)


def ordered(op: Op) -> Result:
    """cumsum, sort, topk, flip, roll: the order along a dim matters, the rest passes."""
    source: fx.Node = op.tensors()[0]
    x = op.dims_of(source)
    dims = op.listed(op.args.get("dim", op.args.get("dims")), len(x))
    for d in dims:
        op.fix(x[d], "the order of its features matters")
    sizes = op.sizes if op.several else [op.sizes]
    outs = [
        [op.fixed([s[i]], "the order matters")[0] if i in dims else t for i, t in enumerate(x)]
        for s in sizes
    ]
    return Result(outs if op.several else outs[0])


def transformed(op: Op) -> Result:
    """fft and its kin: every value along the transformed dims depends on all of them, by place."""
    x = op.dims_of(op.tensors()[0])
    for d in op.listed(op.args.get("dim"), len(x)):
        op.fix(x[d], "a Fourier transform mixes its features by place")
        x[d] = op.fixed([op.sizes[d]], "a Fourier transform mixes its features by place")[0]
    return Result(x)


_WINDOWS = "a Fourier transform of windows mixes it by place"


def windowed(op: Op) -> Result:
    """stft (*, L) -> (*, F, T) or (*, F, T, 2), istft back: leading dims pass, the rest stays."""
    x = op.dims("self")
    if str(op.node.target).startswith("aten.istft"):
        lead = 1 if op.node.meta["val"].dim() > 1 else 0
    else:
        lead = len(x) - 1
    op.fix(x[lead:], _WINDOWS)
    if op.has("window"):
        op.fix(op.dims("window"), _WINDOWS)
    return Result([*x[:lead], *op.fixed(op.sizes[lead:], _WINDOWS)])


def lower_triangle(op: Op) -> Result:
    """tril, triu: positions in the last two dims."""
    x = op.dims_of(op.tensors()[0])
    op.fix(x[-2:], "positions are in order")
    return Result(x)


AVERAGES = """
    _aminmax all amax amin aminmax any count_nonzero frobenius_norm hash_tensor linalg_norm
    linalg_vector_norm logsumexp mean nanmean nansum norm prod special_logsumexp std std_mean var
    var_mean
""".split()
SOFTMAX = """
    _log_softmax _safe_softmax _softmax log_softmax softmax special_log_softmax special_softmax
""".split()
CHOSEN = "argmax argmin max median min mode nanmedian".split()
FOURIER = "fft ifft rfft irfft hfft ihfft fft2 ifft2 rfft2 irfft2 fftn ifftn rfftn irfftn".split()
ORDERED = """
    _logcumsumexp argsort cummax cummin cumprod cumsum cumulative_trapezoid diff flip logcumsumexp
    msort roll sort topk
""".split()

RULES = {
    "batch_norm": batch_norm,
    "instance_norm": batch_norm,
    "layer_norm": layer_norm,
    "rms_norm": layer_norm,
    "group_norm": group_norm,
    "_weight_norm": weight_norm,
    "native_layer_norm": native_norm(layer_norm),
    **dict.fromkeys(
        ("native_batch_norm", "_native_batch_norm_legit", "_batch_norm_with_update"),
        native_norm(batch_norm),
    ),
    **dict.fromkeys(SOFTMAX, softmax),
    "sum": reduction(plain_sum=True),
    **dict.fromkeys(AVERAGES, reduction(plain_sum=False)),
    **dict.fromkeys(CHOSEN, chosen),
    "kthvalue": kth,
    **dict.fromkeys(("quantile", "nanquantile"), quantile),
    "norm_except_dim": except_dim,
    "renorm": renorm,
    **dict.fromkeys(("stft", "istft"), windowed),
    **dict.fromkeys(ORDERED, ordered),
    **dict.fromkeys([f"fft_{name}" for name in FOURIER], transformed),
    "tril": lower_triangle,
    "triu": lower_triangle,
}
