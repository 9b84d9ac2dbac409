"""The loss of a prediction to another network's, for every kind of loss that torch has.

    soft = soft_loss(call, temperature=1.0)     # call: of the full network's outputs
    soft(other)                                 # other: the same call on a narrow network's

The result is reduced as the call's: a 0-dim tensor, or one value for each position.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional as F

from widthwise.errors import TrainingError
from widthwise.train.calls import SYMMETRIC, Call

Soft = Callable[[Call], Tensor]
"""(call of the same kind on a narrow network's outputs) -> its loss to the full one's."""


def soft_loss(full: Call, temperature: float) -> Soft:
    """What a narrow network's call has, in the place of its loss, to learn from the full one's.

    full: the call on the outputs of the full network, which take no gradient.
    temperature: of cross entropies, binary ones too (Hinton et al., 2015); others have none.

    Cross entropy and negative log likelihood become the Kullback-Leibler divergence over the class
    dim, without the positions that are ignored. Binary cross entropy is that to the full network's
    probabilities. Distances (MSE, L1, Huber) are those between the two predictions. Weights of
    classes are left out: the full network has learned under them.

    Raises TrainingError where the result would be 0 for all outputs.
    """
    return _BY_KIND[full.kind](full, temperature)


def soft_target(outputs: Tensor, temperature: float, dim: int = 1) -> Callable[[Tensor], Tensor]:
    """Distillation to these outputs: narrow logits -> mean KL divergence, a 0-dim tensor.

    outputs: logits; they take no gradient. dim: of the classes, as in `F.cross_entropy`. The mean
    is over all other dims, scaled by temperature squared, so that gradients keep their size (Hinton
    et al., 2015).
    Raises TrainingError for logits of one class, for which it would always be 0.
    """
    classes = _Classes(outputs, temperature, dim)
    return lambda narrow: classes.reduced(narrow, "mean")


class _Classes:
    """Kullback-Leibler divergence to these logits (or log-probabilities) over one dim.

    counted: which positions count, bool, of the shape of the outputs without `dim`.
    """

    def __init__(
        self, outputs: Tensor, temperature: float, dim: int, counted: Tensor | None = None
    ) -> None:
        if outputs.shape[dim] == 1:
            raise TrainingError(
                f"Outputs of shape {list(outputs.shape)} are one class along dim {dim}, so that "
                "their cross entropy is always 0 and teaches nothing; use "
                "F.binary_cross_entropy_with_logits for one logit, or F.mse_loss for a number."
            )
        self.temperature, self.dim, self.counted = temperature, dim, counted
        # Half precision is too coarse for it, but what is finer stays so.
        self.exact = torch.promote_types(outputs.dtype, torch.float32)
        self.soft = F.softmax(outputs.detach().to(self.exact) / temperature, dim=dim)
        # Once for all narrow passes; `kl_div` takes the logarithm of every class in each of them.
        self.own = torch.xlogy(self.soft, self.soft).sum(dim)
        number = self.own.numel() if counted is None else counted.sum().to(self.exact)
        self.share = temperature**2 / number

    def reduced(self, narrow: Tensor, reduction: str) -> Tensor:
        """The divergence of narrow logits, reduced as a loss is."""
        logs = F.log_softmax(narrow.to(self.exact) / self.temperature, dim=self.dim)
        each = self.own - (self.soft * logs).sum(self.dim)
        if self.counted is not None:
            each = torch.where(self.counted, each, torch.zeros_like(each))
        if reduction == "mean":
            return each.sum() * self.share
        each = each * self.temperature**2
        return each if reduction == "none" else each.sum()


def _classes(full: Call, temperature: float) -> Soft:
    outputs, target = full.prediction, full.target
    counted = None
    if not target.is_floating_point():
        counted = target != full.given["ignore_index"]
    kl = _Classes(outputs, temperature, min(1, outputs.dim() - 1), counted)
    return lambda call: kl.reduced(call.prediction, call.reduction)


def _binary(function: Callable[..., Tensor]) -> Callable[[Call, float], Soft]:
    """Binary cross entropies to the full network's probabilities."""

    def made(full: Call, temperature: float) -> Soft:
        likely = torch.sigmoid(full.prediction.detach() / temperature)

        def loss(call: Call) -> Tensor:
            narrow, weight = call.prediction / temperature, call.given.get("weight")
            value = function(narrow, likely, weight=weight, reduction=call.reduction)
            return value * temperature**2

        return loss

    return made


def _again(changes: Callable[[Tensor, Call], Mapping[str, Any]]) -> Callable[[Call, float], Soft]:
    """The same loss, with the full network's prediction in the place of the target."""

    def made(full: Call, temperature: float) -> Soft:
        outputs = full.prediction.detach()

        def loss(call: Call) -> Tensor:
            given = {n: v for n, v in call.given.items() if n not in ("size_average", "reduce")}
            given |= {"input": call.prediction, "reduction": call.reduction}
            given |= changes(outputs, call)
            value: Tensor = getattr(F, call.kind)(**given)
            return value

        return loss

    return made


def _rate(outputs: Tensor, call: Call) -> dict[str, Any]:
    return {"target": outputs.exp() if call.given["log_input"] else outputs, "full": False}


def _normal(full: Call, temperature: float) -> Soft:
    """Kullback-Leibler divergence between normal distributions of given means and variances."""
    mean, variance = full.prediction.detach(), _variance(full).detach()

    def loss(call: Call) -> Tensor:
        own = _variance(call)
        each = (variance + (call.prediction - mean).square()) / own - 1 + (own / variance).log()
        each = each / 2
        if call.reduction == "none":
            return each
        return each.mean() if call.reduction == "mean" else each.sum()

    return loss


def _variance(call: Call) -> Tensor:
    given, like = call.given["var"], call.prediction
    variance = given if isinstance(given, Tensor) else torch.full_like(like, given)
    if variance.dim() == like.dim() - 1:
        variance = variance.unsqueeze(-1)
    return variance.clamp(min=call.given["eps"]).expand_as(like)


_logits = _binary(F.binary_cross_entropy_with_logits)
_target = _again(lambda outputs, call: {"target": outputs})
_BY_KIND: Final[Mapping[str, Callable[[Call, float], Soft]]] = {
    "cross_entropy": _classes,
    "nll_loss": _classes,
    "binary_cross_entropy": _target,
    "binary_cross_entropy_with_logits": _logits,
    "soft_margin_loss": _logits,
    "multilabel_soft_margin_loss": _binary(F.multilabel_soft_margin_loss),
    "kl_div": _again(lambda outputs, call: {"target": outputs, "log_target": True}),
    "poisson_nll_loss": _again(_rate),
    "gaussian_nll_loss": _normal,
    **dict.fromkeys(SYMMETRIC, _target),
}
