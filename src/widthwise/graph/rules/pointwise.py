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
    dims = broadcast(op, [op.dims_of(t) for t in op.tensors()])
    several = bool(op.sizes) and isinstance(op.sizes[0], list)  # frexp
    return Result([list(dims) for _ in op.sizes] if several else dims)


def same(op: Op) -> Result:
    """Copies and fills of the first tensor's shape: clone, zeros_like, dropout, ..."""
    x = op.dims_of(op.tensors()[0])
    return Result([list(x) for _ in op.sizes] if op.several else x)


def prelu(op: Op) -> Result:
    """prelu(input (N, C, *), weight (C) or (1)): a slope for each channel, or one for all."""
    x, weight = op.dims("self"), op.dims("weight")
    if len(x) > 1 and weight:
        op.unify(x[1], weight[0]) if size(weight[0]) > 1 else None
    return Result(op.dims("self"))


COPIES = """
    _conj _fused_dropout _neg_view _to_copy alias alpha_dropout cauchy chalf clone conj
    conj_physical contiguous detach dropout embedding_renorm empty_like exponential
    feature_alpha_dropout feature_dropout fill full_like geometric imag lift lift_fresh
    lift_fresh_copy log_normal native_dropout normal_functional ones_like rand_like randint_like
    randn_like random real requires_grad_ resolve_conj resolve_neg to type_as uniform zero
    zeros_like
""".split()

UNTAGGED = """
    add addcdiv addcmul celu clamp clamp_max clamp_min complex copy div divide elu floor_divide gelu
    hardshrink hardsigmoid hardswish hardtanh leaky_relu lerp log_sigmoid logical_and logical_not
    logical_or logical_xor masked_fill mish mul multiply polar pow relu6 rrelu rsub selu silu
    softplus softshrink square sub subtract threshold true_divide where __and__ __or__
""".split()  # pointwise in meaning, though not all are tagged so

DRAWN = "_standard_gamma bernoulli binomial poisson rrelu_with_noise".split()

RULES = dict.fromkeys(COPIES, same) | dict.fromkeys([*UNTAGGED, *DRAWN], pointwise)
RULES["prelu"] = prelu
