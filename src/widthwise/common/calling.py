"""How a module is called with the inputs of a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def outputs_for(module: Callable[..., Any], inputs: Any) -> Any:
    """Call `module` with one batch's inputs: a tensor, a tuple of arguments, or a dict."""
    if isinstance(inputs, dict):
        return module(**inputs)
    if isinstance(inputs, (tuple, list)):
        return module(*inputs)
    return module(inputs)
