"""The methods that a comparison knows, by name, each with the function that makes its networks.

    METHODS["weights obd, fine-tuned"].label     # "single weights by OBD, fine-tuned"
    chosen(["weights obd*"])                     # ("weights obd", "weights obd, fine-tuned", ...)
    grouped(["weights obd", "weights obd, fine-tuned"])     # {"weights obd": [both]}
    register_method(Method("half", "half", "elastic", "half of every axis", half))

The built-in ones stand in the files of `ways/`, beside what they do.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Final, get_args

from widthwise.app.compare.bases import Kind
from widthwise.app.compare.method import Family, Made, Method
from widthwise.app.compare.ways import family, from_trained, from_training, quantized, searched
from widthwise.common.defined import same_definition
from widthwise.errors import RunError, TaskError, or_rather

_NEAR: Final = 3  # names like an unknown one that are told

METHODS: Final[dict[str, Method]] = {
    method.name: method
    for method in (
        *from_trained.ELASTIC,
        *family.METHODS,
        *from_training.SMALL_DENSE,
        *from_trained.NEURONS,
        *from_trained.WEIGHTS,
        *from_training.GRADUAL,
        *quantized.METHODS,
        *searched.METHODS,
    )
}


def register_method(method: Method, *, replace: bool = False) -> None:
    """Let `widthwise compare` measure a method of your own beside the others.

    In the file of a task it serves comparisons of that task, with the name of the method among
    their `methods`. The same function of the same module may come again, as it does when its file
    is run again.

    Args:
        method: its name, and the function that makes its networks.
        replace: take the place of a method that has this name already.

    Raises:
        ValueError: For a name that is taken, for a family or a base that does not exist, and for a
            group whose other methods are made otherwise.
    """
    for what, value, known in (
        ("family", method.family, get_args(Family)),
        ("base", method.base, get_args(Kind)),
    ):
        if value not in known:
            raise ValueError(f"The {what} of {method.name!r} is {value!r}; give one of {known}.")
    there = METHODS.get(method.name)
    if there and not replace and not same_definition(there.make, method.make):
        raise ValueError(
            f"There is a method {method.name!r} already; give another name, or replace=True to "
            "take its place."
        )
    for other in METHODS.values():
        together = other.group == method.group and other.name != method.name
        alike = (other.base, other.fixed) == (method.base, method.fixed)
        if together and not (alike and same_definition(other.make, method.make)):
            raise ValueError(
                f"{method.name!r} and {other.name!r} are of one group, and not made alike; give "
                "them the same make, base and fixed, or a group for each."
            )
    METHODS[method.name] = method


def chosen(patterns: Sequence[str], where: object) -> tuple[str, ...]:
    """The methods that any pattern matches, such as "elastic*", in the order of `METHODS`.

    where: named in messages. Raises TaskError for a pattern that matches none.
    """
    found: set[str] = set()
    for pattern in patterns:
        some = [name for name in METHODS if fnmatchcase(name, pattern)]
        if not some:
            raise TaskError(
                f"{where}: There is no method {pattern!r}{or_rather(pattern, METHODS, _NEAR)}"
            )
        found |= {*some}
    return tuple(name for name in METHODS if name in found)


def grouped(names: Sequence[str]) -> dict[str, list[str]]:
    """The methods of these names by group, each group in the order of `METHODS`.

    Raises RunError for a name that is not known.
    """
    for name in names:
        if name not in METHODS:
            raise RunError(f"There is no method {name!r}{or_rather(name, METHODS, _NEAR)}")
    found: dict[str, list[str]] = {}
    for method in METHODS.values():
        if method.name in names:
            found.setdefault(method.group, []).append(method.name)
    return found


def group(name: str) -> tuple[Method, ...]:
    """The methods of a group. Raises RunError where there is none."""
    found = tuple(method for method in METHODS.values() if method.group == name)
    if not found:
        groups = [method.group for method in METHODS.values()]
        raise RunError(f"There is no group of methods {name!r}{or_rather(name, groups, _NEAR)}")
    return found


__all__ = [
    "METHODS",
    "Made",
    "Method",
    "chosen",
    "group",
    "grouped",
    "register_method",
]
