"""Data in every form that people have it, as batches of (inputs, target).

    for inputs, target in pairs(data, net): ...         # to go through once, in its own order
    source = adapt(data, takes(net))                    # to train on: Items, or a Stream

    a Dataset, or a list of items       Items: batches are put together of any items
    a DataLoader over a Dataset         Items: the batches that its sampler says, by its collate_fn
    a tuple (inputs, targets), a dict   Items: tensors or numpy arrays of all items
    a list of batches                   Items: every item is a batch
    an IterableDataset, any iterable    Stream: batches in the order in which they come

What is an item and what a batch follows from the number of dims of the network's example. Every
form is read by `pairs.pair`; what could be read in two ways is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from widthwise.errors import DataError, WidthwiseError
from widthwise.measure.collate import collated
from widthwise.measure.pairs import ANYTHING, Pair, Takes, pair, placed, rank_of, size_of, takes

SIZE: Final = 256  # items in a batch of data that is not in batches
_ARRAYS: Final = (Tensor, np.ndarray)


@runtime_checkable
class Batched(Protocol):
    """A data set that fetches a whole batch at once, such as `tasks.arrays.Arrays`."""

    def batch(self, indices: Tensor) -> tuple[Any, Any]:
        """The items at `indices` (B,) int64, as (inputs, target)."""


class Items(Dataset[Any]):
    """Data whose items have numbers.

    data: map-style. form: what the network takes. collate: items -> batch.
    whole: whether each item is a batch already. loader: whose sampler says which items make a
        batch; None where any do.
    """

    def __init__(
        self,
        data: Any,
        form: Takes,
        collate: Callable[[list[Any]], Any] | None = None,
        *,
        whole: bool = False,
        loader: DataLoader[Any] | None = None,
    ) -> None:
        self.data, self.form = data, form
        self.collate = collate
        self.whole = whole
        self.loader = loader

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Any:
        return self.data[index]

    @property
    def at_once(self) -> bool:
        """Whether the data set fetches batches by itself."""
        return self.collate is None and _fetches(self.data)

    def batch(self, indices: Tensor) -> Pair:
        """The items at `indices` (B,) int64 as one batch. Raises DataError."""
        if self.at_once:
            return pair(self.data.batch(indices), self.form)
        rows = _rows(self.data, indices.tolist())
        if self.whole:
            (row,) = rows
            return pair(row if self.collate is None else self.collate(row), self.form)
        return pair((self.collate or collated)(rows), self.form)

    def ordered(self, size: int = SIZE) -> Iterator[Pair]:
        """All of it in batches: the loader's, or of `size` items in order."""
        if self.loader is not None:
            return (pair(batch, self.form) for batch in self.loader)
        indices = torch.arange(len(self)).split(1 if self.whole else size)
        return (self.batch(some) for some in indices)


class Stream:
    """Data that can only be gone through from the beginning.

    data: gives batches, or items. whole: whether each is a batch.
    """

    def __init__(self, data: Iterable[Any], form: Takes, *, whole: bool) -> None:
        self.data, self.form, self.whole = data, form, whole

    def ordered(self, size: int = SIZE) -> Iterator[Pair]:
        """All of it in batches, of `size` items where it gives items."""
        source = iter(self.data)
        if self.whole:
            return (pair(batch, self.form) for batch in source)
        groups = iter(lambda: list(islice(source, size)), [])
        return (pair(collated(rows), self.form) for rows in groups)

    def steps(self, size: int) -> int:
        """Batches in one pass. Raises DataError where it cannot say."""
        try:
            count = len(self.data)  # type: ignore[arg-type]  # as is found out here
        except (TypeError, NotImplementedError) as error:
            raise DataError(
                f"{type(self.data).__name__} has no length, from which the learning rates of a "
                "training follow; give it a __len__, or give a list or a Dataset."
            ) from error
        return count if self.whole else -(-count // size)


def adapt(data: Any, form: Takes = ANYTHING, *, batches: bool = False) -> Items | Stream:
    """Data in whatever form, to be trained on or measured.

    Args:
        data: as the head of this file lists.
        form: what the network takes (`takes(net)`).
        batches: whether a list is one of batches where nothing else tells.

    Raises:
        DataError: There is none, it can be gone through only once, or it can be read in two ways.
    """
    if isinstance(data, Items | Stream):
        return data
    if isinstance(data, DataLoader):
        return _of_loader(data, form)
    if isinstance(data, _ARRAYS):
        return _of_list(Columns(data), form)
    if isinstance(data, tuple) and _columns(data):
        return Items(Columns(_told_apart(data, form)), form, _row_of)
    if isinstance(data, Mapping) and all(isinstance(v, _ARRAYS) for v in data.values()):
        return Items(Columns(dict(data)), form, _row_of)
    if isinstance(data, IterableDataset):
        return _of_iterable(data, form)
    if isinstance(data, Dataset) or (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
        return _of_list(data, form, batches=batches)
    if isinstance(data, Iterator):
        raise DataError(
            "A generator can be gone through only once; give list(...) of it, or an object whose "
            "__iter__ begins again."
        )
    if isinstance(data, Iterable):
        return _of_iterable(data, form)
    raise DataError(
        f"Data of type {type(data).__name__} cannot be gone through; give a Dataset, a DataLoader "
        "or a list of batches."
    )


def pairs(data: Any, module: Callable[..., Any]) -> Iterator[Pair]:
    """The batches of data in whatever form, in its order, on the device of a network.

    Args:
        data: as for `adapt`; also a generator, which is then used up.
        module: the network that reads them.

    Raises:
        DataError: As `adapt`.
    """
    source = read(data, module)
    device = device_of(module)
    for inputs, target in source.ordered(SIZE):
        if device is None:
            yield Pair(inputs, target)
        else:
            yield Pair(placed(inputs, device), placed(target, device))


def read(data: Any, module: Callable[..., Any]) -> Items | Stream:
    """Data as `pairs` reads it for a network, to be given to what knows the network less well.

    Raises:
        DataError: As `adapt`.
    """
    if isinstance(data, Items | Stream):
        return data
    form = takes(module)
    if isinstance(data, Iterator):
        return _of_peeked(data, form)
    if isinstance(data, DataLoader):
        return Stream(data, form, whole=True)
    if isinstance(data, Sized) and _count(data) == 0:
        return Stream((), form, whole=True)  # for the caller to say what there is no batch for
    return adapt(data, form, batches=True)


def _count(data: Sized) -> int | None:
    try:
        return len(data)
    except (TypeError, NotImplementedError):
        return None


def device_of(module: Callable[..., Any]) -> torch.device | None:
    """The device of a module's first tensor; None where it has none, or none with data."""
    if not isinstance(module, nn.Module):
        return None
    tensor = next(chain(module.parameters(), module.buffers()), None)
    return None if tensor is None or tensor.is_meta else tensor.device


@dataclass(frozen=True)
class Columns:
    """Tensors or arrays of all items, in whatever they are nested, as a map-style data set."""

    values: Any

    def __post_init__(self) -> None:
        sizes = {len(x) for x in pytree.tree_leaves(self.values)}
        if len(sizes) != 1:
            raise DataError(
                f"The tensors of the data have different lengths ({', '.join(map(str, sizes))}); "
                "give one entry for every item in each."
            )

    def __len__(self) -> int:
        return len(pytree.tree_leaves(self.values)[0])

    def __getitem__(self, index: int) -> Any:
        return pytree.tree_map(lambda x: x[index], self.values)

    def __getitems__(self, indices: list[int]) -> list[Any]:
        """All items of a batch as one row, which `_row_of` takes out."""
        return [pytree.tree_map(lambda x: x[indices], self.values)]


def _row_of(rows: list[Any]) -> Any:
    return rows[0]


def _columns(data: tuple[Any, ...]) -> bool:
    """Whether a tuple is (inputs, targets) of all items, and not a tuple of batches."""
    leaves = pytree.tree_leaves(data)
    if not leaves or not all(isinstance(x, _ARRAYS) and x.ndim for x in leaves):
        return False
    return any(isinstance(part, _ARRAYS) for part in data) and len(data) > 1


def _told_apart(data: tuple[Any, ...], form: Takes) -> tuple[Any, ...]:
    """Raises DataError for two tensors that could be two batches of inputs as well."""
    first, second = data[0], data[1]
    alike = isinstance(first, _ARRAYS) and isinstance(second, _ARRAYS)
    if alike and len(data) == 2 and (form.count or 1) == 1:
        same = first.shape == second.shape and first.dtype == second.dtype and first.ndim > 1
        if same or len(first) != len(second):
            raise DataError(
                "A tuple of two tensors may be (inputs, targets) or two batches of inputs; give "
                "TensorDataset(inputs, targets), or a list of batches."
            )
    return data


def _fetches(data: Any) -> bool:
    # A `datasets.Dataset` has a method of that name, which does something else.
    return isinstance(data, Batched) and not hasattr(data, "__getitems__")


def _rows(data: Any, indices: list[int]) -> list[Any]:
    several = getattr(data, "__getitems__", None)
    return list(several(indices)) if callable(several) else [data[i] for i in indices]


def _of_loader(loader: DataLoader[Any], form: Takes) -> Items | Stream:
    data = loader.dataset
    if isinstance(data, IterableDataset):
        return Stream(loader, form, whole=True)
    return Items(data, form, loader.collate_fn, whole=loader.batch_sampler is None, loader=loader)


def _of_list(data: Any, form: Takes, *, batches: bool = False) -> Items:
    """Map-style data. batches: whether a list is one of batches where nothing tells."""
    length(data)
    if _fetches(data):
        return Items(data, form)
    try:
        first = data[0]
    except WidthwiseError:
        raise
    except Exception as error:
        raise DataError(
            f"The data cannot be indexed ({type(error).__name__}: {' '.join(str(error).split())}); "
            "give a map-style data set, a DataLoader or a list of batches."
        ) from error
    whole = _whole(first, form)
    if whole is None and isinstance(data, list | tuple):
        whole = batches or _not_ambiguous(first, form)
    return Items(data, form, _row_of if isinstance(data, Columns) else None, whole=bool(whole))


def _whole(first: Any, form: Takes) -> bool | None:
    """Whether an entry of the data is a batch, by the dims of its inputs; None: not known."""
    inputs, target = pair(first, form)
    more = rank_of(inputs, form)
    if more in (0, -1):
        return more == 0
    one = isinstance(target, int | float | np.generic) or (
        isinstance(target, _ARRAYS) and not target.ndim
    )
    return False if one else None


def _not_ambiguous(first: Any, form: Takes) -> bool:
    """Raises DataError where the entries of a list may be items as well as batches."""
    inputs, target = pair(first, form)
    size = size_of(inputs)
    if size is not None and size > 1 and (target is None or size_of(target) == size):
        raise DataError(
            "A list may be one of items or of batches, which this network does not tell; give a "
            "Dataset of items, or a DataLoader."
        )
    return False


def _of_iterable(data: Iterable[Any], form: Takes) -> Stream:
    first = next(iter(data), None)
    if first is None:
        raise DataError(_EMPTY)
    whole = _whole(first, form)
    usual = not isinstance(data, IterableDataset)
    return Stream(data, form, whole=usual if whole is None else whole)


def _of_peeked(data: Iterator[Any], form: Takes) -> Stream:
    first = next(data, None)
    if first is None:
        return Stream((), form, whole=True)
    whole = _whole(first, form)
    return Stream(chain([first], data), form, whole=whole is not False)


_EMPTY: Final = "The data set is empty; give one with items."


def length(data: Any) -> int:
    """How many items data has. Raises DataError for data that cannot say, or is empty."""
    if not isinstance(data, Sized):
        raise DataError(
            f"{type(data).__name__} has no length; give a map-style data set, with len() and []."
        )
    try:
        count = len(data)
    except (TypeError, NotImplementedError) as error:
        raise DataError(
            f"{type(data).__name__} has no length ({error}); give it a __len__."
        ) from error
    if count == 0:
        raise DataError(_EMPTY)
    return count


__all__ = ["Batched", "Items", "Stream", "adapt", "collated", "length", "pairs"]
