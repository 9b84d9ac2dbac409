"""How a module is called with the inputs of a batch, and how many examples they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.utils._pytree as pytree
from torch import Tensor


def outputs_for(module: Callable[..., Any], inputs: Any) -> Any:
    """Call `module` with one batch's inputs: a tensor, a tuple of arguments, or a dict."""
    if isinstance(inputs, dict):
        return module(**inputs)
    if isinstance(inputs, (tuple, list)):
        return module(*inputs)
    return module(inputs)


def batch_size(inputs: Any) -> int:
    """The first dim of the first tensor with dims among nested inputs; 0 where there is none."""
    leaves = pytree.tree_leaves(inputs)
    return next((x.shape[0] for x in leaves if isinstance(x, Tensor) and x.dim()), 0)
