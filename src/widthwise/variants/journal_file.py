"""A search's journal: lines of JSON, each with a checksum of all that stands before it.

    {"op_code": 0, ..., "sum": "1c291ca3"}

`sum` is the CRC-32 of the file's bytes up to and with the comma in front of it. So no byte can
change, and no line be missing, unnoticed, but for lines at the end: lines of a search that was
stopped earlier. Lines of before there were checksums stand at the file's beginning or nowhere.
optuna's own reader takes such a file too.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from widthwise.common.jsonfile import contents, parsed

_SUM: Final = re.compile(rb' "sum": "([0-9a-f]{8})"}\n')
_LENGTH: Final = len(b' "sum": "00000000"}\n')


class Lines:
    """What optuna's storage reads from and writes to. path: made where there is no such file.

    One process at a time may write.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        if not path.exists():  # looking at a file does not change when it was written
            path.touch()
        self._logs: list[dict[str, Any]] = []
        self._at = 0  # bytes that were read
        self._crc = 0  # of these
        self._summed = False  # whether a line with a checksum was among them

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        """The lines from this one on. Raises ValueError for a damaged file, OSError."""
        self._read()
        return self._logs[log_number_from:]

    def append_logs(self, logs: Sequence[Mapping[str, Any]]) -> None:
        """Write lines, and wait until they are on the disk. Raises ValueError, OSError."""
        self._read()
        crc, text = self._crc, b""
        for log in logs:
            line = json.dumps(log)[:-1].encode() + b","
            crc = zlib.crc32(line, crc)
            end = b' "sum": "%08x"}\n' % crc
            crc = zlib.crc32(end, crc)
            text += line + end
        with self._path.open("ab") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

    def _read(self) -> None:
        """Read on. A line without its end is one that was not written whole, and no line yet."""
        if self._path.stat().st_size == self._at:
            return
        data = contents(self._path, most=None)[self._at :]
        for line in data[: data.rfind(b"\n") + 1].splitlines(keepends=True):
            found = _SUM.fullmatch(line[-_LENGTH:])
            if found is None and self._summed:
                raise ValueError("a line has no checksum")
            if found is not None:
                right = zlib.crc32(line[:-_LENGTH], self._crc)
                if int(found[1], 16) != right:
                    raise ValueError("a checksum is wrong")
            log = parsed(line)
            if not isinstance(log, dict):
                raise ValueError("a line is no table")
            if found is None and "sum" in log:
                raise ValueError("a checksum is none")
            self._logs.append({name: value for name, value in log.items() if name != "sum"})
            self._crc = zlib.crc32(line, self._crc)
            self._at += len(line)
            self._summed |= found is not None
