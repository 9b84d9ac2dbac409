"""Containers of tensors that a model takes or returns: dataclasses, and dicts of other kinds.

torch's trees know tuples, lists and dicts. Others are made known to them here, as they are met, and
in a process that unpickles a network.
"""

from __future__ import annotations

import dataclasses
from collections import UserDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.utils._pytree as pytree


def make_known(value: Any) -> None:
    """Teach torch's trees the containers in a value, such as a model's inputs or outputs."""
    if isinstance(value, (list, tuple)):
        inner = list(value)
    elif isinstance(value, Mapping):
        inner = list(value.values())
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        inner = [getattr(value, f.name) for f in dataclasses.fields(value)]
    else:
        return
    for one in inner:
        make_known(one)
    register(type(value))


def register(kind: type) -> None:
    """Teach torch's trees one kind of container, if it is one that they do not know yet."""
    if kind in pytree.SUPPORTED_NODES or issubclass(kind, (dict, list, tuple)):
        return
    name = f"{kind.__module__}.{kind.__qualname__}"
    if dataclasses.is_dataclass(kind):
        torch.export.register_dataclass(kind, serialized_type_name=name)
    elif issubclass(kind, UserDict):  # the batches of tokenizers
        pytree.register_pytree_node(
            kind,
            lambda mapping: (list(mapping.values()), list(mapping)),
            lambda values, keys: kind(dict(zip(keys, values, strict=True))),
            serialized_type_name=name,
            flatten_with_keys_fn=lambda mapping: (
                [(pytree.MappingKey(key), value) for key, value in mapping.items()],
                list(mapping),
            ),
        )


def for_shapes(leaf: Callable[[Any], Any], value: Any) -> Any:
    """A function of every leaf, nested as torch.export wants shapes: what it learnt, as lists."""
    leaves, spec = pytree.tree_flatten(value)
    return _nested(spec, map(leaf, leaves))


def _nested(spec: pytree.TreeSpec, leaves: Iterator[Any]) -> Any:
    if spec.is_leaf():
        return next(leaves)
    children = [_nested(child, leaves) for child in spec.children()]
    if dataclasses.is_dataclass(spec.type) or issubclass(spec.type, UserDict):
        return children
    return pytree.SUPPORTED_NODES[spec.type].unflatten_fn(children, spec.context)
