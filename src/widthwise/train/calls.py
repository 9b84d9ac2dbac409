"""Which losses of torch's a criterion calls, and on what.

    with Noting() as noted:
        criterion(outputs, target)
    noted.calls[0].kind, noted.calls[0].prediction        # "cross_entropy", logits (N, C, ...)

What a criterion is made of is seen while it runs, so that it may be a function of torch's, a
module, a partial, a lambda or a sum over several heads. Losses that a captured model computes by
itself are seen too: there they are operators of the graph.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import _reduction
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

# Whose input and target may change places.
SYMMETRIC: Final = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")
KINDS: Final = (
    "cross_entropy",
    "nll_loss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "multilabel_soft_margin_loss",
    "soft_margin_loss",
    "kl_div",
    "poisson_nll_loss",
    "gaussian_nll_loss",
    *SYMMETRIC,
)
_FUNCTIONS: Final = {getattr(F, kind): kind for kind in KINDS}
# Names of operators that differ from the functions'.
_OPERATORS: Final = {
    "cross_entropy_loss": "cross_entropy",
    "nll_loss_nd": "nll_loss",
    "nll_loss2d": "nll_loss",
}
_REDUCTIONS: Final = ("none", "mean", "sum")  # by the number that operators have for them


@dataclass(frozen=True)
class Call:
    """A loss of torch's as it was called.

    kind: the name of the function in `torch.nn.functional`. given: its arguments by name, those
    with defaults too.
    """

    kind: str
    given: Mapping[str, Any]

    @property
    def swapped(self) -> bool:
        """Whether the prediction stands in the place of the target, as in `mse_loss(y, out)`."""
        first, second = self.given["input"], self.given["target"]
        return self.kind in SYMMETRIC and second.requires_grad and not first.requires_grad

    def turned(self, swapped: bool) -> Call:
        """The same call, with input and target in each other's place where they are swapped."""
        if not swapped:
            return self
        return Call(
            self.kind,
            {**self.given, "input": self.given["target"], "target": self.given["input"]},
        )

    def on(self, prediction: Tensor) -> Call:
        """The same call on another prediction."""
        return Call(self.kind, {**self.given, "input": prediction})

    @property
    def prediction(self) -> Tensor:
        """What is compared with the target, where they are not swapped."""
        found: Tensor = self.given["input"]
        return found

    @property
    def target(self) -> Tensor:
        """What the prediction is compared with."""
        found: Tensor = self.given["target"]
        return found

    @property
    def reduction(self) -> str:
        """`none`, `mean`, `sum` or `batchmean`."""
        old = self.given.get("size_average"), self.given.get("reduce")
        if old != (None, None):
            return _reduction.legacy_get_string(*old, emit_warning=False)
        return str(self.given["reduction"])


def call_of(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Call | None:
    """The call of a loss, None where the function is another or an argument is no tensor."""
    if isinstance(function, torch._ops.OpOverload):
        if function.namespace != "aten":
            return None
        name = function._schema.name.removeprefix("aten::")
        kind: str | None = _OPERATORS.get(name, name if name in KINDS else None)
        given = {} if kind is None else _operator_arguments(function, args, kwargs)
    else:
        kind = _FUNCTIONS.get(function)
        if kind is None:
            return None
        bound = _signature(function).bind(*args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments
    if kind is None:
        return None
    pair = given.get("input"), given.get("target")
    return Call(kind, given) if all(isinstance(t, Tensor) for t in pair) else None


@cache
def _signature(function: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(function)


def _operator_arguments(
    function: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    arguments = function._schema.arguments
    given = {a.name: a.default_value for a in arguments if a.has_default_value()}
    given |= dict(zip((a.name for a in arguments), args, strict=False))
    given |= kwargs
    if "self" in given:
        given["input"] = given.pop("self")
    if isinstance(number := given.get("reduction"), int):
        given["reduction"] = _REDUCTIONS[number]
    return given


class Watching(TorchFunctionMode):
    """Sees every call of a loss that runs inside, and says what comes of it."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        call = call_of(func, args, kwargs)
        if call is None:
            return func(*args, **kwargs)
        return self.seen(call, lambda: func(*args, **kwargs))

    def seen(self, call: Call, loss: Callable[[], Tensor]) -> Tensor:
        """What the call gives. loss: what it would give by itself."""
        raise NotImplementedError


class Noting(Watching):
    """Notes the losses that run inside and what each gives, and changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.losses: list[Tensor] = []

    def seen(self, call: Call, loss: Callable[[], Tensor]) -> Tensor:
        """See `Watching.seen`."""
        value = loss()
        self.calls.append(call)
        self.losses.append(value)
        return value
