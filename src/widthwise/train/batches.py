"""Which items a step trains on, and every random number behind it: functions of seed and step.

Nothing here depends on what ran before, so a resumed run continues exactly, and every process of
a distributed run knows its share without talking.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, default_collate

from widthwise.choose.draws import hashed


@runtime_checkable
class Batched(Protocol):
    """A data set that fetches a whole batch at once, such as `tasks.arrays.Arrays`."""

    def batch(self, indices: Tensor) -> tuple[Any, Any]:
        """The items at `indices` (B,) int64, as (inputs, target)."""


@dataclass(frozen=True)
class Plan:
    """The batches of a training run.

    items: in the data set. size: of a batch, over all processes. seed: of the order.
    A last batch smaller than the others is kept, unless it holds fewer than two items for each
    of the processes: batch norm cannot train on one.

    Raises ValueError where a batch has no item for some process.
    """

    items: int
    size: int
    seed: int
    processes: int = 1

    def __post_init__(self) -> None:
        if min(self.items, self.size) < self.processes:
            raise ValueError(
                f"A batch of {min(self.items, self.size)} items cannot be shared by "
                f"{self.processes} processes; start fewer, or give a larger batch_size."
            )

    @property
    def steps(self) -> int:
        """Batches in one epoch."""
        whole, left = divmod(self.items, self.size)
        return max(1, whole + (left >= 2 * self.processes))

    def epoch(self, epoch: int) -> Sequence[Tensor]:
        """The indices of every batch of an epoch: int64 tensors (size,), the last one shorter."""
        generator = torch.Generator().manual_seed(hashed(self.seed, (epoch,)) >> 1)
        order = torch.randperm(self.items, generator=generator)
        batches: Sequence[Tensor] = order.split(self.size)
        return batches[: self.steps]


@dataclass(frozen=True)
class Piece:
    """The part of a step's batch that one process runs at once.

    indices: of its items, int64. weight: of its mean loss; summed over a process' pieces, the mean
    over processes is then the mean over the batch, however it divides.
    """

    indices: Tensor
    weight: float


def pieces(batch: Tensor, rank: int, processes: int, accumulate: int) -> list[Piece]:
    """The share of process `rank` in a batch's indices, in at most `accumulate` pieces.

    All processes get as many, and no piece is empty.
    """
    share = batch[rank::processes]
    count = min(accumulate, len(batch) // processes)
    return [Piece(p, len(p) * processes / len(batch)) for p in share.tensor_split(count)]


def stream(
    data: Dataset[Any], batches: Sequence[Tensor], seed: int, first: int, workers: int = 0
) -> Iterator[tuple[Any, Any]]:
    """Fetch batches of (inputs, target); the randomness of each is a function of (seed, number).

    first: the number of the first batch. workers: processes that fetch ahead; 0 fetches here.
    """
    keys = [(hashed(seed, (first + i, 0)), indices) for i, indices in enumerate(batches)]
    source = _Fetch(data)
    if workers == 0:
        return (source[key] for key in keys)
    loader: DataLoader[Any] = DataLoader(
        source,
        batch_size=None,
        sampler=keys,  # type: ignore[arg-type]  # any iterable does
        num_workers=workers,
        generator=torch.Generator(),  # its own, for the global one is ours
    )
    return iter(loader)


class _Fetch(Dataset[tuple[Any, Any]]):
    """A data set of batches: (random bits, indices) -> (inputs, target)."""

    def __init__(self, data: Dataset[Any]) -> None:
        self.data = data
        self.whole = data.batch if isinstance(data, Batched) else None

    def __getitem__(self, key: tuple[int, Tensor]) -> tuple[Any, Any]:
        bits, indices = key
        reseed(bits)
        if self.whole is not None:
            return self.whole(indices)
        reseed_others(bits)
        inputs, target = default_collate([self.data[i] for i in indices.tolist()])
        return inputs, target


def length(data: Dataset[Any]) -> int:
    """How many items a data set has; raises ValueError for one that cannot say, or is empty."""
    if not isinstance(data, Sized):
        raise ValueError(
            f"{type(data).__name__} has no length; give a map-style data set, with len() and []."
        )
    if len(data) == 0:
        raise ValueError("The data set is empty; give one with items.")
    return len(data)


def reseed(bits: int) -> None:
    """Set torch's global generators, of the CPU and of the GPU in use if there is one."""
    # Not torch.manual_seed: without a GPU in use it queues up work for when there will be one.
    torch.default_generator.manual_seed(bits >> 1)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(bits >> 1)


def reseed_others(bits: int) -> None:
    """Set the global generators of Python and numpy, which users' data sets may draw from."""
    random.seed(bits)
    np.random.seed(bits & 0xFFFFFFFF)


@contextmanager
def own_randomness() -> Iterator[None]:
    """Leave all global generators as they were found."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """The network in evaluation mode inside, and every part of it in its own mode again after."""
    modes = {module: module.training for module in net.modules()}
    net.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def placed(value: Any, device: torch.device) -> Any:
    """Inputs or a target, whatever they are made of, with all tensors on the device."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    return pytree.tree_map_only(Tensor, lambda t: t.to(device, non_blocking=True), value)
