"""Sizes and shares as people write them: 300kB, 1.2 MB, 64KiB; 0.9, 90%, 90 %.

kB, MB and GB are 1000, 1000**2 and 1000**3 bytes; KiB, MiB and GiB are powers of 1024.
"""

import re
from decimal import Decimal, InvalidOperation

from widthwise.errors import BudgetError

_UNITS = {
    "": 1,
    "b": 1,
    **{f"{p}b": 1000**n for n, p in enumerate("kmgt", start=1)},
    **{f"{p}ib": 1024**n for n, p in enumerate("kmgt", start=1)},
}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*([a-z]*)\s*", re.IGNORECASE | re.ASCII)


def parse_size(size: int | str) -> int:
    """A number of bytes from an integer or a text, rounded down to whole bytes.

        parse_size(300_000)    # 300000
        parse_size("300kB")    # 300000
        parse_size("1.2 MB")   # 1200000
        parse_size("64KiB")    # 65536

    Upper and lower case are the same. Raises BudgetError for anything else.
    """
    if isinstance(size, int) and not isinstance(size, bool) and size >= 0:
        return size
    found = _SIZE.fullmatch(size) if isinstance(size, str) and len(size) <= 64 else None
    unit = _UNITS.get(found[2].lower()) if found else None
    if found is None or unit is None:
        raise BudgetError(
            f"{size!r} is not a size; write a number of bytes, or for example 300kB, 1.2MB, 64KiB."
        )
    return int(Decimal(found[1]) * unit)


def parse_share(share: float | str) -> float:
    """A share from a number or a text, which may be in per cent; its range is not looked at.

        parse_share(0.9)       # 0.9
        parse_share("0.9")     # 0.9
        parse_share("90%")     # 0.9

    Raises ValueError for what is no number.
    """
    text = str(share).strip()
    number = text.removesuffix("%")
    try:
        value = Decimal(number.strip())
        return float(value if number == text else value / 100)
    except InvalidOperation:
        pass
    raise ValueError(f"{share!r} is not a share; write for example 0.9 or 90%.")


def format_size(size: int) -> str:
    """Bytes for people, in three figures: 999 B, 12.9 kB, 1.20 MB."""
    if size < 1000:
        return f"{size} B"
    value, unit = size / 1000, "kB"
    for larger in ("MB", "GB", "TB"):
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{digits}f} {unit}"
