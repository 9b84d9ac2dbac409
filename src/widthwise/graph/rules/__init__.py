"""One rule for each operator family: how the dims of its inputs and outputs belong together.

To teach widthwise an operator, write one function in the file of its family and name it in that
file's RULES; `docs/rules.md` shows how and which test it needs.
"""

from __future__ import annotations

import torch

from widthwise.graph.rules import (
    convolution,
    indexing,
    matrix,
    normalisation,
    pointwise,
    recurrent,
    shape,
)
from widthwise.graph.rules.op import Op, Result

RULES = {
    **pointwise.RULES,
    **matrix.RULES,
    **convolution.RULES,
    **normalisation.RULES,
    **shape.RULES,
    **indexing.RULES,
    **recurrent.RULES,
}


def apply(op: Op) -> Result | None:
    """What the operator's rule says; None when there is no rule for it."""
    target = op.node.target
    assert isinstance(target, torch._ops.OpOverload)
    name = target._schema.name.removeprefix("aten::")
    # An operator that writes in place relates its dims as the plain one does.
    rule = RULES.get(name) or RULES.get(name.rstrip("_"))
    if rule is None and torch.Tag.pointwise in target.tags:
        rule = pointwise.pointwise
    return None if rule is None else rule(op)
