"""What a smaller network may take, and how good it must be.

Budget(max_bytes="300kB")
Budget(max_macs=100_000, min_metric=0.97)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from widthwise.common.units import parse_size
from widthwise.errors import BudgetError


@dataclass(frozen=True)
class Budget:
    """Limits on a network; None where anything goes.

    Args:
        max_bytes: the most bytes of the file: a number, or a text such as "300kB" (1000 bytes a
            kB), which becomes a number.
        max_params: the most parameters, tied ones counted once.
        max_macs: the most multiply-accumulates for one example.
        max_latency_ms: the most milliseconds for one call.
        min_metric: the metric is at least this good: at least the value, or at most the value where
            lower is better.

    Raises:
        BudgetError: For a limit that is not a number.

    Example:
        search(net, evaluation, Budget(max_bytes="10kB"))
    """

    max_bytes: int | str | None = None
    max_params: int | None = None
    max_macs: int | None = None
    max_latency_ms: float | None = None
    min_metric: float | None = None

    def __post_init__(self) -> None:
        if self.max_bytes is not None:
            object.__setattr__(self, "max_bytes", parse_size(self.max_bytes))
        for name, value in self.limits.items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not math.isfinite(value):
                raise BudgetError(f"The limit {name} is {value!r}; give a number.")

    @property
    def limits(self) -> dict[str, Any]:
        """The limits that were given, by name."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in named.items() if value is not None}

    @property
    def bytes(self) -> int | None:
        """The most bytes of the file, as a number."""
        return None if self.max_bytes is None else parse_size(self.max_bytes)

    @property
    def only_bytes(self) -> bool:
        """Whether bytes are limited, and nothing else."""
        return list(self.limits) == ["max_bytes"]
