"""Names that `forward(**kwargs)` takes and does nothing with: a misspelled name, mostly.

A model that takes any keyword cannot tell that `atention_mask` is none. Its graph can: nothing
reads that tensor. So a name is refused that nothing reads, and one that is much like another which
forward knows.
"""

from __future__ import annotations

import difflib
import inspect
import typing
from collections.abc import Iterator, Sequence
from types import CodeType
from typing import Any

import torch.utils._pytree as pytree
from torch import Tensor, nn

from widthwise.errors import CaptureError, or_rather
from widthwise.graph.capture.program import Program

_ALIKE = 0.75  # of difflib: what one letter or two make of a name
_BY_TRAINERS = "num_items_in_batch"  # given to every forward that takes keywords, read or not


def check_names(model: nn.Module, programs: Sequence[Program], *, further: bool) -> None:
    """Raise CaptureError for a keyword with which the model does nothing.

    further: the call came after the example, for which only what is much like another name is
    refused: a batch of data may well hold more than the model reads.
    """
    signature = inspect.signature(model.forward)
    parameters = signature.parameters
    anything = [p for p in parameters.values() if p.kind is p.VAR_KEYWORD]
    if not anything:
        return
    known = {p.name for p in parameters.values() if p not in anything} | _typed(model, anything[0])
    known |= {_BY_TRAINERS, *_texts(model.forward)}
    for name, value, read in _arguments(programs):
        if name in known or value is None:
            continue
        alike = difflib.get_close_matches(name, known, n=1, cutoff=_ALIKE)
        unread = isinstance(value, Tensor) and not read
        if (alike and not read) or (further and unread):
            raise CaptureError(
                f"{type(model).__name__}.forward does nothing with the argument {name!r}; leave it "
                f"out{or_rather(name, alike)}"
            )


def _arguments(programs: Sequence[Program]) -> Iterator[tuple[str, Any, bool]]:
    """Keywords of the example: name, value (of what is nested, the first tensor), is it read."""
    program = programs[0]
    read = {
        name
        for each in programs
        for node, name in zip(_inputs(each), program.inputs, strict=True)
        if node.users
    }
    names = list(zip(program.inputs, program.example, strict=True))
    _, kwargs = pytree.tree_unflatten(names, program.in_spec)
    for keyword, held in kwargs.items():
        pairs = [p for p in pytree.tree_leaves(held, is_leaf=_is_pair) if _is_pair(p)]
        values = [value for _, value in pairs]
        first = next((v for v in values if isinstance(v, Tensor)), values[0] if values else None)
        yield keyword, first, any(name in read for name, _ in pairs)


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str)


def _inputs(program: Program) -> list[Any]:
    wanted = set(program.inputs)
    return [n for n in program.graph.find_nodes(op="placeholder") if n.name in wanted]


def _typed(model: nn.Module, parameter: inspect.Parameter) -> set[str]:
    """The names that `**kwargs: Unpack[SomeTypedDict]` lists."""
    names: set[str] = set()
    try:
        annotation = typing.get_type_hints(model.forward).get(parameter.name)
    except Exception:  # noqa: BLE001 - names that are not there, and whatever else is written there
        annotation = parameter.annotation
    for kind in typing.get_args(annotation):
        names |= set(getattr(kind, "__annotations__", {}))
    return names


def _texts(function: Any) -> set[str]:
    """All short texts in the code of a function and of what it decorates, such as "return_dict"."""
    found: set[str] = set()
    function = getattr(function, "__func__", function)
    while function is not None:
        code = getattr(function, "__code__", None)
        if code is not None:
            found |= set(_constants(code))
        function = getattr(function, "__wrapped__", None)
    return found


def _constants(code: CodeType) -> Iterator[str]:
    for constant in code.co_consts:
        if isinstance(constant, str) and constant.isidentifier():
            yield constant
        elif isinstance(constant, CodeType):
            yield from _constants(constant)
        elif isinstance(constant, tuple):
            yield from (c for c in constant if isinstance(c, str))
