"""Which tensors are pruned, and which of their entries go."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

_MANY: Final = 0.5  # equal values, as a share, that are set aside before a selection


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


def ascending(values: Tensor) -> Tensor:
    """The same values from low to high, (n,)."""
    if not _in_numpy(values):
        return values.sort().values
    return torch.from_numpy(np.sort(values.detach().numpy()))


def _kth(values: Tensor, k: int) -> Tensor:
    """The k-th lowest, (). Where most are the least (zeros) they are set aside.

    Selection takes long among equal values; setting few of them aside takes longer than it saves.
    """
    least = values.min()
    tied = int((values == least).count_nonzero())
    if k <= tied:
        return least
    aside = tied > _MANY * len(values)
    k -= tied if aside else 0
    if not _in_numpy(values):
        return (values[values > least] if aside else values).kthvalue(k).values
    numbers = values.detach().numpy()
    chosen = numbers[numbers > least.item()] if aside else numbers
    return torch.from_numpy(np.partition(chosen, k - 1))[k - 1]


def _in_numpy(values: Tensor) -> bool:
    """Whether NumPy can take them; its sorting and selection are vectorized, ten times as fast."""
    return values.device.type == "cpu" and values.dtype in (torch.float32, torch.float64)
