"""Changes to bytes and to JSON of the kinds that break readers; nothing here knows a file format.

    changed(b"...", random.Random(0))              # bits, pieces, lengths
    emit(edited(tree(text), random.Random(0)))     # JSON: values, names, nesting, twice the same

A tree is JSON with objects as `Pairs`, so that a name may stand in one twice, and `Raw` texts that
no encoder would write.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

INTEGERS = (
    *(-1, 0, 1, 2, 3, 7, 8, 15, 16, 63, 64, 65, 127, 128, 255, 256, 1000, 65_535, 2**20),
    *(2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63)),
)
WORDS = (
    *("", ".", "..", "/", "../../../../etc/passwd", "/etc/passwd", "C:\\nul", "file:///etc/passwd"),
    *(
        "a\0b",
        "\ud800",
        "\u202egnp.exe",
        "\x1b[2J\x1b]0;x\x07",
        "a\nb\r\nc",
        "é" * 50,
        "\U0001f600",
    ),
    *("__class__", "__init__", "forward", "training", "fc1.__dict__", "fc1.weight", "_parameters"),
    *("A" * 5_000, "." * 300, "F32", "I64", "BOOL", "C64", "F8_E4M3", "U64", "class", "graph"),
    *("%s%s%n", "{0.__class__}", "; rm -rf /", "widthwise", "__metadata__", "sha256", "digits"),
    *("os:system", "\U0001f600"),
)
NUMBERS = (
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "-1e999",
    "1e308",
    "-0",
    "-0.0",
    "0.1",
    "1e-400",
)


class Pairs(list[tuple[str, Any]]):
    """An object of JSON, in order."""


@dataclass(frozen=True)
class Raw:
    """A text that stands for a value as it is."""

    text: str


def tree(text: str | bytes) -> Any:
    """JSON with objects as `Pairs`."""
    return json.loads(text, object_pairs_hook=Pairs)


def emit(value: Any) -> str:
    """The JSON of a tree, and what is none of it as it is."""
    if isinstance(value, Raw):
        return value.text
    if isinstance(value, Pairs):
        return "{" + ",".join(f"{json.dumps(k)}:{emit(v)}" for k, v in value) + "}"
    if isinstance(value, dict):
        return json.dumps(value)
    if isinstance(value, list):
        return "[" + ",".join(map(emit, value)) + "]"
    return json.dumps(value)


def changed(data: bytes, draw: random.Random) -> bytes:
    """Bytes with one to four changes."""
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        data = draw.choice(_BYTES)(data, draw)
    return data


def edited(value: Any, draw: random.Random) -> Any:
    """A tree with one to three changes."""
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        places = list(_places(value))
        if not places:
            return _instead(value, draw)
        holder, at = draw.choice(places)
        draw.choice(_EDITS)(holder, at, draw)
    return value


# ---------------------------------------------------------------- bytes


def _flipped(data: bytes, draw: random.Random) -> bytes:
    if not data:
        return b"\0"
    at = draw.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]


def _cut_off(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.randrange(len(data) + 1)]


def _longer(data: bytes, draw: random.Random) -> bytes:
    return data + draw.choice((b"\0", b" ", b"{}", draw.randbytes(8), b"\0" * 4096))


def _without(data: bytes, draw: random.Random) -> bytes:
    first, last = _range(data, draw)
    return data[:first] + data[last:]


def _twice(data: bytes, draw: random.Random) -> bytes:
    first, last = _range(data, draw)
    return data[:last] + data[first:last] + data[last:]


def _overwritten(data: bytes, draw: random.Random) -> bytes:
    first, last = _range(data, draw)
    filler = draw.choice((b"\0", b"\xff", b" ", b"\x80", b"["))
    return data[:first] + filler * (last - first) + data[last:]


def _moved(data: bytes, draw: random.Random) -> bytes:
    first, last = _range(data, draw)
    rest = data[:first] + data[last:]
    at = draw.randrange(len(rest) + 1)
    return rest[:at] + data[first:last] + rest[at:]


def _number(data: bytes, draw: random.Random) -> bytes:
    """A binary number somewhere, often where a length stands."""
    size = draw.choice((1, 2, 4, 8))
    value = (draw.choice(INTEGERS) % 2 ** (8 * size)).to_bytes(size, "little")
    at = draw.choice((0, 0, draw.randrange(len(data) + 1)))
    return data[:at] + value + data[at + size :]


def _written(data: bytes, draw: random.Random) -> bytes:
    """A word or a number in text."""
    word = draw.choice(
        (*NUMBERS, *map(str, INTEGERS), "{", "}", "[", '"', ",", ":", "\\", "\\u0000")
    )
    at = draw.randrange(len(data) + 1)
    return data[:at] + word.encode() + data[at + draw.choice((0, len(word))) :]


def _range(data: bytes, draw: random.Random) -> tuple[int, int]:
    first = draw.randrange(len(data) + 1)
    return first, min(len(data), first + draw.choice((1, 2, 4, 8, 16, 64, 1024)))


_BYTES = (
    *(_flipped, _flipped, _cut_off, _longer, _without, _twice, _overwritten, _moved, _number),
    _written,
)


# ---------------------------------------------------------------- JSON


def _places(value: Any) -> Iterator[tuple[Any, int]]:
    """Every holder and place in a tree."""
    left = [value]
    while left:
        holder = left.pop()
        if not isinstance(holder, list):
            continue
        for at, item in enumerate(holder):
            yield holder, at
            left.append(item[1] if isinstance(holder, Pairs) else item)


def _get(holder: Any, at: int) -> Any:
    return holder[at][1] if isinstance(holder, Pairs) else holder[at]


def _put(holder: Any, at: int, value: Any) -> None:
    holder[at] = (holder[at][0], value) if isinstance(holder, Pairs) else value


def _replaced(holder: Any, at: int, draw: random.Random) -> None:
    _put(holder, at, _instead(_get(holder, at), draw))


def _instead(old: Any, draw: random.Random) -> Any:
    """Something like it, or something else."""
    if type(old) is int and draw.random() < 0.6:
        near = (old + 1, old - 1, -old, 2 * old, old // 2, old * 1000, float(old), str(old))
        return draw.choice((*near, *INTEGERS))
    if isinstance(old, str) and draw.random() < 0.5:
        return draw.choice((old + " ", old[:-1], old.upper(), old + "\u0301", old * 3, *WORDS))
    kinds = (
        Raw(draw.choice(NUMBERS)),
        draw.choice(INTEGERS),
        draw.choice(WORDS),
        None,
        True,
        False,
    )
    more = ([], Pairs(), [old], [old, old], Pairs([("a", old)]), _deep(draw), _many(draw))
    return draw.choice((*kinds, *more))


def _deep(draw: random.Random) -> Raw:
    depth = draw.choice((50, 900, 3_000, 100_000))
    return Raw(draw.choice(("[" * depth + "]" * depth, '{"a":' * depth + "0" + "}" * depth)))


def _many(draw: random.Random) -> Raw:
    count = draw.choice((100, 2_000))
    some = [draw.choice(("0", "[]", "{}", '"a"', "1", "-1"))] * count
    names = ",".join(f'"{i}":{x}' for i, x in enumerate(some))
    return Raw(draw.choice((f"[{','.join(some)}]", f"{{{names}}}", "9" * 10 * count)))


def _gone(holder: Any, at: int, draw: random.Random) -> None:
    del holder[at]


def _again(holder: Any, at: int, draw: random.Random) -> None:
    """A second time: in an object, under its own name, and perhaps with another value."""
    item = holder[at]
    if isinstance(holder, Pairs) and draw.random() < 0.5:
        item = (item[0], _instead(item[1], draw))
    holder.insert(draw.choice((at, at + 1, len(holder))), item)


def _swapped(holder: Any, at: int, draw: random.Random) -> None:
    other = draw.randrange(len(holder))
    a, b = _get(holder, at), _get(holder, other)
    _put(holder, at, b)
    _put(holder, other, a)


def _renamed(holder: Any, at: int, draw: random.Random) -> None:
    if not isinstance(holder, Pairs):
        return _swapped(holder, at, draw)
    old, value = holder[at]
    others = [name for name, _ in holder]
    holder[at] = (draw.choice((old + "x", old[:-1], old.upper(), *others, *WORDS)), value)
    return None


def _added(holder: Any, at: int, draw: random.Random) -> None:
    value = _instead(_get(holder, at), draw)
    holder.insert(at, (draw.choice(WORDS), value) if isinstance(holder, Pairs) else value)


_EDITS = (_replaced, _replaced, _replaced, _gone, _again, _swapped, _renamed, _added)
