"""Reading the files that data sets come in: idx, CIFAR's binary records, and npz.

Nothing here loads a pickle. Every reader raises DataError, in one sentence, for a file that is
truncated or is something else; the caller says what the remedy is. None writes to disk.
"""

import gzip
import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from widthwise.common.messages import lacking
from widthwise.errors import DataError

# What the standard library and numpy raise for files that are cut short or of another kind.
_DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    NotImplementedError,
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
)
_IDX_UBYTE = 0x08
_RECORD = 1 + 3 * 32 * 32  # bytes: the label, then the red, green and blue planes


def parse_idx(data: bytes) -> NDArray[np.uint8]:
    """Unsigned bytes in idx format (LeCun's MNIST page) -> array of the shape in the header.

    Header: two zero bytes, the type code, the number of dims, then each dim as a big-endian
    unsigned 32-bit integer. Raises ValueError for any other header or length.
    """
    if len(data) < 4 or data[:3] != bytes((0, 0, _IDX_UBYTE)):
        raise ValueError("it does not begin with the idx header of unsigned bytes")
    start = 4 + 4 * data[3]
    if len(data) < start:
        raise ValueError("its header is cut short")
    shape = struct.unpack(f">{data[3]}I", data[4:start])
    expected = int(np.prod(shape, dtype=object))
    if len(data) - start != expected:
        raise ValueError(f"it holds {len(data) - start} values instead of {expected}")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def read_idx(path: Path, remedy: str) -> NDArray[np.uint8]:
    """The array in a gzipped idx file. Raises DataError when the file is damaged."""
    try:
        return parse_idx(gzip.decompress(path.read_bytes()))
    except _DAMAGE as error:
        raise _damaged(path, error, remedy) from error


def parse_records(data: bytes) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """CIFAR-10's binary records -> images (N, 3, 32, 32) and labels (N,).

    Raises ValueError when the length is not a whole number of records or a label is above 9.
    """
    if not data or len(data) % _RECORD:
        raise ValueError(f"its {len(data)} bytes are not records of {_RECORD} bytes")
    records = np.frombuffer(data, np.uint8).reshape(-1, _RECORD)
    if records[:, 0].max() > 9:
        raise ValueError("it has labels above 9")
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0]


def read_cifar(
    path: Path, members: Sequence[str], remedy: str
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The records of `members` of a gzipped tar, in that order; nothing is unpacked to disk.

    Returns images (N, 3, 32, 32) and labels (N,). Raises DataError when the file is damaged.
    """
    try:
        with tarfile.open(path, "r:gz") as archive:
            parts = []
            for member in members:
                stream = archive.extractfile(member)
                if stream is None:
                    raise ValueError(f"{member} in it is not a file")
                parts.append(stream.read())
        return parse_records(b"".join(parts))
    except _DAMAGE as error:
        raise _damaged(path, error, remedy) from error


def read_npz(path: Path, names: Sequence[str], remedy: str) -> list[NDArray[Any]]:
    """The arrays called `names` in an npz file.

    Raises DataError when the file is damaged, lacks one of them, or holds Python objects.
    """
    try:
        with path.open("rb") as stream:
            if not zipfile.is_zipfile(stream):
                raise ValueError("it is not a complete npz file")
            loaded = np.load(stream, allow_pickle=False)
            return [loaded[name] for name in names]
    except _DAMAGE as error:
        raise _damaged(path, error, remedy) from error


def read_jpegs(path: Path, remedy: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """32x32 colour images kept as JPEG in an npz -> images (N, 3, 32, 32) and labels (N,).

    Arrays: `jpeg` (uint8, all files end to end), `offset` (int64, N + 1; image i is
    jpeg[offset[i]:offset[i+1]]) and `labels` (uint8, N). Raises DataError when damaged, or
    without Pillow.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise DataError(lacking("PIL", f"Reading {path}")) from error

    jpeg, offset, labels = read_npz(path, ("jpeg", "offset", "labels"), remedy)
    try:
        if offset.shape != (len(labels) + 1,) or offset[-1] != len(jpeg):
            raise ValueError("its offsets do not fit its images")
        images = np.empty((len(labels), 32, 32, 3), np.uint8)
        for i in range(len(labels)):
            blob = jpeg[offset[i] : offset[i + 1]].tobytes()
            with Image.open(io.BytesIO(blob), formats=("JPEG",)) as image:
                if image.size != (32, 32) or image.mode != "RGB":
                    raise ValueError(f"image {i} in it is not 32x32 in colour")
                images[i] = np.asarray(image)
    except _DAMAGE as error:
        raise _damaged(path, error, remedy) from error
    return images.transpose(0, 3, 1, 2), labels


def _damaged(path: Path, error: Exception, remedy: str) -> DataError:
    return DataError(f"{path} is damaged or of another kind ({error}); {remedy}.")
