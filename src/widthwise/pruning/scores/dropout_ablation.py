"""Dropout ablation: what the loss loses without a feature, estimated by dropout."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from widthwise.elastic.network import Elastic
from widthwise.measure.data import read
from widthwise.pruning.scores.gates import find_gates, opened
from widthwise.pruning.scores.gradients import Batches, Criterion, Weights, losses, tensors_of
from widthwise.pruning.scores.progress import finite, shown


def dropout_ablation(
    net: Elastic,
    batches: Batches,
    criterion: Criterion,
    *,
    dropped: float = 0.1,
    passes: int = 8,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, Tensor]:
    """The mean loss with a feature dropped minus that with it kept, others dropped at random.

    Our reading of the dropout-based estimation of Harang & Sanders, "Magnificent Minified Models"
    (2023): one pass with one mask serves all features at once. The difference of the two means is
    noisy; its error falls with the square root of batches x passes.

    Args:
        dropped: the probability with which each feature is dropped.
        passes: masks for each batch.

    Raises:
        ValueError: For a probability that is not between 0 and 1.
    """
    if not 0 < dropped < 1:
        raise ValueError(f"dropped is {dropped}; give a probability between 0 and 1.")
    gates, tensors = find_gates(net), tensors_of(net.model)
    generator = torch.Generator().manual_seed(seed)
    masks: list[dict[str, Tensor]] = []

    def changed() -> Iterator[Weights]:
        masks.clear()
        for _ in range(passes):
            drawn = {n: torch.rand(g.size, generator=generator) for n, g in gates.items()}
            masks.append({n: (u >= dropped).float() for n, u in drawn.items()})
            factors = opened(gates, masks[-1], tensors)
            yield {n: tensors[n] * f.to(tensors[n]) for n, f in factors.items()}

    totals = {n: _Means(g.size) for n, g in gates.items()}
    stream = losses(net.model, read(batches, net), criterion, changed)
    for plain, others in shown(stream, batches, "dropout-ablation", progress):
        for mask, loss in zip(masks, others, strict=True):
            for name, kept in mask.items():
                totals[name].add(kept.double(), loss - plain)
    return finite({name: total.difference() for name, total in totals.items()})


class _Means:
    """Mean losses with each feature kept and dropped."""

    def __init__(self, size: int) -> None:
        self.losses = torch.zeros(2, size, dtype=torch.float64)  # kept, dropped
        self.passes = torch.zeros(2, size, dtype=torch.float64)

    def add(self, kept: Tensor, loss: float) -> None:
        """Count one pass. kept: 1 for features that were kept, 0 for the others, (size,)."""
        both = torch.stack([kept, 1 - kept])
        self.losses += both * loss
        self.passes += both

    def difference(self) -> Tensor:
        """Dropped minus kept, (size,) float32; 0 for what was never dropped, or always."""
        kept, dropped = self.losses / self.passes.clamp(min=1)
        return torch.where((self.passes > 0).all(dim=0), dropped - kept, 0.0).float()
