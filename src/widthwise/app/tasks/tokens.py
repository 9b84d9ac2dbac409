"""What tasks that predict tokens share: the loss, perplexity, and targets that are not counted.

Logits are (B, T, V) for a vocabulary of V, targets (B, T) int64. A target of `IGNORED` counts in
nothing: neither in the loss nor in the perplexity.
"""

import math
from typing import Final

from torch import Tensor
from torch.nn import functional as F

from widthwise.measure.metric import Metric

IGNORED: Final = -100


def token_loss(logits: Tensor, target: Tensor) -> Tensor:
    """The mean cross entropy of the targets that count, in nats: a 0-dim float32 tensor.

    logits: (B, T, V); lower precisions are raised to float32 first. target: (B, T) int64.
    """
    return F.cross_entropy(logits.flatten(0, 1).float(), target.flatten(), ignore_index=IGNORED)


def summed_loss(logits: Tensor, target: Tensor) -> tuple[Tensor, int]:
    """The sum of the cross entropies of the targets that count, in nats, and their number."""
    rows, wanted = logits.flatten(0, 1).float(), target.flatten()
    total = F.cross_entropy(rows, wanted, ignore_index=IGNORED, reduction="sum")
    return total, int((wanted != IGNORED).sum())


PERPLEXITY: Final = Metric("perplexity", summed_loss, higher_is_better=False, finish=math.exp)
