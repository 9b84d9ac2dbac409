"""A moving average of the weights (Polyak & Juditsky, 1992), with PyTorch's own tools.

Used by `fit`; in a loop of your own:

    average = Average(module, decay=0.999)
    average.update()                 # after every optimizer step
    with average.shown():            # evaluate the averaged weights
        ...
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

_Tensors = tuple[Tensor, ...] | list[Tensor]


class Average:
    """A moving average of a module's parameters and buffers.

    decay: of the average, reached gradually as (1 + n) / (10 + n) after n steps, so that the
    initial weights are soon forgotten.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = module
        self.decay = decay
        self.model = AveragedModel(module, multi_avg_fn=self._blend, use_buffers=True)

    def _blend(self, kept: _Tensors, new: _Tensors, count: Tensor | int) -> None:
        taken = int(count)  # on the CPU, so nothing waits for a GPU
        decay = min(self.decay, (1 + taken) / (10 + taken))
        blend = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        for sharded in (True, False):  # no operator takes both at once
            pairs = [p for p in zip(kept, new, strict=True) if isinstance(p[0], DTensor) is sharded]
            if pairs:
                blend([k for k, _ in pairs], [n for _, n in pairs], count)

    def update(self) -> None:
        """Take the module's weights, as they are now, into the average."""
        self.model.update_parameters(self.module)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """The module has the averaged weights inside, and its own again after."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        # Values rather than memory, which what shards a parameter holds on to.
        for ours, theirs in zip(_tensors(self.module), _tensors(self.model.module), strict=True):
            kept = ours.clone()
            ours.copy_(theirs)
            theirs.copy_(kept)

    @torch.no_grad()
    def keep(self) -> None:
        """Give the module the averaged weights for good."""
        for ours, theirs in zip(_tensors(self.module), _tensors(self.model.module), strict=True):
            ours.copy_(theirs)


def _tensors(module: nn.Module) -> Iterable[Tensor]:
    return chain(module.parameters(), module.buffers())
