"""Where in a user's own code an error came from.

try:
    task.splits()
except Exception as error:
    print(told(error))      # KeyError: 'label' (mine.py:12, in splits: return Splits(d["label"]))
"""

from __future__ import annotations

import linecache
import os
import re
import site
import sys
import sysconfig
import traceback
from functools import cache
from pathlib import Path
from typing import Final

_OURS: Final = Path(__file__).resolve().parents[2]
_LONGEST: Final = 80  # characters of a line of code that are shown
_WORKER: Final = re.compile(r'File "([^"]+)", line (\d+), in (\S+)')


def described(error: BaseException) -> str:
    """An exception in one line, with the place in the user's code that it came from, if any."""
    kind, text = type(error).__name__, str(error)
    if "Original Traceback" in text:  # from a process that fetches data
        text = text.strip().splitlines()[-1].partition(": ")[2]
    said = " ".join(f"{kind}: {text}".rstrip(":. ").split())
    place = users_place(error)
    return said if place is None else f"{said} ({place})"


def users_place(error: BaseException) -> str | None:
    """The innermost line of the user's own code that an error passed, as 'mine.py:12, in f: code'.

    Code of widthwise, of Python and of installed packages is nobody's own. None where the error
    passed no other.
    """
    found = [
        (frame.filename, frame.lineno or 0, frame.name)
        for frame in traceback.extract_tb(error.__traceback__)
    ]
    if "Original Traceback" in str(error):
        found += [(file, int(line), name) for file, line, name in _WORKER.findall(str(error))]
    own = [place for place in found if _is_own(place[0])]
    if not own:
        inner = error.__cause__
        return None if inner is None else users_place(inner)
    file, line, function = own[-1]
    code = linecache.getline(file, line).strip()
    short = code if len(code) <= _LONGEST else f"{code[:_LONGEST]}..."
    where = "" if function == "<module>" else f", in {function}"
    return f"{_shown(file)}:{line}{where}" + (f": {short}" if short else "")


def _shown(file: str) -> str:
    """A file as people name it: relative to where they are, where it lies inside."""
    path, here = Path(file).resolve(), Path.cwd().resolve()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _is_own(file: str) -> bool:
    if file.startswith("<") or not file.endswith(".py"):
        return False
    path = Path(file).resolve()
    return not any(path.is_relative_to(folder) for folder in _installed())


@cache
def _installed() -> tuple[Path, ...]:
    """The folders of widthwise, of Python's library and of installed packages."""
    paths = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    paths |= {*site.getsitepackages(), site.getusersitepackages(), str(Path(os.__file__).parent)}
    scripts = sysconfig.get_path("scripts")  # the command itself
    return (_OURS, *(Path(p).resolve() for p in (*paths, scripts) if p and p != sys.prefix))
