"""The sizes that torch's own layers hold as attributes, read from their parameters."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


def layer_sizes(module: nn.Module, groups: int) -> list[tuple[str, int | tuple[int, ...]]]:
    """(attribute, value) pairs of a torch layer as its parameters' shapes and groups imply them."""
    weight = getattr(module, "weight", None)
    shape = tuple(weight.shape) if isinstance(weight, Tensor) else ()
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        return _recurrent_sizes(module)
    if isinstance(module, nn.MultiheadAttention):
        out = module.out_proj.weight.shape[0]
        sizes: list[tuple[str, Any]] = [("embed_dim", out), ("head_dim", out // module.num_heads)]
        if module._qkv_same_embed_dim:
            return [*sizes, ("kdim", out), ("vdim", out)]
        assert module.k_proj_weight is not None
        assert module.v_proj_weight is not None
        k, v = module.k_proj_weight, module.v_proj_weight
        return [*sizes, ("kdim", k.shape[1]), ("vdim", v.shape[1])]
    if isinstance(module, nn.Transformer):
        attention = module.encoder.layers[0].self_attn
        return [("d_model", attention.embed_dim), ("nhead", attention.num_heads)]
    if not shape:
        return []
    if isinstance(module, nn.Bilinear):
        names = ("out_features", "in1_features", "in2_features")
        return list(zip(names, shape, strict=True))
    if isinstance(module, nn.Linear):
        return [("out_features", shape[0]), ("in_features", shape[1])]
    if isinstance(module, nn.Embedding):
        return [("num_embeddings", shape[0]), ("embedding_dim", shape[1])]
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        return [("normalized_shape", shape)]
    if isinstance(module, nn.modules.batchnorm._NormBase):
        return [("num_features", shape[0])]
    if isinstance(module, nn.GroupNorm):
        return [("num_channels", shape[0]), ("num_groups", groups)]
    if isinstance(module, nn.modules.conv._ConvNd):
        ins, outs = shape[1] * groups, shape[0]
        if module.transposed:
            ins, outs = outs, ins
        return [("in_channels", ins), ("out_channels", outs), ("groups", groups)]
    return []


def _recurrent_sizes(module: nn.Module) -> list[tuple[str, int | tuple[int, ...]]]:
    suffix = "_l0" if isinstance(module, nn.RNNBase) else ""
    w_ih, w_hh = (getattr(module, f"{n}{suffix}") for n in ("weight_ih", "weight_hh"))
    if getattr(module, "proj_size", 0):
        projection = module.get_parameter("weight_hr_l0").shape
        return [
            ("input_size", w_ih.shape[1]),
            ("hidden_size", projection[1]),
            ("proj_size", projection[0]),
        ]
    return [("input_size", w_ih.shape[1]), ("hidden_size", w_hh.shape[1])]
