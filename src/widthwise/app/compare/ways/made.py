"""A network that a method made for a budget."""

from __future__ import annotations

from dataclasses import dataclass

from widthwise.variants import CompressedModel


@dataclass(frozen=True)
class Made:
    """method: the name of the method. applied: its network, whose file fits."""

    method: str
    applied: CompressedModel
