"""Which items a step trains on, and every random number behind it: functions of seed and step.

Nothing here depends on what ran before, so a resumed run continues exactly, and every process of
a distributed run knows its share without talking.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

from widthwise.errors import DataError
from widthwise.measure.data import SIZE, Batched, Items, Stream, adapt, length
from widthwise.measure.pairs import Pair, placed
from widthwise.sampling.draws import hashed


@dataclass(frozen=True)
class BatchPlan:
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


@dataclass(frozen=True)
class LoaderPlan:
    """The batches of a training on a DataLoader: those that its sampler says.

    data: made of a loader. A last batch is left out as in a `Plan`. Raises DataError where the
    sampler cannot say how many there are, ValueError where a batch has no item for some process.
    """

    data: Items
    seed: int
    processes: int = 1

    def __post_init__(self) -> None:
        if self.processes > 1 and isinstance(self._loader.sampler, DistributedSampler):
            raise ValueError(
                "Each batch is shared by the processes; give a DataLoader without "
                "DistributedSampler."
            )

    @property
    def _loader(self) -> DataLoader[Any]:
        assert self.data.loader is not None
        return self.data.loader

    @cached_property
    def steps(self) -> int:
        """Batches in one epoch."""
        found = self._drawn(0)
        if not found:
            raise DataError("The DataLoader gives no batch; give it more items, or no drop_last.")
        least = min(map(len, found[: max(1, len(found) - 1)]))
        if least < self.processes:
            raise ValueError(
                f"A batch of {least} items cannot be shared by {self.processes} processes; start "
                "fewer, or give a larger batch_size."
            )
        short = len(found) > 1 and len(found[-1]) < min(2 * self.processes, least)
        return len(found) - short

    def epoch(self, epoch: int) -> Sequence[Tensor]:
        """The indices of every batch of an epoch: int64 tensors."""
        found = self._drawn(epoch)[: self.steps]
        if len(found) < self.steps:
            raise DataError(
                f"The sampler gave {len(found)} batches in epoch {epoch + 1} and {self.steps} in "
                "the first; give one with as many in each."
            )
        return found

    def _drawn(self, epoch: int) -> list[Tensor]:
        loader, bits = self._loader, hashed(self.seed, (epoch,))
        sampler: Any = loader.sampler if self.data.whole else loader.batch_sampler
        try:
            count = len(sampler)
        except (TypeError, NotImplementedError) as error:
            raise DataError(
                f"{type(sampler).__name__} of the DataLoader has no length; give it a __len__."
            ) from error
        reseed(bits)
        reseed_others(bits)
        for each in {id(s): s for s in (sampler, loader.sampler)}.values():
            set_epoch = getattr(each, "set_epoch", None)
            if callable(set_epoch):
                set_epoch(epoch)
        with _seeded(getattr(loader.sampler, "generator", None), bits):
            drawn = list(islice(sampler, count))
        return [torch.tensor([some] if self.data.whole else list(some)) for some in drawn]


@contextmanager
def _seeded(generator: torch.Generator | None, bits: int) -> Iterator[None]:
    """A user's generator seeded inside, and as it was after."""
    if generator is None:
        yield
        return
    state = generator.get_state()
    generator.manual_seed(bits >> 1)
    try:
        yield
    finally:
        generator.set_state(state)


def planned(
    given: Any, size: int, seed: int, processes: int = 1, accumulate: int = 1
) -> BatchPlan | LoaderPlan:
    """The batches of a training. size: of one, where the data does not say it itself.

    given: as `stream` takes it. Raises ValueError for batches that cannot be split as asked,
    DataError.
    """
    data = adapt(given)
    whole = isinstance(data, Stream) or data.whole
    if whole and processes * accumulate > 1:
        raise ValueError(
            "The data gives whole batches, which are not split among processes nor by accumulate; "
            "give a Dataset, or a DataLoader over one."
        )
    if isinstance(data, Stream):
        return Straight(data.steps(size), 1, seed)
    if data.loader is not None:
        return LoaderPlan(data, seed, processes)
    return BatchPlan(length(data), 1 if data.whole else size, seed, processes)


class Straight(BatchPlan):
    """Batches by their places in a stream."""

    @property
    def steps(self) -> int:
        """Batches in one epoch."""
        return self.items

    def epoch(self, epoch: int) -> Sequence[Tensor]:
        """The places of every batch of an epoch."""
        places: Sequence[Tensor] = torch.arange(self.items).split(1)
        return places


def drawn(given: Any, count: int, size: int, seed: int) -> list[Pair]:
    """Batches of `count` items drawn at random, or of all; of about `size` items each."""
    data = adapt(given)
    with own_randomness():
        batches = planned(data, size, seed).epoch(0)
        if isinstance(data, Stream) or data.whole:
            return list(stream(data, batches[: -(-count // size)], seed, 0, size=size))
        order = torch.cat(list(batches))[:count]
        # Parts of about the same size: batches are compared with each other, none is of a few.
        parts = order.tensor_split(-(-len(order) // size))
        return list(stream(data, parts, seed, 0))


def stream(
    data: Any, batches: Sequence[Tensor], seed: int, first: int, workers: int = 0, size: int = SIZE
) -> Iterator[Pair]:
    """Fetch batches of (inputs, target); the randomness of each is a function of (seed, number).

    data: as `adapt` gives it, or in any form that needs no network to be read. first: the number of
    the first batch. workers: processes that fetch ahead; 0 fetches here. size: items in a batch of
    a `Stream` of items.
    """
    source = adapt(data)
    if isinstance(source, Stream):
        return _straight(source, batches, seed, first, size)
    keys = [(hashed(seed, (first + i, 0)), indices) for i, indices in enumerate(batches)]
    fetch = _Fetch(source)
    workers = workers or (0 if source.loader is None else source.loader.num_workers)
    if workers == 0:
        return (fetch[key] for key in keys)
    loader: DataLoader[Any] = DataLoader(
        fetch,
        batch_size=None,
        sampler=keys,  # type: ignore[arg-type]  # any iterable does
        num_workers=workers,
        generator=torch.Generator(),  # its own, for the global one is ours
        worker_init_fn=None if source.loader is None else source.loader.worker_init_fn,
    )
    return (Pair(*batch) for batch in loader)


def _straight(
    source: Stream, batches: Sequence[Tensor], seed: int, first: int, size: int
) -> Iterator[Pair]:
    """The batches of a stream from the first of these places on."""
    begin, count = (int(batches[0]), len(batches)) if len(batches) else (0, 0)
    first -= begin

    def seeded(place: int, kind: int) -> None:
        bits = hashed(seed, (first + place, kind))
        reseed(bits)
        reseed_others(bits)

    seeded(0, 2)
    given = source.ordered(size)
    for place in range(begin + count):
        seeded(place, 0)
        batch = next(given, None)
        if batch is None:
            raise DataError(
                f"The data gave {place} batches, and its length says {begin + count} or more; "
                "correct its __len__."
            )
        if place >= begin:
            yield batch


def in_order(
    given: Any, size: int, seed: int, share: tuple[int, int] = (0, 1), workers: int = 0
) -> Iterator[Pair]:
    """All of the data in batches of `size` or of its own, or the share (rank, processes) of it."""
    data = adapt(given)
    rank, processes = share
    if isinstance(data, Items) and data.loader is None:
        indices = torch.arange(len(data))
        if data.whole:
            return stream(data, indices[rank::processes].split(1), seed, 0, workers)
        return stream(data, indices[rank::processes].split(size), seed, 0, workers)
    return islice(data.ordered(size), rank, None, processes)


class _Fetch(Dataset[Pair]):
    """A data set of batches: (random bits, indices) -> (inputs, target)."""

    def __init__(self, data: Items) -> None:
        self.data = data

    def __getitem__(self, key: tuple[int, Tensor]) -> Pair:
        bits, indices = key
        reseed(bits)
        if not self.data.at_once:
            reseed_others(bits)
        return self.data.batch(indices)


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


__all__ = [
    "BatchPlan",
    "Batched",
    "drawn",
    "in_order",
    "length",
    "own_randomness",
    "pieces",
    "placed",
    "planned",
    "reseed",
    "stream",
]
