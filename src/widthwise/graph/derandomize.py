"""Chance held still: what a graph draws becomes what it draws on average, the same everywhere.

The proof shuffles features and compares. Numbers that are drawn independently at each place would
not be carried along, although no feature differs from another by them. So each operator that draws
runs, and what it drew is then replaced: by the mean, by the probability, or by a value that no
place tells from another. Zeros would hide what is multiplied by them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

_RATES = {"p", "dropout_p", "dropout"}  # arguments that are shares of what is dropped
_NORMAL, _UNIFORM = 0.6, 0.37  # in units of standard deviations, and of the range


def without_chance(graph: fx.Graph) -> None:
    """Turn off dropout, and let every other operator that draws give the same at each place."""
    for node in graph.nodes:
        if not isinstance(node.target, torch._ops.OpOverload):
            continue
        if torch.Tag.nondeterministic_seeded not in node.target.tags and not _drops(node.target):
            continue
        arguments = [a.name for a in node.target._schema.arguments]
        if not _turned_off(node, arguments):
            node.args = (node.target, *node.args)
            node.target = held


def _drops(target: torch._ops.OpOverload) -> bool:
    """Dropout and noisy activations, which torch does not tag throughout."""
    name = target._schema.name
    return "dropout" in name or "rrelu" in name or "scaled_dot_product" in name


def _turned_off(node: fx.Node, arguments: list[str]) -> bool:
    """Set the rate of dropout to zero, or the flag of training; whether there was one."""
    target: Any = node.target
    noisy, recurrent = "rrelu" in str(target), "params" in arguments
    values: dict[str, Any] = dict.fromkeys(_RATES, 0.0) if recurrent or _drops(target) else {}
    values |= {"training": False} if noisy else {}
    for i, argument in enumerate(arguments):
        if argument not in values:
            continue
        if i < len(node.args):
            node.args = (*node.args[:i], values[argument], *node.args[i + 1 :])
        elif argument in node.kwargs:
            node.kwargs = {**node.kwargs, argument: values[argument]}
    return any(a in values for a in arguments)


def held(operator: torch._ops.OpOverload, *args: Any, **kwargs: Any) -> Any:
    """Run an operator that draws, and put what does not depend on chance in place of its result."""
    drawn: Tensor = operator(*args, **kwargs)
    name = operator._schema.name.removeprefix("aten::").rstrip("_")
    given = {a.name: a.default_value for a in operator._schema.arguments}
    given |= dict(zip(given, args, strict=False)) | kwargs
    value = _VALUES.get(name, _anything)(drawn, given)
    return drawn.copy_(value) if isinstance(value, Tensor) else drawn.fill_(value)


def _anything(drawn: Tensor, given: dict[str, Any]) -> Any:
    return _NORMAL


def _probability(drawn: Tensor, given: dict[str, Any]) -> Any:
    """bernoulli(self), (self, p), and in place: self holds the probabilities if there is no p."""
    return given["p"] if given.get("p") is not None else given["self"]


def _normal(drawn: Tensor, given: dict[str, Any]) -> Any:
    return given["mean"] + _NORMAL * given["std"]


def _uniform(drawn: Tensor, given: dict[str, Any]) -> Any:
    return given["from"] + _UNIFORM * (given["to"] - given["from"])


def _standard_uniform(drawn: Tensor, given: dict[str, Any]) -> Any:
    return _UNIFORM


def _highest(drawn: Tensor, given: dict[str, Any]) -> Any:
    """The highest of the integers that may be drawn, which is in every table."""
    high = given.get("high", given.get("to"))
    return 1 if high is None else high - 1


def _backwards(drawn: Tensor, given: dict[str, Any]) -> Any:
    return torch.arange(len(drawn)).flip(0)


def _in_turn(drawn: Tensor, given: dict[str, Any]) -> Any:
    """multinomial: the first categories, whatever their probabilities."""
    return torch.arange(drawn.shape[-1]) % given["self"].shape[-1]


_VALUES: dict[str, Callable[[Tensor, dict[str, Any]], Any]] = {
    "bernoulli": _probability,
    "binomial": lambda drawn, given: given["count"] * given["prob"],
    "multinomial": _in_turn,
    "normal": _normal,
    "poisson": lambda drawn, given: given["self"],
    "rand": _standard_uniform,
    "rand_like": _standard_uniform,
    "randint": _highest,
    "randint_like": _highest,
    "random": _highest,
    "randperm": _backwards,
    "uniform": _uniform,
    "_sample_dirichlet": lambda drawn, given: given["self"] / given["self"].sum(-1, keepdim=True),
    "_standard_gamma": lambda drawn, given: given["self"],
}
