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


COPIES = """
    _to_copy alias alpha_dropout bernoulli clone contiguous detach dropout empty_like exponential
    feature_alpha_dropout feature_dropout fill full_like imag lift_fresh_copy native_dropout normal
    ones_like rand_like randn_like real requires_grad_ to type_as uniform zero zeros_like
""".split()

UNTAGGED = """
    add addcdiv addcmul celu clamp clamp_max clamp_min complex copy div divide elu floor_divide gelu
    hardshrink hardsigmoid hardswish hardtanh leaky_relu lerp log_sigmoid logical_and logical_not
    logical_or logical_xor masked_fill mish mul multiply polar pow relu6 rrelu rsub selu silu
    softplus softshrink square sub subtract threshold true_divide where __and__ __or__
""".split()  # pointwise in meaning, though not all are tagged so

RULES = dict.fromkeys(COPIES, same) | dict.fromkeys(UNTAGGED, pointwise)
