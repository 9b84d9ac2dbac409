"""autograd.Functions whose backward is not the derivative of their forward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Sign(torch.autograd.Function):
    """The sign; gradients pass where the input is small (straight through)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.sign(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad * (x.abs() <= 1)


class Round(torch.autograd.Function):
    """Rounds; gradients pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, steps: int) -> Tensor:
        return torch.round(x * steps) / steps

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


class Reverse(torch.autograd.Function):
    """The identity; gradients turn round."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * grad, None


class Clipped(torch.autograd.Function):
    """The identity; gradients are clipped. Written with setup_context."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.clamp(-0.1, 0.1)


class Swish(torch.autograd.Function):
    """An activation that saves memory; its backward is the derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return grad * (s * (1 + x * (1 - s)))


FUNCTIONS = (
    Sign.apply,
    lambda x: Round.apply(x, 4),
    lambda x: Reverse.apply(x, 0.5),
    Clipped.apply,
    Swish.apply,
)
