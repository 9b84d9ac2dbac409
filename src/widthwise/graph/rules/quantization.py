"""Fake quantization: values rounded to a grid, one for the tensor or one for each channel."""

from __future__ import annotations

from widthwise.graph.rules.op import Op, Result

_QUANTIZED = ("scale", "zero_point", "running_min", "running_max")


def fake_quantize(op: Op) -> Result:
    """fake_quantize_*, fused_moving_avg_obs_fake_quant: scale and zero point follow the channels.

    The grid of a whole tensor that is observed comes from all of its features.
    """
    x = op.dims("self")
    axis = op.args.get("axis", op.args.get("ch_axis"))
    channels = bool(op.args.get("per_row_fake_quant", "axis" in op.args))
    if channels:
        at = op.dim(axis, len(x))
        for name in _QUANTIZED:
            if op.has(name) and op.dims(name):
                op.unify(op.dims("self")[at], op.dims(name)[0])
    if "running_min" in op.args:
        op.normalise(*(t for i, t in enumerate(x) if not channels or i != at))
    x = op.dims("self")
    return Result([list(x) for _ in op.sizes] if op.several else x)


NAMES = """
    fake_quantize_per_tensor_affine fake_quantize_per_tensor_affine_cachemask
    fake_quantize_per_channel_affine fake_quantize_per_channel_affine_cachemask
    _fake_quantize_learnable_per_tensor_affine _fake_quantize_learnable_per_channel_affine
    _fake_quantize_per_tensor_affine_cachemask_tensor_qparams
    fused_moving_avg_obs_fake_quant _fused_moving_avg_obs_fq_helper
""".split()

RULES = dict.fromkeys(NAMES, fake_quantize)
