"""Data that fits in memory: one tensor of inputs, one of targets.

Indexing a tensor once with a whole batch of indices is many times faster than fetching single
items and stacking them, so `Arrays` offers both:

    data = Arrays(images, labels)
    data[7]                                # one (input, target), as any map-style data set
    data.batch(torch.tensor([7, 2, 2]))    # a batch, in one indexing operation
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset


class Arrays(Dataset[tuple[Tensor, Tensor]]):
    """Pairs (inputs[i], targets[i]) kept in memory.

    inputs: (N, ...) float32, already normalised.
    targets: (N,) int64.
    augment: (B, ...) -> (B, ...), applied to the inputs of every batch that is fetched; it
        draws from torch's global generator, so `torch.manual_seed` makes it repeatable. The
        order and number of fetches therefore matter; None means that a fetch changes nothing.

    Raises ValueError when inputs and targets differ in length.
    """

    def __init__(
        self, inputs: Tensor, targets: Tensor, augment: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        if len(inputs) != len(targets):
            raise ValueError(f"There are {len(inputs)} inputs but {len(targets)} targets.")
        self.inputs = inputs
        self.targets = targets
        self.augment = augment

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        inputs, targets = self.batch(torch.tensor([index]))
        return inputs[0], targets[0]

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The items at `indices` (B,) int64 -> inputs (B, ...), targets (B,).

        Raises IndexError for an index outside -N..N-1.
        """
        inputs = self.inputs.index_select(0, indices % len(self))  # quicker than [indices]
        if self.augment is not None:
            inputs = self.augment(inputs)
        return inputs, self.targets[indices]


def stratified(targets: Tensor, fractions: Sequence[float], seed: int) -> list[Tensor]:
    """Split the items at random into parts in which every class has the same share.

    targets: (N,) int64 class of each item.
    fractions: the share of each part but the last, which takes what is left.
    seed: the same seed gives the same parts.

    Returns one sorted int64 tensor of indices for each part: disjoint, and together 0..N-1.
    """
    generator = torch.Generator().manual_seed(seed)
    parts: list[list[Tensor]] = [[] for _ in range(len(fractions) + 1)]
    for label in range(int(targets.max()) + 1):
        members = (targets == label).nonzero().squeeze(1)
        members = members[torch.randperm(len(members), generator=generator)]
        sizes = [round(fraction * len(members)) for fraction in fractions]
        sizes.append(len(members) - sum(sizes))
        for part, chunk in zip(parts, torch.split(members, sizes), strict=True):
            part.append(chunk)
    return [torch.cat(part).sort().values for part in parts]


def example_batch(*shape: int) -> tuple[Tensor]:
    """Example inputs of the given shape, float32: normal noise that is the same at every call.

    Noise rather than zeros, so that a check which compares outputs has something to compare.
    """
    return (torch.randn(shape, generator=torch.Generator().manual_seed(0)),)
