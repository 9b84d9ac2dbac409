"""Convolution, transposed convolution, and the rearrangements between channels and space."""

from __future__ import annotations

import math
from collections.abc import Callable

from widthwise.graph.dims import Term, resolve, size, split
from widthwise.graph.rules.op import Op, Result


def _grouped(op: Op, channels: Term, groups: int) -> tuple[Term, Term]:
    """Read channels as groups x channels of a group."""
    pair = split(channels, groups, size(channels) // groups)
    if pair is None:
        op.fix(channels, "its parts do not fall on whole groups")
        pair = split(channels, groups, size(channels) // groups)
    assert pair is not None
    if groups > 1 and isinstance(op.args["groups"], int):  # no batch in the groups' place
        op.roles += [(pair[0], "groups"), (pair[1], "group_size")]
    return pair


def convolution(op: Op) -> Result:
    """conv1d/2d/3d(input (N, C, *), weight (O, C / groups, *), bias (O)); unbatched input too."""
    x, weight = op.dims("input"), op.dims("weight")
    space = len(weight) - 2
    groups = op.number(op.args["groups"])
    channels = x[-space - 1]
    through = [_one_by_one(op, i, size(weight[2 + i])) for i in range(space)]
    beyond = [t for t, one in zip(x[len(x) - space :], through, strict=True) if not one]
    op.fix([*beyond, *weight[2:]], "space and kernel are not features")
    group, inner = _grouped(op, channels, groups)
    out_group, _ = _grouped(op, weight[0], groups)
    op.unify(group, out_group)
    op.unify(inner, weight[1])
    op.contract(resolve(inner))
    op.consume("weight", 1)
    found = _finish(op, x, resolve(weight[0]), space, group)
    for i, one in enumerate(through):
        if one:
            found.outputs[i - space] = x[i - space]
    return found


def _one_by_one(op: Op, i: int, kernel: int) -> bool:
    """Whether places along a dim of space stay apart: a kernel of one that goes step by step."""
    stride, padding = op.args["stride"], op.args["padding"]
    return (
        kernel == 1
        and stride[i % len(stride)] == 1
        and (padding in ("valid", "same") or padding[i % len(padding)] == 0)
    )


def transposed(op: Op) -> Result:
    """conv_transpose1d/2d/3d(input (N, C, *), weight (C, O / groups, *), bias (O))."""
    x, weight = op.dims("input"), op.dims("weight")
    space = len(weight) - 2
    groups = op.number(op.args["groups"])
    op.fix([*x[len(x) - space :], *weight[2:]], "space and kernel are not features")
    op.unify(x[-space - 1], weight[0])
    group, inner = _grouped(op, weight[0], groups)
    op.contract(resolve(inner))
    op.consume("weight", 0)
    return _finish(op, x, (*group, *weight[1]), space, group)


def either(op: Op) -> Result:
    """convolution, _convolution: transposed or not."""
    return transposed(op) if op.args["transposed"] else convolution(op)


def time_first(op: Op) -> Result:
    """conv_tbc(input (T, N, C), weight (K, C, O), bias (O)) -> (T, N, O)."""
    x, weight = op.dims("self"), op.dims("weight")
    op.fix([x[0], weight[0]], "space and kernel are not features")
    op.unify(x[2], weight[1])
    op.contract(x[2])
    op.consume("weight", 1)
    op.unify(weight[2], op.dims("bias")[0])
    out = op.fixed(op.sizes[:1], "space is not a feature")
    return Result([*out, x[1], op.dims("weight")[2]])


def _finish(op: Op, x: list[Term], out: Term, space: int, group: Term) -> Result:
    if op.has("bias"):
        op.unify(out, op.dims("bias")[0])
    spatial = op.fixed(op.sizes[len(op.sizes) - space :], "space is not a feature")
    outputs = [*x[: -space - 1], out, *spatial]
    return Result(outputs, follow={"groups": group})


def spatial(dims: int) -> Callable[[Op], Result]:
    """Pooling and resampling over the last `dims` dims: the leading ones pass."""

    def rule(op: Op) -> Result:
        source = op.tensors()[0]
        x = op.dims_of(source)
        op.fix(x[-dims:], "space is not a feature")
        many = isinstance(op.sizes[0], list)
        sizes = op.sizes if many else [op.sizes]
        outs = [[*x[:-dims], *op.fixed(s[-dims:], "space is not a feature")] for s in sizes]
        return Result(outs if many else outs[0])

    return rule


def unpool(dims: int) -> Callable[[Op], Result]:
    """max_unpool2d/3d(input (*, space), indices alike): values go back to where they were."""

    def rule(op: Op) -> Result:
        for mine, its in zip(op.dims("self"), op.dims("indices"), strict=True):
            op.unify(mine, its)
        return spatial(dims)(op)

    return rule


def fractional(dims: int) -> Callable[[Op], Result]:
    """fractional_max_pool2d/3d(input (N, C, space), ..., random_samples (N, C, dims))."""

    def rule(op: Op) -> Result:
        lead, samples = op.dims("self")[:-dims], op.dims("random_samples")
        for mine, its in zip(reversed(lead), reversed(samples[:-1]), strict=False):
            op.unify(mine, its)
        op.fix(samples[-1], "it counts dims of space")
        return spatial(dims)(op)

    return rule


def grid_sampler(op: Op) -> Result:
    """grid_sampler(input (N, C, *), grid (N, *, dims of space)) -> (N, C, *): any channels."""
    x, grid = op.dims("input"), op.dims("grid")
    op.fix([*x[2:], *grid[1:]], "space is not a feature")
    op.unify(x[0], grid[0])
    return Result([*op.dims("input")[:2], *op.fixed(op.sizes[2:], "space is not a feature")])


def affine_grid(op: Op) -> Result:
    """affine_grid_generator(theta (N, 2, 3), size (N, C, H, W)) -> (N, H, W, 2), no channels."""
    theta = op.dims("theta")
    op.fix(theta[1:], "they are coordinates")
    return Result([theta[0], *op.fixed(op.sizes[1:], "they are coordinates")])


def rot90(op: Op) -> Result:
    """rot90(k, dims): the two dims are space, and change places at odd k."""
    x = op.dims("self")
    i, j = (op.dim(d, len(x)) for d in op.args["dims"])
    op.fix([x[i], x[j]], "it is turned")
    if op.args["k"] % 2:
        x[i], x[j] = x[j], x[i]
    return Result(x)


def pixel_shuffle(op: Op) -> Result:
    """pixel_shuffle((*, c r r, H, W), r) -> (*, c, H r, W r)."""
    x = op.dims("self")
    r = int(op.args["upscale_factor"])
    op.fix(x[-2:], "space is not a feature")
    pair = split(x[-3], size(x[-3]) // (r * r), r * r)
    if pair is None:
        op.fix(x[-3], "its parts do not fall on whole pixels")
        pair = split(x[-3], size(x[-3]) // (r * r), r * r)
    assert pair is not None
    op.fix(pair[1], "these features become space")
    return Result([*x[:-3], pair[0], *op.fixed(op.sizes[-2:], "space is not a feature")])


def pixel_unshuffle(op: Op) -> Result:
    """pixel_unshuffle((*, c, H r, W r), r) -> (*, c r r, H, W)."""
    x = op.dims("self")
    r = int(op.args["downscale_factor"])
    op.fix(x[-2:], "space is not a feature")
    block = op.fixed([r * r], "these features were space")[0]
    channels = (*x[-3], *block)
    return Result([*x[:-3], channels, *op.fixed(op.sizes[-2:], "space is not a feature")])


def im2col(op: Op) -> Result:
    """im2col((N, C, H, W), kernel) -> (N, C kh kw, L), unfold of torch.nn; unbatched input too."""
    x = op.dims("self")
    op.fix(x[-2:], "space is not a feature")
    window = op.fixed([math.prod(op.args["kernel_size"])], "it is a window")[0]
    return Result([*x[:-3], (*x[-3], *window), *op.fixed(op.sizes[-1:], "space is not a feature")])


def col2im(op: Op) -> Result:
    """col2im((N, C kh kw, L), size, kernel) -> (N, C, H, W), fold of torch.nn."""
    x = op.dims("self")
    op.fix(x[-1], "space is not a feature")
    window = math.prod(op.args["kernel_size"])
    pair = split(x[-2], size(x[-2]) // window, window)
    if pair is None:
        op.fix(x[-2], "its parts do not fall on whole windows")
        pair = split(x[-2], size(x[-2]) // window, window)
    assert pair is not None
    op.fix(pair[1], "it is a window")
    return Result([*x[:-2], pair[0], *op.fixed(op.sizes[-2:], "space is not a feature")])


def channel_shuffle(op: Op) -> Result:
    """channel_shuffle((N, g c, *), g): channels as g x c become c x g."""
    x = op.dims("self")
    groups = int(op.args["groups"])
    group, inner = _grouped(op, x[1], groups)
    return Result([x[0], (*inner, *group), *x[2:]], follow={"groups": group})


RULES = {
    **dict.fromkeys(("convolution", "_convolution"), either),
    "conv_tbc": time_first,
    "conv_depthwise3d": convolution,
    **{f"max_unpool{d}d": unpool(d) for d in (2, 3)},
    **{f"fractional_max_pool{d}d": fractional(d) for d in (2, 3)},
    **dict.fromkeys(("grid_sampler", "grid_sampler_2d", "grid_sampler_3d"), grid_sampler),
    "affine_grid_generator": affine_grid,
    "rot90": rot90,
    **{f"conv{d}d": convolution for d in (1, 2, 3)},
    **{f"conv_transpose{d}d": transposed for d in (1, 2, 3)},
    **{
        f"{name}{d}d": spatial(d)
        for name in (
            "avg_pool",
            "adaptive_avg_pool",
            "_adaptive_avg_pool",
            "adaptive_max_pool",
            "max_pool",
            "upsample_nearest",
            "_upsample_nearest_exact",
            "reflection_pad",
            "replication_pad",
        )
        for d in (1, 2, 3)
    },
    **{f"max_pool{d}d_with_indices": spatial(d) for d in (1, 2, 3)},
    "upsample_linear1d": spatial(1),
    "upsample_bilinear2d": spatial(2),
    "upsample_bicubic2d": spatial(2),
    "_upsample_bilinear2d_aa": spatial(2),
    "_upsample_bicubic2d_aa": spatial(2),
    "_upsample_lanczos2d_aa": spatial(2),
    "upsample_trilinear3d": spatial(3),
    "pixel_shuffle": pixel_shuffle,
    "pixel_unshuffle": pixel_unshuffle,
    "im2col": im2col,
    "col2im": col2im,
    "channel_shuffle": channel_shuffle,
    "native_channel_shuffle": channel_shuffle,
}
