"""Which tensors are pruned, and which of their entries go."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd


def prunable(module: nn.Module) -> tuple[str, ...]:
    """The names of the parameters that are pruned unless told otherwise.

    All trained matrices and kernels: linear, recurrent and embedding weights and convolutions. What
    stays dense is vectors (biases, norms), depthwise filters, and the first convolution, which
    are few and lose much (Zhu & Gupta, 2017).
    """
    left = {id(weight) for weight in _few_and_needed(module)}
    return tuple(
        name
        for name, p in module.named_parameters()
        if p.requires_grad and p.is_floating_point() and p.dim() >= 2 and id(p) not in left
    )


def _few_and_needed(module: nn.Module) -> list[Tensor]:
    """The weights of depthwise convolutions and of the first one that reads more than itself."""
    convolutions = [m for m in module.modules() if isinstance(m, _ConvNd)]
    depthwise = [m.weight for m in convolutions if m.groups > 1 and m.groups == m.in_channels]
    return [*depthwise, *(m.weight for m in convolutions[:1])]


def lowest(values: Tensor, count: int) -> Tensor:
    """Which `count` entries are the lowest, bool (n,); of equal ones those that come first.

    values: (n,), without NaN. Takes time in proportion to n, where sorting takes many times that.
    """
    if count == 0:
        return torch.zeros_like(values, dtype=torch.bool)
    threshold = _kth(values, count)
    gone = values <= threshold
    excess = int(gone.count_nonzero()) - count
    if excess:
        ties = (values == threshold).nonzero().squeeze(1)
        gone[ties[-excess:]] = False
    return gone


def _kth(values: Tensor, k: int) -> Tensor:
    """The k-th lowest, (). What is least is set aside: mostly zeros, and ties take long."""
    least = values.min()
    others = values[values > least]
    tied = len(values) - len(others)
    if k <= tied:
        return least
    if others.device.type != "cpu" or others.dtype not in (torch.float32, torch.float64):
        return others.kthvalue(k - tied).values
    # NumPy's selection is vectorized: ten times as fast.
    return torch.from_numpy(np.partition(others.detach().numpy(), k - tied - 1))[k - tied - 1]
