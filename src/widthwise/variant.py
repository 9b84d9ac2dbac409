"""A smaller network, as data.

`Widths` says how many features each axis keeps, `Variant` also which share of each tensor's weights
is zero and how the others are written. Both are frozen, so they can be dictionary keys, be
compared, and be written to JSON; what they do not name stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from widthwise.errors import WidthError
from widthwise.formats import Codebook, Format, Uniform

V = TypeVar("V")

AnyWidths = Mapping[str, int] | float
"""Widths by axis (those not named stay full), or one fraction of every axis, above 0, at most 1."""


class _Frozen(Mapping[str, V]):
    """An immutable mapping by name."""

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[str, V] | None = None, /) -> None:
        self._items = dict(sorted((items or {}).items()))

    def __getitem__(self, name: str) -> V:
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(tuple(self._items.items()))

    def __repr__(self) -> str:
        return f"{type(self).__name__.lstrip('_')}({self._items})"


class Widths(_Frozen[int]):
    """How many features each axis keeps: an immutable mapping from axis name to int >= 1.

    Raises:
        WidthError: For a width below 1 or one that is not an integer, and for what is no mapping: a
            fraction says nothing without its network, whose `net.widths(0.5)` names the axes.

    Example:
        Widths({"fc1": 64, "fc2": 32})     # fc1 keeps its first 64 features, fc2 its first 32
        Widths()                           # every axis stays full
    """

    __slots__ = ()

    def __init__(self, items: Mapping[str, int] | None = None, /) -> None:
        if items is not None and not isinstance(items, Mapping):
            raise WidthError(
                f"The widths are {items!r}; give a mapping from the names of axes to their widths, "
                "such as net.widths(0.5)."
            )
        for name, width in (items or {}).items():
            if isinstance(width, bool) or not isinstance(width, int) or width < 1:
                raise WidthError(
                    f"The width of axis {name!r} is {width!r}; give an integer of at least 1."
                )
        super().__init__(items)


@dataclass(frozen=True)
class Variant:
    """One smaller network: its widths, its zeros, its bits.

    Equal variants have equal hashes.

    Args:
        widths: features that each axis keeps, by its name.
        sparsity: by tensor, the share of its weights, once it is cut, that are zero; which ones,
            scores decide (`apply`).
        bits: by tensor, how its weights are written.

    Raises:
        WidthError: For widths that cannot be.
        ValueError: For a sparsity outside [0, 1) and for what is no format.

    Example:
        Variant({"fc1": 64}, {"fc1.weight": 0.8}, {"fc1.weight": Uniform(4)})
    """

    widths: Mapping[str, int] = Widths()  # frozen
    sparsity: Mapping[str, float] = _Frozen()
    bits: Mapping[str, Format] = _Frozen()

    def __post_init__(self) -> None:
        for name, share in self.sparsity.items():
            if not 0 <= share < 1:
                raise ValueError(
                    f"The sparsity of {name!r} is {share!r}; give a share of zeros from 0 to below "
                    "1."
                )
        for name, form in self.bits.items():
            if not isinstance(form, Uniform | Codebook):
                raise ValueError(
                    f"The bits of {name!r} are {form!r}; give quantization.Uniform(...) or "
                    "quantization.Codebook(...)."
                )
        object.__setattr__(self, "widths", Widths(self.widths))
        object.__setattr__(self, "sparsity", _Frozen(self.sparsity))
        object.__setattr__(self, "bits", _Frozen(self.bits))

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "widths": dict(self.widths),
            "sparsity": dict(self.sparsity),
            "bits": {name: asdict(form) for name, form in self.bits.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Variant:
        """What `to_dict` gave. Raises WidthError, ValueError for anything else."""
        try:
            bits = {name: _format(form) for name, form in data["bits"].items()}
            return cls(data["widths"], data["sparsity"], bits)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError("This is no variant; give what Variant.to_dict() made.") from error


def _format(data: Mapping[str, Any]) -> Format:
    return Codebook(**data) if "values" in data else Uniform(**data)
