"""Make widthwise know more: a rule for an operator, a score for features or weights.

    @torch.library.custom_op("mine::gate", mutates_args=())
    def gate(x: Tensor, slope: Tensor) -> Tensor: ...

    def rule(op: extend.Op) -> extend.Result:
        x, slope = op.dims("x"), op.dims("slope")
        op.unify(x[-1], slope[0])                       # the same features
        return extend.Result(x)

    ww.register_rule(gate, rule)
    ww.register_score("mine", function, needs="loss", comparable=True)

What is registered holds in this process. A method for `widthwise compare` belongs to the
application: `widthwise.app.compare.methods.register_method`.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch._library.custom_ops import CustomOpDef
from torch._ops import OpOverload, OpOverloadPacket

from widthwise.common.defined import same_definition
from widthwise.graph import rules
from widthwise.graph.dims import additive, concatenated, fresh, size, split
from widthwise.graph.rules.op import Op, Result
from widthwise.pruning.scores.registry import register_score

Rule: TypeAlias = Callable[[Op], Result]
Operator: TypeAlias = str | OpOverload | OpOverloadPacket | CustomOpDef


class RuleWarning(UserWarning):
    """A rule that a user registered raised, so that it counts as none."""


def register_rule(operator: Operator, rule: Rule, *, replace: bool = False) -> None:
    """Tell widthwise how the dims of an operator's inputs and outputs belong together.

    It holds for networks that are made into an `Elastic` afterwards. A wrong rule is found by the
    proof, which shuffles features and sees whether the output changes; the axes that it touches are
    fixed then. A rule that raises, with a RuleWarning, or whose terms have other sizes than the
    outputs, counts as none. The same function of the same module may come again, as it does when
    its file is run again.

    Args:
        operator: what `torch.library.custom_op` made, an operator such as `torch.ops.mine.gate`, or
            its name, "mine::gate" or "aten::softplus".
        rule: a function of an `extend.Op` that relates the terms of its arguments and returns an
            `extend.Result`.
        replace: take the place of the rule that the operator has.

    Raises:
        ValueError: For an operator that does not exist, and one that has a rule already.
    """
    overloads = _overloads(operator)
    name = overloads[0]._schema.name.removeprefix("aten::")
    known = next((found for each in overloads if (found := rules.find(each))), None)
    if known and not replace and not same_definition(inspect.unwrap(known), rule):
        raise ValueError(
            f"{name} has a rule already; leave yours out, or give replace=True to take its place."
        )
    rules.RULES[name] = _heard(name, rule)


def _overloads(operator: Operator) -> list[OpOverload]:
    """The overloads of an operator. Raises ValueError where there is none."""
    if isinstance(operator, CustomOpDef):
        operator = operator._opoverload
    if isinstance(operator, str):
        namespace, _, name = operator.rpartition("::")
        found = getattr(getattr(torch.ops, namespace or "aten"), name, None)
        if not isinstance(found, OpOverloadPacket):
            raise ValueError(
                f"There is no operator {operator!r}; define it first, and name it as "
                "'namespace::name'."
            )
        operator = found
    if isinstance(operator, OpOverloadPacket):
        return [getattr(operator, each) for each in operator.overloads()]
    if not isinstance(operator, OpOverload):
        raise ValueError(
            f"A rule is for an operator, and this is a {type(operator).__name__}; give what "
            "torch.library.custom_op made, an operator of torch.ops, or its name."
        )
    return [operator]


def _heard(name: str, rule: Rule) -> Rule:
    """The rule, which says so where it raises: else it would just not be there."""

    @functools.wraps(rule)
    def heard(op: Op) -> Result:
        try:
            result = rule(op)
            if not isinstance(result, Result):
                raise TypeError(f"it returned a {type(result).__name__}, not an extend.Result")
        except Exception as error:
            warnings.warn(
                f"The rule of {name} raised {type(error).__name__} ({error}) for {op.where}, and "
                "counts as none there: what touches the operator cannot be cut.",
                RuleWarning,
                stacklevel=2,
            )
            raise
        return result

    return heard


__all__ = [
    "Op",
    "Result",
    "RuleWarning",
    "additive",
    "concatenated",
    "fresh",
    "register_rule",
    "register_score",
    "size",
    "split",
]
