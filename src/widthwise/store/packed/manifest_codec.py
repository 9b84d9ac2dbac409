"""A packed file's manifest in few bytes: one tree of names, which the cut leaves alone.

    short = folded(to_body(manifest))
    unfolded(short)         # the same body

Networks repeat themselves: one block's names, types and full sizes are the next one's. So these are
in one tree, whose repetitions compression finds; and what differs from variant to variant, and from
block to block, is in lists of integers beside it.

    tree     names, split at their dots: {".layer1": {".0": {".conv1": {..., ".weight": {...}}}}}.
             Keys that begin with a dot lead on; the others say what goes by the name:
               n   an axis: its full size
               w   an axis: 0; its width is in `cut`
               a   a module: {attribute: 0, or as many as it has}; the patches' sizes are in `cut`
               t   a tensor: [type, *full shape]; a size that is negative was cut, to one in `cut`
               i   an int64 tensor without dims: its value
    cut      the numbers of w, a and t, in this order at each name; names in the order of the tree.
             One of the last 32 that differ is written as its place among them, the last being 1,
             for a size that is shared by neighbours then looks alike in all blocks; others as 0
    new      those others
    forms    the different descriptions of tensors (describing.py), without shape and type, and with
             how many `numbers` there are instead of them
    parts    for each tensor the place of its description in `forms`, then its numbers; tensors in
             the order of the tree

The other entries of the manifest are as they were; `full`, `tied` and `inputs` are left out where
they are as in most networks, and `full` is null where it is unknown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from widthwise.common.checks import need, table_of

MOST_TENSORS: Final = 20_000  # which take half a second to read
MOST_NAMES: Final = 32 * 1024**2  # characters of all names together

_RECENT: Final = 32
_MEMBERS: Final = 8  # that a form has, or a list in it, at most
_USUAL: Final[Mapping[str, Any]] = {"tied": {}, "inputs": None}
_STORED: Final = ("packed", "coded")
_TABLES: Final = {"n": "sizes", "w": "widths", "a": "patches", "i": "scalars"}


def folded(body: Mapping[str, Any]) -> dict[str, Any]:
    """What `to_body` made of the manifest of a packed file, shorter."""
    tables = {*_TABLES.values(), *_STORED, "full"}
    short = {n: v for n, v in body.items() if n not in tables and (n, v) not in _USUAL.items()}
    if body["full"] is None:
        short["full"] = None
    tree: dict[str, Any] = {}
    for key in ("n", "w"):
        _place(tree, body[_TABLES[key]], key)
    for table in _STORED:
        _place(tree, body[table], "t")
    for key in ("i", "a"):
        _place(tree, body[_TABLES[key]], key)
    cut: list[int] = []
    forms: list[dict[str, Any]] = []
    parts: list[int] = []
    for name, node in _names(tree):
        if "w" in node:
            cut.append(node["w"])
            node["w"] = 0
        if "a" in node:
            node["a"] = {key: _taken(value, cut) for key, value in node["a"].items()}
        if "t" in node:
            full = (body["full"] or {}).get(name, node["t"]["shape"])
            node["t"] = _fold_tensor(node["t"], full, cut, forms, parts)
    ranks, new = _ranked(cut)
    return {**short, "tree": tree, "cut": ranks, "new": new, "forms": forms, "parts": parts}


def unfolded(short: Mapping[str, Any]) -> dict[str, Any]:
    """What `folded` was given.

    Raises ValueError, TypeError, LookupError or RecursionError for much of what it did not make;
    the values within the tables are not looked at.
    """
    rest = dict(short)
    tree, forms = rest.pop("tree"), rest.pop("forms")
    cut = _numbers(_unranked(_numbers(rest.pop("cut")), _numbers(rest.pop("new"))))
    parts = _numbers(rest.pop("parts"))
    tables: dict[str, Any] = {t: {} for t in (*_TABLES.values(), *_STORED, "full")}
    need(isinstance(forms, list) and all(map(_short, forms)), "a form is none")
    need(all(key.startswith(".") for key in table_of(tree)), "something has no name")
    for name, node in _names(tree):
        own = {key for key in node if not key.startswith(".")}
        need(own <= {*_TABLES, "t"} and own & {"t", "i"} != {"t", "i"}, "the tree has odd entries")
        for key in ("n", "i"):
            if key in node:
                tables[_TABLES[key]][name] = node[key]
        if "w" in node:
            tables["widths"][name] = cut.pop()
        if "a" in node:
            tables["patches"][name] = {
                key: _given(v, cut) for key, v in table_of(node["a"]).items()
            }
        if "t" in node:
            stored = len(tables["packed"]) + len(tables["coded"])
            need(stored < MOST_TENSORS, "it has too many tensors")
            _unfold_tensor(name, node["t"], tables, cut, forms, parts)
    need(not cut and not parts, "there are more numbers than names")
    if "full" in rest:
        need(rest["full"] is None and not tables["full"], "full sizes are unknown and known")
        tables["full"] = rest.pop("full")
    need(not rest.keys() & tables.keys(), "a table is there twice")
    return {**_USUAL, **rest, **tables}


def _place(tree: dict[str, Any], table: Mapping[str, Any], key: str) -> None:
    """Put the entries of a table where their names lead, under this key."""
    for name, value in table.items():
        node = tree
        for step in name.split("."):
            node = node.setdefault(f".{step}", {})
        node[key] = value


def _names(tree: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every name of the tree, and what goes by it without what leads on."""
    spent = 0
    left = [("", tree)]
    while left:
        above, node = left.pop()
        below = []
        for key, value in table_of(node).items():
            if key.startswith("."):
                below.append((f"{above}{key}", value))
                spent += len(above) + len(key)
                need(spent <= MOST_NAMES, "its names are too long")
        left += reversed(below)
        if node is not tree:
            yield above[1:], node


def _fold_tensor(
    entry: Mapping[str, Any], full: list[int], cut: list[int], forms: list[Any], parts: list[int]
) -> list[Any]:
    """The entry of a tensor in the tree; the rest of it goes to the lists."""
    form = {n: v for n, v in entry.items() if n not in ("shape", "dtype")}
    form["numbers"] = len(entry["numbers"])
    if form not in forms:
        forms.append(form)
    parts += [forms.index(form), *entry["numbers"]]
    kept = entry["shape"]
    cut += [here for here, whole in zip(kept, full, strict=True) if here != whole]
    dims = [whole if here == whole else -whole for here, whole in zip(kept, full, strict=True)]
    return [entry["dtype"], *dims]


def _unfold_tensor(
    name: str, node: Any, tables: dict[str, Any], cut: list[int], forms: list[Any], parts: list[int]
) -> None:
    """Put a tensor into the tables that it belongs to."""
    dtype, *dims = node
    need(all(type(n) is int for n in dims), "a size is not a whole number")
    place = parts.pop()
    need(place >= 0, "a form is not one of the list")
    form = dict(forms[place])
    count = form["numbers"]
    need(type(count) is int and 0 <= count <= len(parts), "a form has other numbers")
    form["numbers"] = [parts.pop() for _ in range(count)]
    shape = [n if n >= 0 else cut.pop() for n in dims]
    if shape != dims:
        tables["full"][name] = [abs(n) for n in dims]
    # What is quantized says so: by its bits, or by how many values there are.
    table = "coded" if form.keys() & {"bits", "values"} else "packed"
    tables[table][name] = {**form, "shape": shape, "dtype": dtype}


def _short(form: Any) -> bool:
    """Whether a form is as small as any; it is copied for each of its tensors."""
    return (
        isinstance(form, dict)
        and len(form) <= _MEMBERS
        and not any(isinstance(v, list | dict) and len(v) > _MEMBERS for v in form.values())
    )


def _taken(value: Any, cut: list[int]) -> Any:
    """Zeros instead of the sizes of a patch, which go to the list."""
    cut += value if isinstance(value, list | tuple) else [value]
    return [0] * len(value) if isinstance(value, list | tuple) else 0


def _given(value: Any, cut: list[int]) -> Any:
    """The reverse."""
    return [cut.pop() for _ in value] if isinstance(value, list) else cut.pop()


def _ranked(numbers: list[int]) -> tuple[list[int], list[int]]:
    """Each number as its place among those used last, or 0, and the latter."""
    ranks: list[int] = []
    new: list[int] = []
    recent: list[int] = []
    for number in numbers:
        rank = recent.index(number) + 1 if number in recent else 0
        ranks.append(rank)
        if rank:
            recent.remove(number)
        else:
            new.append(number)
        recent = [number, *recent[: _RECENT - 1]]
    return ranks, new


def _unranked(ranks: list[int], new: list[int]) -> list[int]:
    """The reverse, of lists that are turned round."""
    numbers: list[int] = []
    recent: list[int] = []
    while ranks:
        rank = ranks.pop()
        need(0 <= rank <= len(recent), "a number was not used before")
        numbers.append(recent.pop(rank - 1) if rank else new.pop())
        recent = [numbers[-1], *recent[: _RECENT - 1]]
    need(not new, "there are more numbers than names")
    return numbers


def _numbers(value: Any) -> list[int]:
    """A list of integers, turned round: the first is the next that `pop` gives."""
    right = isinstance(value, list) and all(type(n) is int for n in value)
    need(right, "a list of numbers is missing")
    return list(reversed(value))
