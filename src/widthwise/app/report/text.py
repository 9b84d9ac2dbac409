"""Numbers as people read them. One kB is 1000 bytes.

tick(20_000)                        # '20 kB', for the scale of a plot
kilobytes(12_345)                   # '12.3', for a column headed kB
value("accuracy", 0.9722)           # '97.22 %'
widths({"fc1": 32, "fc2": 16})      # 'fc1 32, fc2 16'
"""

from collections.abc import Mapping


def tick(count: int) -> str:
    """Bytes with their unit, as short as a round number allows: '20 kB'."""
    for unit, scale in (("GB", 10**9), ("MB", 10**6), ("kB", 1000)):
        if count >= scale:
            return f"{count / scale:g} {unit}"
    return f"{count} B"


def kilobytes(count: int) -> str:
    """Bytes as a number of kB."""
    return f"{count / 1e3:,.1f}"


def count(number: int | None) -> str:
    """A whole number with its thousands apart."""
    return "-" if number is None else f"{number:,}"


def milliseconds(latency: float | None) -> str:
    """A latency in ms, to three figures."""
    return "-" if latency is None else f"{latency:#.3g}".rstrip(".")


def is_share(metric: str) -> bool:
    """Whether a metric is a share of 1, to be shown in per cent."""
    return metric == "accuracy" or metric.endswith(" accuracy")


def value(metric: str, number: float | None, spread: float | None = None) -> str:
    """A metric's value, with the spread over seeds if there is one."""
    if number is None:
        return "-"
    if is_share(metric):
        more = f" ± {100 * spread:.2f}" if spread else ""
        return f"{100 * number:.2f}{more} %"
    plain = f"{number:,.0f}" if abs(number) >= 1000 else f"{number:#.4g}".rstrip(".")
    return plain + (f" ± {spread:.2g}" if spread else "")


def widths(kept: Mapping[str, int], most: int | None = None) -> str:
    """The width of every axis; of more than `most` axes, only how far they reach."""
    if not kept:
        return "all full"
    if most is not None and len(kept) > most:
        low, high = min(kept.values()), max(kept.values())
        return f"{len(kept)} axes, {low} to {high}"
    return ", ".join(f"{axis} {width}" for axis, width in kept.items())
