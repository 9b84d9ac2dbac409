"""Items put together into a batch, as torch does it, and what is wrong where that fails."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch.utils.data import default_collate

from widthwise.errors import DataError
from widthwise.measure.pairs import numbers

_ARRAYS: Final = (Tensor, np.ndarray)


def collated(rows: list[Any]) -> Any:
    """Items as one batch, as torch's `default_collate`, and None where all have None.

    Raises:
        DataError: They are not of one form, or of something that has none.
    """
    first = rows[0]
    if all(row is None for row in rows):
        return None
    if isinstance(first, Mapping) and all(isinstance(row, Mapping) for row in rows):
        names = next(({*first} ^ {*row} for row in rows if {*row} != {*first}), None)
        if names:
            raise DataError(
                f"Not all items have {sorted(map(str, names))[0]!r}; give all the same."
            )
        return {name: collated([_numeric(row[name]) for row in rows]) for name in first}
    if type(first) is tuple and all(type(row) is tuple and len(row) == len(first) for row in rows):
        return tuple(collated([_numeric(v) for v in column]) for column in zip(*rows, strict=True))
    try:
        return default_collate(rows)
    except (RuntimeError, TypeError, ValueError) as error:
        raise _uncollated(rows, error) from error


def _numeric(value: Any) -> Any:
    """A list of Python numbers, as data frames give them, as a tensor."""
    if isinstance(value, list) and value and numbers(value):
        try:
            return torch.tensor(value)
        except (ValueError, TypeError):
            return value
    return value


def _uncollated(rows: list[Any], error: Exception) -> DataError:
    leaves = [pytree.tree_leaves(row) for row in rows]
    shapes = [[tuple(x.shape) for x in row if isinstance(x, _ARRAYS)] for row in leaves]
    other = next((s for s in shapes if s != shapes[0]), None)
    if other is not None:
        a, b = next(
            ((a, b) for a, b in zip(shapes[0], other, strict=False) if a != b), (shapes[0], other)
        )
        return DataError(
            f"The items of a batch have different sizes ({a} and {b}); give them one size, or give "
            "a DataLoader with a collate_fn that pads them."
        )
    return DataError(
        f"The items cannot be put into a batch ({' '.join(str(error).split())}); give tensors, "
        "arrays or numbers, or a DataLoader with a collate_fn."
    )
