"""Losses inside of forward: one value for each item, or one for all of them.

Every feature has a say in a mean or a sum of errors, so the features are compared; which class is
the right one is an index, so the classes stay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from widthwise.graph.dims import Dims, size
from widthwise.graph.rules.op import Op, Result
from widthwise.graph.rules.pointwise import broadcast

_NONE = 0  # the number of reduction="none"
_CLASSES = "its classes are picked by number"


def _reduced(op: Op, each: Dims) -> Result:
    """The value of each item, or the mean or sum of them all."""
    op.normalise(*each)
    return Result(each if op.args["reduction"] == _NONE else [])


def elementwise(op: Op) -> Result:
    """mse_loss, huber_loss, kl_div, binary_cross_entropy, ...: of each entry by itself."""
    return _reduced(op, broadcast(op, [op.dims_of(t) for t in op.tensors()]))


def nll(op: Op) -> Result:
    """nll_loss, cross_entropy_loss, multi_margin_loss: input (N, C, *), (N, C) or (C).

    The target holds class numbers (N, *) or, for cross entropy, probabilities (N, C, *).
    """
    x, target = op.dims("self"), op.dims("target")
    at = 1 if len(x) > 1 else 0
    if len(target) == len(x):
        # Targets as probabilities: cross entropy compares the classes and needs no order.
        for mine, its in zip(x, target, strict=True):
            op.unify(mine, its)
    else:
        op.fix(x[at], _CLASSES)
        for mine, its in zip([t for i, t in enumerate(x) if i != at], target, strict=True):
            op.unify(mine, its)
    if op.has("weight"):
        op.unify(op.dims("self")[at], op.dims("weight")[0])
    x = op.dims("self")
    op.normalise(x[at])
    return _reduced(op, [t for i, t in enumerate(x) if i != at])


def multilabel_margin(op: Op) -> Result:
    """multilabel_margin_loss(input (N, C) or (C), target alike): classes by number."""
    x = op.dims("self")
    op.fix([x[-1], op.dims("target")[-1]], _CLASSES)
    for mine, its in zip(x[:-1], op.dims("target"), strict=False):
        op.unify(mine, its)
    return _reduced(op, x[:-1])


def vectors(names: Sequence[str], beside: str | None = None) -> Callable[[Op], Result]:
    """cosine_embedding_loss, triplet_margin_loss: of vectors along the last dim."""

    def rule(op: Op) -> Result:
        both = broadcast(op, [op.dims(name) for name in names])
        op.normalise(*both[-1:])
        lead = [both[:-1]] + ([op.dims(beside)] if beside else [])
        return _reduced(op, broadcast(op, lead))

    return rule


def ctc(op: Op) -> Result:
    """ctc_loss(log_probs (T, N, C), targets (N, S) or (sum), lengths): steps and classes stay."""
    x = op.dims("log_probs")
    for node in op.tensors():
        dims = op.dims_of(node)
        op.fix([t for t in dims if size(t) > 1], "steps are in order and classes have numbers")
    return _reduced(op, x[1:2] if len(x) == 3 else [])


ELEMENTWISE = """
    binary_cross_entropy binary_cross_entropy_with_logits hinge_embedding_loss huber_loss kl_div
    l1_loss margin_ranking_loss mse_loss poisson_nll_loss smooth_l1_loss soft_margin_loss
""".split()
NUMBERED = "nll_loss nll_loss2d nll_loss_nd cross_entropy_loss multi_margin_loss".split()

RULES = {
    **dict.fromkeys(ELEMENTWISE, elementwise),
    **dict.fromkeys(NUMBERED, nll),
    "multilabel_margin_loss": multilabel_margin,
    "cosine_embedding_loss": vectors(("input1", "input2"), "target"),
    "triplet_margin_loss": vectors(("anchor", "positive", "negative")),
    "ctc_loss": ctc,
}
