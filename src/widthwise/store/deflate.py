"""Raw DEFLATE streams (RFC 1951) that become no larger than they may.

inflated(deflated(data), most=1000)     # the same bytes, of which there are at most 1,000
"""

from __future__ import annotations

import zlib


def deflated(data: bytes, strategy: int = zlib.Z_DEFAULT_STRATEGY) -> bytes:
    """The stream of some bytes. strategy: one of zlib's."""
    maker = zlib.compressobj(9, zlib.DEFLATED, -15, 9, strategy)
    return maker.compress(data) + maker.flush()


def inflated(stream: bytes, most: int, *, filled: int = 0) -> bytes:
    """The bytes of a stream, of which there may be so many. filled: zeros that may follow it.

    Raises ValueError for any but one whole stream.
    """
    reader = zlib.decompressobj(-15)
    try:
        data = reader.decompress(stream, most + 1)
    except zlib.error as error:
        raise ValueError(f"it cannot be read: {error}") from error
    behind = reader.unused_data
    if len(data) > most or not reader.eof or len(behind) > filled or any(behind):
        raise ValueError("it is not as long as was noted")
    return data
