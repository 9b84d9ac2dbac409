"""Keywords that `forward(**kwargs)` takes, as parameters of their own.

torch.export cannot describe the sizes of what goes through `**kwargs`. The copy of a model that is
exported gets a forward whose signature names the keywords of the example; it runs the model's own.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn


def name_keywords(copy: nn.Module, kwargs: Mapping[str, Any]) -> None:
    """Let the forward of a copy that is thrown away name the keywords that it is exported with."""
    own = copy.forward
    signature = inspect.signature(own)
    parameters = list(signature.parameters.values())
    if not parameters or parameters[-1].kind is not inspect.Parameter.VAR_KEYWORD:
        return
    through = [k for k in kwargs if k not in signature.parameters and k.isidentifier()]
    named = [inspect.Parameter(k, inspect.Parameter.KEYWORD_ONLY) for k in through]

    def forward(*args: Any, **keywords: Any) -> Any:
        return own(*args, **keywords)

    forward.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*parameters[:-1], *named, parameters[-1]]
    )
    copy.forward = forward  # type: ignore[method-assign]


def shapes_of_keywords(model: nn.Module, shapes: Any) -> Any:
    """Dynamic shapes as the user may give them, `{"kwargs": {"mask": ...}}`, by keyword alone."""
    parameters = inspect.signature(model.forward).parameters.values()
    through = next((p.name for p in parameters if p.kind is p.VAR_KEYWORD), None)
    if through is None or not isinstance(shapes, Mapping):
        return shapes
    return {k: v for k, v in shapes.items() if k != through} | dict(shapes.get(through) or {})
