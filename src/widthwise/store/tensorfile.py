"""One safetensors file: a header of names, shapes and a manifest, then the tensors' bytes.

    8 bytes            length of the header, little-endian
    header             {"__metadata__": {"sha256": ..., "widthwise": manifest}, name: {...}, ...}
    data               the tensors, those with the largest items first

Any safetensors reader can read it. `sha256` is of the whole file with its own 64 digits as
zeros, so that no byte can change unnoticed; nothing is unpickled or executed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from widthwise.common.atomic import write_whole
from widthwise.common.jsonfile import contents, parsed, too_many
from widthwise.errors import FileError

MAX_HEADER = 16 * 1024**2  # bytes; a thousand layers need less than one MiB
_START = b'{"__metadata__":{"sha256":"'
_ZEROS = "0" * 64
_SUM = slice(8 + len(_START), 8 + len(_START) + 64)  # where the digits are in the file

DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint64: "U64", torch.uint32: "U32", torch.uint16: "U16", torch.uint8: "U8",
    torch.bool: "BOOL", torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
}  # fmt: skip


def size(tensors: Mapping[str, Tensor], manifest: str) -> int:
    """Bytes of the file that `write` makes; only the tensors' shapes and dtypes are looked at."""
    return len(_header(tensors, manifest, _ZEROS)) + sum(t.nbytes for t in tensors.values())


def write(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], manifest: str) -> Path:
    """Write the file, whole or not at all. Raises FileError."""
    return write_one_by_one(path, tensors, manifest, tensors.__getitem__)


def write_one_by_one(
    path: str | os.PathLike[str],
    forms: Mapping[str, Tensor],
    manifest: str,
    value: Callable[[str], Tensor],
) -> Path:
    """As `write`, for tensors that are made one after another, so that memory holds one at a time.

    forms: name -> a tensor of the right shape and dtype, without values where it is on the meta
    device. value: name -> the tensor to write. Raises FileError, and what `value` raises.
    """
    digest = hashlib.sha256()

    def chunks() -> Iterator[bytes | memoryview]:
        yield _header(forms, manifest, _ZEROS)
        for name in _order(forms):
            tensor = value(name)
            if tensor.shape != forms[name].shape or tensor.dtype != forms[name].dtype:
                raise FileError(f"{name} has another shape or type than its file says; save again.")
            yield _bytes(tensor)

    def hashed() -> Iterator[bytes | memoryview]:
        for chunk in chunks():
            digest.update(chunk)
            yield chunk

    return write_whole(path, hashed(), lambda: (_SUM.start, digest.hexdigest().encode()))


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], str]:
    """The tensors, on the CPU, and the manifest. Raises FileError for a file that is not whole."""
    try:
        data = contents(path, most=None)
    except OSError as error:
        raise FileError(
            f"{path} cannot be read ({error.strerror or error}); give a file that widthwise saved."
        ) from error
    return unpacked(data, path)


def unpacked(data: bytes, path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], str]:
    """What `read` gives, of a file's bytes. path: where they are from. Raises FileError."""
    manifest = _check(data, path)
    try:
        return safetensors.torch.load(data), manifest
    except (SafetensorError, ValueError, KeyError) as error:
        raise FileError(f"{path} is damaged ({error}); save or copy it again.") from error


def _order(tensors: Mapping[str, Tensor]) -> list[str]:
    """Large items first, so that every tensor starts at a multiple of its item size."""
    return sorted(tensors, key=lambda n: (-tensors[n].dtype.itemsize, n))


def _header(tensors: Mapping[str, Tensor], manifest: str, digest: str) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"sha256": digest, "widthwise": manifest}}
    offset = 0
    for name in _order(tensors):
        tensor = tensors[name]
        if tensor.dtype not in DTYPES or name == "__metadata__":
            raise FileError(f"{name} of type {tensor.dtype} cannot be stored; convert it first.")
        end = offset + tensor.nbytes
        entries[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    said = json.dumps(entries, separators=(",", ":"))
    text = said.encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER or too_many(said):
        raise FileError(f"The model has too many tensors for one file ({len(tensors)}); split it.")
    return len(text).to_bytes(8, "little") + text


def _bytes(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    data: memoryview = flat.view(torch.uint8).numpy().data
    return data


def _check(data: bytes, path: str | os.PathLike[str]) -> str:
    """The manifest of a whole file. Raises FileError."""
    foreign = f"{path} was not written by widthwise, or its start is damaged; save it again."
    broken = f"{path} is truncated or damaged; save or copy it again."
    if data[8 : 8 + len(_START)] != _START:
        raise FileError(foreign)
    length = int.from_bytes(data[:8], "little")
    if len(data) < _SUM.stop or length > min(MAX_HEADER, len(data) - 8):
        raise FileError(broken)
    digest = hashlib.sha256(data[: _SUM.start] + _ZEROS.encode())
    digest.update(memoryview(data)[_SUM.stop :])
    if digest.hexdigest().encode() != data[_SUM]:
        raise FileError(broken)
    try:
        metadata = parsed(data[8 : 8 + length])["__metadata__"]
        manifest = metadata["widthwise"]
    except (ValueError, KeyError, TypeError):
        raise FileError(foreign) from None
    if not isinstance(manifest, str) or {*metadata} != {"sha256", "widthwise"}:
        raise FileError(foreign)
    return manifest
