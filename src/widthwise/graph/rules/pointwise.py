"""Operators that act on each element by itself, and copies: dims pass, broadcasting equates them.

Most need no entry in a table: `torch.Tag.pointwise` marks them.
"""

from __future__ import annotations

from widthwise.graph.dims import Dims, size
from widthwise.graph.rules.op import Op, Result


def broadcast(op: Op, operands: list[Dims]) -> Dims:
    """Dims of the result of broadcasting; dims of size 1 are empty and so give way."""
    rank = max(len(d) for d in operands)
    out: Dims = []
    for i in range(-rank, 0):
        terms = [d[i] for d in operands if len(d) >= -i]
        wide = [t for t in terms if size(t) > 1]
        for other in wide[1:]:
            op.unify(wide[0], other)
        out.append(wide[0] if wide else ())
    return out


def pointwise(op: Op) -> Result:
    """add, mul, relu, where, dropout, to, ...: one output of the broadcast dims."""
    return Result(broadcast(op, [op.dims_of(t) for t in op.tensors()]))


def same(op: Op) -> Result:
    """Copies and fills of the first tensor's shape: clone, zeros_like, dropout, triu of nothing."""
    return Result(op.dims_of(op.tensors()[0]))


RULES = {
    name: same
    for name in (
        "_to_copy", "alias", "alpha_dropout", "bernoulli", "clone", "contiguous", "copy", "copy_",
        "detach", "detach_", "dropout", "dropout_", "empty_like", "feature_alpha_dropout",
        "feature_dropout", "fill_", "full_like", "lift_fresh_copy", "native_dropout", "ones_like",
        "rand_like", "randn_like", "to", "type_as", "zeros_like", "zero_", "requires_grad_",
    )
} | {  # pointwise in meaning, though not tagged so
    name: pointwise
    for name in (
        "clamp", "clamp_max", "clamp_min", "hardsigmoid", "hardswish", "hardtanh", "masked_fill",
        "masked_fill_", "mish", "prelu_scalar", "relu6", "rrelu", "selu", "celu", "softplus",
        "where", "lerp", "addcmul", "addcdiv", "logical_and", "logical_not", "logical_or", "silu",
        "gelu", "leaky_relu", "elu", "log_sigmoid", "hardshrink", "softshrink", "threshold",
        "__and__", "__or__", "expand_as_pointwise", "true_divide", "square", "subtract", "multiply",
        "divide", "add", "sub", "mul", "div", "rsub", "pow", "logical_xor",
    )
}  # fmt: skip
