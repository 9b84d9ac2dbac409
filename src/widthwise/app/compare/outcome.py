"""What a comparison measured, as data.

An `Outcome` is one network of one method: for one budget of stored bytes and one seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from widthwise.errors import FileError


@dataclass(frozen=True)
class Outcome:
    """One network of one method.

    method: its name in `methods.METHODS`. budget: bytes that its file may have. seed: of the
    training, the data's order, and whatever the method draws.
    reached: whether the method has a network of so few bytes; where not, `note` says why, and what
    follows is empty. note: what the network is, in a few words ("fc1 32, fc2 32, 4 bits").
    bytes: of its file. parts: of these bytes, by what they hold ("codes", "header", ...).
    metric: by split, of the network that was read from the file, which was chosen without a look at
    "test". params, nonzero: numbers of its parameters. macs: multiply-accumulates for one example.
    latency_ms: milliseconds for one call with one example, by PyTorch on one thread.
    base: the training that the network came from, and others came from too, by its kind.
    shared_seconds: of that training; own_seconds: of all that was done for this network alone. By
    the processor.
    """

    method: str
    budget: int
    seed: int
    reached: bool
    note: str = ""
    bytes: int = 0
    parts: Mapping[str, int] = field(default_factory=dict)
    metric: Mapping[str, float] = field(default_factory=dict)
    params: int = 0
    nonzero: int = 0
    macs: int = 0
    latency_ms: float = 0.0
    base: str = ""
    shared_seconds: float = 0.0
    own_seconds: float = 0.0

    @property
    def key(self) -> tuple[str, int, int]:
        """What sets it apart."""
        return self.method, self.budget, self.seed

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: object) -> Outcome:
        """What `to_dict` gave. where: named in messages. Raises FileError for anything else."""
        try:
            found = cls(**data)
            right = _right(found)
        except TypeError:
            right = False
        if not right:
            raise FileError(
                f"{where} holds no outcomes of this version of widthwise; delete it to measure "
                "them again."
            )
        return found


def _right(found: Outcome) -> bool:
    """Whether everything is of its type."""
    if not isinstance(found.parts, dict) or not isinstance(found.metric, dict):
        return False
    texts = (found.method, found.note, found.base, *found.parts, *found.metric)
    counts = (found.budget, found.bytes, found.params, found.nonzero, found.macs)
    numbers = (found.latency_ms, found.shared_seconds, found.own_seconds)
    return (
        all(isinstance(text, str) for text in texts)
        and all(type(n) is int and n >= 0 for n in (*counts, *found.parts.values()))
        and all(type(n) in (int, float) for n in (*numbers, *found.metric.values()))
        and type(found.seed) is int
        and type(found.reached) is bool
        and (found.metric.keys() >= {"valid", "test"} or not found.reached)
    )
