"""The form of a call: which arguments it has, how they are nested, and what is no tensor in them.

A captured graph computes what the model does for one form. A call is spelled out by the names of
forward's parameters, and arguments that are their defaults are left out, so that two calls that
mean the same have the same form however they are written:

    f(x, 1.0)   f(x, scale=1.0)   f(x=x)        # one form, where `scale` is 1.0 by default

Everything else is another form: another set of arguments, another nesting, another number, string
or None, a tensor of another kind (boolean, integer, floating, complex).
"""

from __future__ import annotations

import inspect
from enum import Enum
from types import NoneType
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from widthwise.errors import CaptureError
from widthwise.graph.capture.program import Program
from widthwise.graph.cut import fixed_sizes

_AGAIN = "capture it with an example that has them"
_PLAIN = (bool, int, float, complex, str, bytes, NoneType, Enum)


class Form:
    """The form of the inputs that a graph was captured for."""

    def __init__(self, model: nn.Module, program: Program) -> None:
        self.spelling = Spelling(model)
        self.program = program
        self.fixed = fixed_sizes(program)
        args, kwargs = pytree.tree_unflatten(program.example, program.in_spec)
        self.example = self.spelling.of(args, kwargs)
        self.names = self.spelling.given(self.example).keys()
        self.positional = self.spelling.positional(len(args))
        self.keywords = list(kwargs)

    def match(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any] | None:
        """The inputs of the graph, or None for a call of another form or of other sizes.

        Raises CaptureError for arguments that forward does not take.
        """
        flat = self._flat(args, kwargs)
        return None if flat is None or self._refuse_sizes(flat) is not None else flat

    def flatten(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        """As `match`, but raises CaptureError where the graph does not serve the call."""
        flat = self._flat(args, kwargs)
        refused = None if flat is None else self._refuse_sizes(flat)
        if flat is None or refused is not None:
            raise CaptureError(refused or f"{self.refuse(args, kwargs)}; {_AGAIN}.")
        return flat

    def refuse(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """Why the graph does not serve a call, as a clause."""
        flat = self._flat(args, kwargs)
        if flat is not None:
            sentence = self._refuse_sizes(flat) or ""
            return sentence.partition("; ")[0]
        return (
            "The inputs have another form than the example that the model was captured with "
            f"({self.differences(args, kwargs)})"
        )

    def differs_in_sizes(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether a call has the form of the example, but sizes that the graph does not serve."""
        flat = self._flat(args, kwargs)
        return flat is not None and self._refuse_sizes(flat) is not None

    def _flat(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any] | None:
        """The inputs of the graph, whatever their sizes, or None for a call of another form."""
        spec = self.program.in_spec
        flat, given = pytree.tree_flatten((args, kwargs))
        if given != spec:
            spelled = self.spelling.of(args, kwargs)
            if self.spelling.given(spelled).keys() != self.names:
                return None
            flat, given = pytree.tree_flatten(self._arranged(spelled))
            if given != spec:
                return None
        return None if any(map(_other, flat, self.program.example)) else flat

    def _refuse_sizes(self, flat: list[Any]) -> str | None:
        """The sentence for sizes that the graph is not right for; None where it is."""
        for i, (value, fixed) in enumerate(zip(flat, self.fixed, strict=True)):
            if not isinstance(value, Tensor):
                continue
            name, example = self.program.inputs[i], self.program.example[i]
            other = [d for d, s in fixed.items() if value.dim() > d and value.shape[d] != s]
            if value.dim() != example.dim() or other:
                line = self.program.guards.lines.get((i, other[0]), "") if other else ""
                why = f", since the model fixes dim {other[0]}{line}" if line else ""
                return (
                    f"The input {name} has shape {tuple(value.shape)}, but the model was captured "
                    f"with {tuple(example.shape)}, where only the sizes of dims "
                    f"{[d for d in range(example.dim()) if d not in fixed]} may vary{why}; capture "
                    "it again."
                )
        return self.program.guards.refuse(flat)

    def _arranged(self, spelled: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments as the example gave them, by position or by keyword."""
        values = self.spelling.defaults | spelled
        return (
            tuple(values[name] for name in self.positional),
            {name: values[name] for name in self.keywords},
        )

    def differences(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """In what a call of another form differs from the example, in words."""
        spelled = self.spelling.of(args, kwargs)
        given, known = self.spelling.given(spelled), self.spelling.given(self.example)
        words = [f"it has no {shown(name)}" for name in given if name not in known]
        words += [f"only it has {shown(name)}" for name in known if name not in given]
        for name in known:
            if name in given:
                words += _differences(shown(name), given[name], known[name])
        return ", and ".join(words)


class Spelling:
    """The parameters of a model's forward, and calls by their names."""

    def __init__(self, model: nn.Module) -> None:
        self.signature = inspect.signature(model.forward)
        parameters = self.signature.parameters.values()
        self.named = [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        self.in_order = [
            p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
        self.defaults = {p.name: p.default for p in parameters if p.default is not p.empty}

    def of(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments by name; the i-th of `*args` is called "*i".

        Raises CaptureError for a call that forward does not take.
        """
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise CaptureError(
                f"The model's forward does not take these inputs: {error}."
            ) from error
        spelled: dict[str, Any] = {}
        for name, value in bound.arguments.items():
            kind = self.signature.parameters[name].kind
            if kind is inspect.Parameter.VAR_POSITIONAL:
                spelled |= {f"*{i}": one for i, one in enumerate(value)}
            elif kind is inspect.Parameter.VAR_KEYWORD:
                spelled |= value
            else:
                spelled[name] = value
        return spelled

    def given(self, spelled: dict[str, Any]) -> dict[str, Any]:
        """The arguments that are not what forward takes by default."""
        return {n: v for n, v in spelled.items() if not self._is_default(n, v)}

    def _is_default(self, name: str, value: Any) -> bool:
        if name not in self.defaults:
            return False
        default = self.defaults[name]
        return value is default or (isinstance(value, _PLAIN) and _same(value, default))

    def positional(self, count: int) -> list[str]:
        """The names of the first arguments."""
        names = self.in_order[:count]
        return names + [f"*{i}" for i in range(count - len(names))]


def shown(name: str) -> str:
    """An argument's name for a message."""
    return f"argument {int(name[1:]) + 1} of *args" if name.startswith("*") else f"{name!r}"


def _same(value: Any, other: Any) -> bool:
    return type(value) is type(other) and bool(value == other or value is other)


def _other(value: Any, example: Any) -> bool:
    """Whether a leaf makes another form."""
    if not isinstance(value, Tensor) or not isinstance(example, Tensor):
        return isinstance(value, Tensor) or not _same(value, example)
    return _kind(value) != _kind(example)


def _kind(tensor: Tensor) -> str:
    """What a model may ask of a tensor's dtype; how precise numbers are is not part of it."""
    if tensor.dtype is torch.bool:
        return "boolean"
    if tensor.is_complex():
        return "complex"
    return "floating" if tensor.is_floating_point() else "integer"


def _differences(name: str, value: Any, example: Any) -> list[str]:
    """In what one argument differs from the example's, in words; nothing where it does not."""
    flat, given = pytree.tree_flatten(value)
    known, wanted = pytree.tree_flatten(example)
    if given != wanted:
        return [f"{name} is nested in another way there"]
    for x, y in zip(flat, known, strict=True):
        if _other(x, y):
            return [f"{name} is {_word(y)} there and {_word(x)} here"]
    return []


def _word(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{'an' if _kind(value) == 'integer' else 'a'} {_kind(value)} tensor"
    return repr(value) if isinstance(value, _PLAIN) else f"a {type(value).__name__}"
