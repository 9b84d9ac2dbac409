"""Classes that show the signature of a model's forward.

Trainers look at a model's class to learn which columns of the data it takes, what its labels are
called and whether it scales its own loss. A network around a model is therefore of a class of its
own, made once for each class of models, that differs from its base in what it shows alone.
"""

from __future__ import annotations

import inspect
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

_made: WeakKeyDictionary[type, dict[type, type]] = WeakKeyDictionary()


def showing(base: type[nn.Module], model: type[nn.Module]) -> type[Any]:
    """The class `base[model]`: `base`, with the signature of this model class' forward."""
    known = _made.setdefault(model, {})
    if base not in known:
        known[base] = _class(base, model)
    return known[base]


def _class(base: type[nn.Module], model: type[nn.Module]) -> type[nn.Module]:
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return base.forward(self, *args, **kwargs)

    forward.__signature__ = inspect.signature(model.forward)  # type: ignore[attr-defined]
    forward.__doc__ = base.forward.__doc__
    name = f"{base.__name__}[{model.__name__}]"
    held = {
        "forward": forward,
        "shown_on": base,
        "__module__": base.__module__,
        "__doc__": base.__doc__,
    }
    return type(name, (base,), held)
