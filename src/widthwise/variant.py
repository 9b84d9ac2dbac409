"""A smaller network, as data.

`Widths` says how many features each axis keeps. It is a frozen mapping, so it can be a
dictionary key, be compared, and be written to JSON; axes that it does not name stay full.
"""

from collections.abc import Iterator, Mapping

from widthwise.errors import WidthError


class Widths(Mapping[str, int]):
    """How many features each axis keeps: an immutable mapping from axis name to int >= 1.

        Widths({"fc1": 64, "fc2": 32})     # fc1 keeps its first 64 features, fc2 its first 32
        Widths()                           # every axis stays full

    Raises WidthError for a width below 1 or one that is not an integer.
    """

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[str, int] | None = None, /) -> None:
        for name, width in (items or {}).items():
            if isinstance(width, bool) or not isinstance(width, int) or width < 1:
                raise WidthError(
                    f"The width of axis {name!r} is {width!r}; give an integer of at least 1."
                )
        self._items = dict(sorted((items or {}).items()))

    def __getitem__(self, name: str) -> int:
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(tuple(self._items.items()))

    def __repr__(self) -> str:
        return f"Widths({self._items})"
