"""One rule for each operator family: how the dims of its inputs and outputs belong together.

To teach widthwise an operator, write one function in the file of its family and name it in that
file's RULES; `docs/rules.md` shows how and which test it needs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from widthwise.graph.dims import size
from widthwise.graph.rules import (
    choosing,
    convolution,
    diagonals,
    indexing,
    losses,
    matrix,
    normalisation,
    pointwise,
    quantization,
    recurrent,
    shape,
)
from widthwise.graph.rules.op import Op, Result

RULES: dict[str, Callable[[Op], Result]] = {
    **pointwise.RULES,
    **matrix.RULES,
    **convolution.RULES,
    **normalisation.RULES,
    **shape.RULES,
    **indexing.RULES,
    **choosing.RULES,
    **diagonals.RULES,
    **losses.RULES,
    **quantization.RULES,
    **recurrent.RULES,
}


_SYMBOLS = 1_000_000  # sizes from here on stand for symbols


def apply(op: Op) -> Result | None:
    """What the operator's rule says; None when there is no rule for it, or none that fits.

    A rule that raises, or that says of an output what its sizes contradict, counts as none.
    """
    rule = find(op.node.target)
    if rule is None:
        return None
    try:
        result = rule(op)
        fits = _fits(result.outputs, op.sizes)
    except Exception:  # noqa: BLE001 - a form of the operator that its rule did not think of
        return None
    return result if fits else None


def find(target: Any) -> Callable[[Op], Result] | None:
    """The rule of an operator, if it has one.

    An operator that writes in place, or that copies what another views, relates its dims alike.
    """
    name = target._schema.name.removeprefix("aten::")
    plain = name.rstrip("_") or name
    for known in (name, plain, plain.removesuffix("_copy")):
        if known in RULES:
            return RULES[known]
    written = getattr(torch.ops.aten, plain, None) if name != plain else None
    tagged = [target, *(getattr(written, o) for o in (written.overloads() if written else ()))]
    return pointwise.pointwise if any(torch.Tag.pointwise in o.tags for o in tagged) else None


def _fits(outputs: Any, sizes: Any) -> bool:
    """Whether terms have the sizes of the outputs that they are said to be of.

    Symbolic sizes, which stand as large primes, are not held to it: torch may have a number for
    what the rule knows as a symbol.
    """
    if not isinstance(sizes, list):
        return True  # no tensor: an output that is left out, or a number
    if any(isinstance(s, list) for s in sizes):
        return len(outputs) == len(sizes) and all(map(_fits, outputs, sizes))
    pairs = zip(map(size, outputs), sizes, strict=False)
    return len(outputs) == len(sizes) and all(a == b or max(a, b) >= _SYMBOLS for a, b in pairs)
