"""`ww.fit` for tests: quiet, with the fields of its `RunConfig` given one by one."""

from dataclasses import fields
from typing import Any

import widthwise as ww


def fitted(*given: Any, **options: Any) -> Any:
    """The history of a training."""
    names = {field.name for field in fields(ww.RunConfig)} & options.keys()
    run = ww.RunConfig(**{"progress": False} | {name: options.pop(name) for name in names})
    return ww.fit(*given, **options, run=run)
