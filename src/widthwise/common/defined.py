"""Whether a callable that is registered is a new one, or the one that is there, defined again.

A task's file is run at every `resolve`, and a cell of a notebook as often as its author likes, so
that what they register comes again as another object.
"""

from __future__ import annotations


def same_definition(one: object, other: object) -> bool:
    """Whether both are the same object, or one name at the top of one module."""
    return one is other or (_place(one) is not None and _place(one) == _place(other))


def _place(function: object) -> tuple[str, str] | None:
    """Where a function is defined; None for lambdas, functions in functions and other objects."""
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str) or "<" in name:
        return None
    return module, name
