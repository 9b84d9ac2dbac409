"""Files changed inside, with lengths, offsets and checksums made right again.

    forged("plain", data, random.Random(0))     # another file of the kind, whole by its checksum

A change to a file's bytes is noticed by its checksum; what stands behind the checksum is reached
only by somebody who computes a new one, as these functions do.
"""

from __future__ import annotations

import hashlib
import json
import random
import zlib
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import safetensors.torch

from hostile_mutations import Pairs, Raw, changed, edited, emit, tree
from widthwise.common.jsonfile import sealed
from widthwise.train.checkpoint import sums

_ZEROS = b"0" * 64


def forged(kind: str, data: bytes, draw: random.Random) -> bytes:
    """Change something in a valid file, and make the rest fit. kind: of `KINDS`."""
    return KINDS[kind](data, draw)


def resealed(kind: str, data: bytes) -> bytes:
    """Any bytes, with right checksums where those of this kind of file stand."""
    if kind in ("plain", "packed"):
        return _digest(data, b'{"__metadata__":{"sha256":"')
    if kind == "progressive":
        end = _start_of_shells(data)
        return _digest(data[:end], b'{"__metadata__":{"progressive":"') + data[end:]
    if kind == "json" and data.endswith(b'"\n}\n') and len(data) > 80:
        zeroed = data[:-68] + _ZEROS + b'"\n}\n'
        return data[:-68] + hashlib.sha256(zeroed).hexdigest().encode() + b'"\n}\n'
    return data


def _digest(data: bytes, begin: bytes) -> bytes:
    first = 8 + len(begin)
    if data[8:first] != begin or len(data) < first + 64:
        return data
    zeroed = data[:first] + _ZEROS + data[first + 64 :]
    digest = hashlib.sha256(zeroed).hexdigest().encode()
    return data[:first] + digest + data[first + 64 :]


# ---------------------------------------------------------------- safetensors


def _split(data: bytes) -> tuple[Pairs, bytes]:
    length = int.from_bytes(data[:8], "little")
    return tree(data[8 : 8 + length]), data[8 + length :]


def _joined(header: Any, rest: bytes, draw: random.Random, begin: str = "sha256") -> bytes:
    """A file of this header and these bytes; now and then with a wrong length in front."""
    text = emit(header).encode("utf-8", "surrogatepass")
    text += b" " * (-len(text) % 8)
    length = len(text) if draw.random() < 0.97 else draw.choice((0, len(text) + 8, 2**63, 2**24))
    whole = length.to_bytes(8, "little") + text + rest
    return _digest(whole, b'{"__metadata__":{"%s":"' % begin.encode())


def _plain(data: bytes, draw: random.Random) -> bytes:
    header, rest = _split(data)
    what = draw.random()
    if what < 0.45:
        _edit_text(header, "widthwise", draw)
    elif what < 0.8:
        _edit_entries(header, draw)
    else:
        rest = changed(rest, draw)
    return _joined(header, rest, draw)


def _edit_text(header: Pairs, name: str, draw: random.Random) -> None:
    """Change the JSON that stands as a text in the metadata."""
    metadata = header[0][1]
    at = next(i for i, (key, _) in enumerate(metadata) if key == name)
    if metadata[at][1][:1] not in ("{", "["):
        metadata[at] = name, changed(metadata[at][1].encode(), draw).decode("latin-1")
        return
    text = emit(edited(tree(metadata[at][1]), draw))
    metadata[at] = name, text if draw.random() < 0.95 else text[: draw.randrange(len(text) + 1)]


def _edit_entries(header: Pairs, draw: random.Random) -> None:
    """Change what the header says of the entries, or the metadata around the texts."""
    first, rest = header[0], Pairs(header[1:])
    rest = edited(rest, draw) if draw.random() < 0.9 else rest
    if draw.random() < 0.1:
        first = first[0], Pairs(first[1] + [(draw.choice(("sha256", "more")), "x")])
    header[:] = [first, *(rest if isinstance(rest, Pairs) else [("more", rest)])]


def _packed(data: bytes, draw: random.Random) -> bytes:
    header, rest = _split(data)
    what = draw.random()
    if what < 0.15:
        _edit_text(header, "widthwise", draw)
        return _joined(header, rest, draw)
    length = int.from_bytes(rest[:4], "little")
    stream, parts = rest[4 : 4 + length], rest[4 + length :]
    if what < 0.65:
        stream = _deflated(emit(edited(tree(zlib.decompress(stream, -15)), draw)), draw)
    elif what < 0.75:
        stream = _bomb(draw)
    else:
        parts = changed(parts, draw)
    said = len(stream) if draw.random() < 0.95 else draw.choice((0, len(stream) + 1, 2**32 - 1))
    return _one_entry(said.to_bytes(4, "little") + stream + parts, header[0], draw)


def _one_entry(entry: bytes, metadata: tuple[str, Any], draw: random.Random) -> bytes:
    said = Pairs([("dtype", "U8"), ("shape", [len(entry)]), ("data_offsets", [0, len(entry)])])
    header = Pairs([metadata, ("widthwise", said)])
    return _joined(edited(header, draw) if draw.random() < 0.03 else header, entry, draw)


def _deflated(text: str, draw: random.Random) -> bytes:
    data = text.encode("utf-8", "surrogatepass")
    data = data if draw.random() < 0.95 else changed(data, draw)
    maker = zlib.compressobj(draw.choice((0, 9)), zlib.DEFLATED, -15, 9)
    stream = maker.compress(data) + maker.flush()
    return stream if draw.random() < 0.95 else changed(stream, draw)


def _bomb(draw: random.Random) -> bytes:
    """Few bytes that inflate to many, or to a text that is much work."""
    count = draw.choice((1_000, 30_000, 300_000, 5_000_000))
    texts = (
        "[" * count, "0" * count, " " * count, '{"tree":' + '{".a":' * count,
        "[" + "[]," * count + "0]", '["' + "a" * count + '"]', "[" + "{}," * count + "0]",
        '{"tree":{' + ",".join(f'".{i:x}":{{"t":["F32"]}}' for i in range(min(count, 200_000)))
        + '},"cut":[],"new":[],"forms":[{"form":"dense","numbers":0}],"parts":['
        + "0," * (min(count, 200_000) - 1) + '0],"kind":"class","class":"Net"}',
    )  # fmt: skip
    maker = zlib.compressobj(1, zlib.DEFLATED, -15, 9)
    return maker.compress(draw.choice(texts).encode()) + maker.flush()


# ---------------------------------------------------------------- progressive files


def _start_of_shells(data: bytes) -> int:
    try:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        return int(8 + length + header["widthwise"]["data_offsets"][1])
    except (ValueError, KeyError, TypeError, IndexError, RecursionError, OverflowError):
        return len(data)


def _progressive(data: bytes, draw: random.Random) -> bytes:
    header, rest = _split(data)
    ends = [entry["data_offsets"][1] for entry in map(dict, (e for _, e in header[1:]))]
    stream, shells = rest[: ends[0]], [rest[a:b] for a, b in pairwise(ends)]
    body = tree(zlib.decompressobj(-15).decompress(stream))
    what = draw.random()
    if what < 0.2:
        shells[draw.randrange(len(shells))] = changed(draw.choice(shells), draw)
    elif what < 0.85:
        body = edited(body, draw)
    if isinstance(body, Pairs) and what < 0.6:
        digests = [hashlib.sha256(shell).hexdigest() for shell in shells]
        body[:] = [(k, digests if k == "sha256" else v) for k, v in body]
    stream = _deflated(emit(body), draw) if what > 0.05 else _bomb(draw)
    stream += b"\0" * (-len(stream) % 8)
    header = _shell_entries(header, [len(stream), *map(len, shells)])
    if what > 0.85:
        header = Pairs([header[0], *_as_pairs(edited(Pairs(header[1:]), draw))])
    begin = _joined(header, stream, draw, "progressive")
    return begin + b"".join(shells)


def _as_pairs(value: Any) -> Pairs:
    return value if isinstance(value, Pairs) else Pairs([("more", value)])


def _shell_entries(header: Pairs, sizes: list[int]) -> Pairs:
    made, offset = Pairs(header[:1]), 0
    for (name, entry), size in zip(header[1:], sizes, strict=True):
        old = dict(entry)
        item = old["shape"][0] and (old["data_offsets"][1] - old["data_offsets"][0])
        count = size * old["shape"][0] // item if item else 0
        said = [("shape", [count]), ("data_offsets", [offset, offset + size])]
        made.append((name, Pairs([("dtype", old["dtype"]), *said])))
        offset += size
    return made


# ---------------------------------------------------------------- other files


def _weights(data: bytes, draw: random.Random) -> bytes:
    """A safetensors file of somebody else: without checksum."""
    header, rest = _split(data)
    if draw.random() < 0.2:
        return _joined(header, changed(rest, draw), draw)
    return _joined(_as_pairs(edited(header, draw)), rest, draw)


def _checkpoint(data: bytes, draw: random.Random) -> bytes:
    header, rest = _split(data)
    metadata = dict(header[0][1])
    text = metadata["widthwise"]
    if draw.random() < 0.7:
        text = emit(edited(tree(text), draw))
    else:
        rest = changed(rest, draw) if draw.random() < 0.3 else rest
        _edit_entries(header, draw)
    try:
        said = tree(text)
        if isinstance(said, Pairs) and draw.random() < 0.8:
            right = sums(safetensors.torch.load(_joined(header, rest, random.Random(0))))
            text = emit(Pairs([(k, right if k == "tensors" else v) for k, v in said]))
    except Exception:  # noqa: BLE001, S110 - it stays a file that no reader opens
        pass
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    header[0] = header[0][0], Pairs([("widthwise", text), ("sha256", digest)])
    return _joined(header, rest, draw)


def _json(data: bytes, draw: random.Random) -> bytes:
    """A sealed file, sealed again; or without its seal, as older ones are."""
    body = tree(data)
    if isinstance(body, Pairs):
        body = Pairs([pair for pair in body if pair[0] != "sha256"])
    text = emit(edited(body, draw))
    if draw.random() < 0.5 or not text.endswith("}"):
        return text.encode("utf-8", "surrogatepass")
    try:
        return sealed({}, f"{text[:-1]}\n}}\n")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def _lines(data: bytes, draw: random.Random) -> bytes:
    """Lines of JSON, one of them changed or in another place."""
    lines = data.splitlines(keepends=True)
    at = draw.randrange(len(lines))
    if draw.random() < 0.2:
        lines.insert(draw.randrange(len(lines) + 1), lines.pop(at))
    elif draw.random() < 0.2:
        lines.insert(at, draw.choice(lines))
    else:
        text, _, _ = lines[at].rpartition(b"#")
        body = emit(edited(tree(text or lines[at]), draw))
        lines[at] = (
            journal_line(body)
            if draw.random() < 0.8
            else (body + "\n").encode("utf-8", "surrogatepass")
        )
    return b"".join(lines)


def journal_line(text: str) -> bytes:
    """A line of a search's journal, with its checksum."""
    data = text.encode("utf-8", "surrogatepass")
    return data + b"#%08x\n" % zlib.crc32(data)


def _text(data: bytes, draw: random.Random) -> bytes:
    """TOML: lines, values and brackets moved about."""
    lines = data.decode().splitlines()
    at = draw.randrange(len(lines))
    name = lines[at].partition("=")[0]
    deep = draw.choice((50, 1_000, 20_000))
    odd = (
        "[" * deep + "]" * deep, "{a=" * deep + "1" + "}" * deep, "nan", "inf", "-1", "1e400",
        "9" * draw.choice((25, 5_000)), '"""', "true", "[]", '""', "1979-05-27", "0x10", "'\\0'",
        json.dumps(draw.choice(("../../etc", "A" * 3_000, "\u202e", "os:system", "*", "[", "x:f"))),
        json.dumps(["2kB", draw.choice((-1, 0, True, "1e9", "9" * 70, "1 MB", None, 2.5))]),
        ".".join("a" * draw.choice((10, 2_000))),
    )  # fmt: skip
    kinds = (
        [f"{name}= {draw.choice(odd)}"], [], [lines[at]] * 2,
        [lines[at], f"{draw.choice(odd)} = 1"], [f"[{draw.choice(odd)}]", lines[at]],
    )  # fmt: skip
    lines[at : at + 1] = draw.choice(kinds)
    return ("\n".join(lines) + "\n").encode()


KINDS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "plain": _plain, "packed": _packed, "progressive": _progressive, "weights": _weights,
    "checkpoint": _checkpoint, "json": _json, "lines": _lines, "text": _text,
}  # fmt: skip

__all__ = ["KINDS", "Raw", "forged", "resealed"]
