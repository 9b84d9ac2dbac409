"""Example inputs as JSON: their nesting, shapes and dtypes, never their values.

    (x, {"mask": m}, None)   ->   ["tuple", ["tensor", "float32", [4, 3]],
                                            ["dict", ["mask", ["tensor", "bool", [4, 7]]]],
                                            ["value", null]]

From it an example of the same form can be made, on which a model is captured again.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from widthwise.errors import FileError

LARGEST = 12_000_000  # numbers in all inputs of an example together
_PLAIN = (bool, int, float, str)
_DTYPES = {
    str(t).removeprefix("torch."): t
    for t in (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    )
}


def describe(value: Any) -> list[Any]:
    """The form of nested inputs. Raises FileError for what JSON cannot say, and for huge ones."""
    form = _described(value)
    if _numbers(form) > LARGEST:
        raise FileError(
            f"A network stored as a graph needs example inputs of at most {LARGEST:,} numbers; "
            "give smaller ones, for example a smaller batch."
        )
    return form


def _described(value: Any) -> list[Any]:
    if isinstance(value, Tensor) and value.dtype in _DTYPES.values():
        return ["tensor", str(value.dtype).removeprefix("torch."), list(value.shape)]
    if value is None or type(value) in _PLAIN:
        return ["value", value]
    if type(value) in (tuple, list):
        return [type(value).__name__, *map(_described, value)]
    if type(value) is dict and all(isinstance(k, str) for k in value):
        return ["dict", *([k, _described(v)] for k, v in value.items())]
    raise FileError(
        f"A network whose inputs hold a {type(value).__name__} cannot be stored as a graph; "
        "give inputs of tensors, numbers, tuples, lists and dicts."
    )


def example(form: Any) -> Any:
    """Inputs of this form: small random numbers, the same every time; integers are zeros.

    Raises ValueError for a form that `describe` did not make.
    """
    if _numbers(form) > LARGEST:
        raise ValueError("inputs of an unreasonable size")
    return _example(form, torch.Generator().manual_seed(0))


def _numbers(form: Any) -> int:
    """How many numbers the tensors of a form have together, empty dims counted as 1."""
    if not isinstance(form, list) or not form:
        return 0
    if form[0] == "tensor":
        shape = form[-1] if isinstance(form[-1], list) else []
        return math.prod(max(1, n) for n in shape if type(n) is int)
    return sum(_numbers(part) for part in form)


def _example(form: Any, generator: torch.Generator) -> Any:
    if not isinstance(form, list) or not form:
        raise ValueError("inputs of an unknown form")
    kind, *rest = form
    if kind == "tensor":
        name, shape = rest
        return _tensor(name, shape, generator)
    if kind == "value" and len(rest) == 1 and (rest[0] is None or type(rest[0]) in _PLAIN):
        return rest[0]
    if kind == "tuple":
        return tuple(_example(f, generator) for f in rest)
    if kind == "list":
        return [_example(f, generator) for f in rest]
    if kind == "dict":
        return {str(name): _example(f, generator) for name, f in rest}
    raise ValueError("inputs of an unknown form")


def _tensor(name: Any, shape: Any, generator: torch.Generator) -> Tensor:
    dtype = _DTYPES.get(name) if isinstance(name, str) else None
    if dtype is None or not isinstance(shape, list):
        raise ValueError("inputs of an unknown form")
    if not all(type(n) is int and n >= 0 for n in shape) or len(shape) > 64:
        raise ValueError("an input's shape is not one of a tensor")
    if not dtype.is_floating_point:
        return torch.zeros(shape, dtype=dtype)
    return torch.randn(shape, generator=generator).to(dtype)
