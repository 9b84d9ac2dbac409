"""Memory that was freed, for others to use."""

from __future__ import annotations

import ctypes
import sys


def give_back() -> None:
    """Hand freed memory back to the system, where the C library (glibc) keeps it.

    Tensors of an elastic training have other sizes at every step, few of which fit where others
    were: what is kept grows to many times what is in use. Takes about a tenth of a second.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
