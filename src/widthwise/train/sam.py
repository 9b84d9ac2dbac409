"""Sharpness-aware minimisation: steps that look for flat minima, which lose less when compressed.

    sam = SAM(optimizer, rho=0.05)
    for inputs, target in batches:

        def closure():
            optimizer.zero_grad()
            loss = criterion(module(inputs), target)
            loss.backward()
            return loss

        loss = sam.step(closure)       # two passes: at the weights, and where the loss is higher

In a loop that takes its passes itself, `sam.climb()` after the first backward pass, and
`sam.descend()` after the second, before the optimizer's step; or `fit` with `Recipe(sam=0.05)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn


class SAM:
    """Sharpness-aware minimisation (Foret et al., 2021) around any optimizer.

    A step takes its gradient at w + rho g / |g|, where the loss is highest in a ball of radius rho
    around the weights w, to first order, and applies it to w (Na et al., 2022, train so before they
    compress). It takes two passes, so a step costs about twice as much.

    Args:
        optimizer: made for the parameters; steps as it always does.
        rho: in units of the weights' norm.

    Raises:
        ValueError: For a rho that is no positive number.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, rho: float = 0.05) -> None:
        if not (math.isfinite(rho) and rho > 0):
            raise ValueError(f"rho is {rho}; give a number above 0, such as 0.05.")
        self.optimizer = optimizer
        self.rho = rho
        self._before: list[tuple[nn.Parameter, Tensor]] = []

    def step(self, closure: Callable[[], Tensor]) -> Tensor:
        """One step; `closure` zeroes gradients, runs forward and backward and gives the loss.

        Returns:
            The loss at the weights before the step.
        """
        with torch.enable_grad():
            loss = closure()
        self.climb()
        try:
            with torch.enable_grad():
                closure()
        finally:
            self.descend()
        self.optimizer.step()
        return loss.detach()

    @torch.no_grad()
    def climb(self) -> None:
        """Move the weights to where the loss is higher, by the gradients at hand, and zero these.

        Gradients that are all zero, or not finite, move nothing.
        """
        learning = list(self._learning())
        norms = [p.grad.norm().to(torch.float32).cpu() for p in learning if p.grad is not None]
        norm = float(torch.stack(norms).norm()) if norms else 0.0
        scale = self.rho / norm if 0 < norm < math.inf else 0.0
        for p in learning:
            assert p.grad is not None
            # Kept rather than subtracted again, so that rounding does not make the weights drift.
            self._before.append((p, p.detach().clone()))
            p.add_(p.grad, alpha=scale)
        self.optimizer.zero_grad()

    @torch.no_grad()
    def descend(self) -> None:
        """Move the weights back; the gradients stay, for the optimizer's step."""
        for p, before in self._before:
            p.copy_(before)
        self._before.clear()

    def _learning(self) -> Iterator[nn.Parameter]:
        for group in self.optimizer.param_groups:
            yield from (p for p in group["params"] if p.grad is not None)
