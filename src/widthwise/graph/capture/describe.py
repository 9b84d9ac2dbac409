"""A call of a model as torch.export can describe it.

It cannot describe the sizes of what goes through `**kwargs`, nor objects that are neither tensors
nor plain numbers and texts. So the copy of a model that is exported gets a forward whose signature
names the keywords of the example, and which puts such objects in: they are part of its graph.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from enum import Enum
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import nn

_CONSTANT = (Enum, torch.dtype, torch.device, torch.layout, torch.memory_format, bytes, range)


def describe_call(
    copy: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Prepare a copy of a model, which is thrown away, and return how it is called then."""
    own = copy.forward
    signature = inspect.signature(own)

    def forward(*given: Any, **keywords: Any) -> Any:
        values = [_filled(x, wanted) for x, wanted in zip(given, args, strict=True)]
        return own(*values, **{k: _filled(x, kwargs[k]) for k, x in keywords.items()})

    forward.__signature__ = _named(signature, kwargs)  # type: ignore[attr-defined]
    copy.forward = forward  # type: ignore[method-assign]
    return pytree.tree_map(_described, args), pytree.tree_map(_described, dict(kwargs))


def _named(signature: inspect.Signature, kwargs: Mapping[str, Any]) -> inspect.Signature:
    """The signature with a parameter for each keyword that goes through `**kwargs`."""
    *parameters, last = signature.parameters.values() or [None]
    if last is None or last.kind is not last.VAR_KEYWORD:
        return signature
    through = [k for k in kwargs if k not in signature.parameters and k.isidentifier()]
    named = [inspect.Parameter(k, inspect.Parameter.KEYWORD_ONLY) for k in through]
    return signature.replace(parameters=[*parameters, *named, last])


def _described(leaf: Any) -> Any:
    # Others may hold tensors, which a graph must not take for constants: torch.export refuses them.
    return None if isinstance(leaf, _CONSTANT) else leaf


def _filled(given: Any, wanted: Any) -> Any:
    """An argument with the objects put back that torch.export does not describe."""
    leaves, spec = pytree.tree_flatten(given)
    originals = pytree.tree_leaves(wanted)
    pairs = zip(leaves, originals, strict=True)
    return pytree.tree_unflatten(
        [leaf if _described(original) is original else original for leaf, original in pairs], spec
    )


def shapes_of_keywords(model: nn.Module, shapes: Any) -> Any:
    """Dynamic shapes as the user may give them, `{"kwargs": {"mask": ...}}`, by keyword alone."""
    parameters = inspect.signature(model.forward).parameters.values()
    through = next((p.name for p in parameters if p.kind is p.VAR_KEYWORD), None)
    if through is None or not isinstance(shapes, Mapping):
        return shapes
    return {k: v for k, v in shapes.items() if k != through} | dict(shapes.get(through) or {})
