"""What a smaller network gives up, in plain words. Every word follows from measured numbers.

gives_up(frontier, point, full, digits=True)   # 'About 1 in 120 digits more is misread: ...'
how_made("zeros, bits")                        # 'cut, single weights left out, weights in few bits'
"""

import math
from typing import Final

from widthwise.app.report import text
from widthwise.measure.frontier import Frontier, Point

MADE: Final = {  # what was done to a cut, as picks and frontiers name it
    "refit": "its statistics re-estimated",
    "distill": "taught by the full network",
    "reconstruct": "what is left fitted to what went",
    "fine-tune": "trained on",
    "merge": "similar features merged",
    "scratch": "trained from scratch at this size",
    "zeros": "single weights left out",
    "bits": "weights in few bits",
}


def gives_up(frontier: Frontier, point: Point, full: Point, *, digits: bool = False) -> str:
    """One or two sentences on what `point` loses against `full`, both of `frontier`.

    digits: whether the examples are digits, which are read.
    """
    if point.widths == full.widths and point.bytes == full.bytes:
        return "Nothing: this is the full network."
    if text.is_share(frontier.metric) and frontier.higher_is_better:
        said = _share(point.metric, full.metric, digits)
    else:
        said = _number(frontier, point.metric, full.metric)
    if point.spread and 0 < abs(full.metric - point.metric) <= point.spread:
        said += " That is less than trainings with other seeds differ."
    return said


def how_made(post_process: str) -> str:
    """How a network was made, of what a pick or a frontier notes: 'cut, weights in few bits'."""
    steps = [step for step in post_process.split(", ") if step]
    return ", ".join(["cut", *(MADE.get(step, step) for step in steps)])


def smaller(point: Point, full: Point) -> str:
    """Its size beside the full network's: '12 % of the full network, 8.3 times smaller'."""
    share = point.bytes / full.bytes
    if point.bytes == full.bytes:
        return "the full size"
    said = f"{100 * share:.0f} %" if share >= 0.095 else f"{100 * share:.1f} %"
    if share > 1:
        return f"{said} of the full network"
    return f"{said} of the full network, {_times(1 / share)} times smaller"


def _times(factor: float) -> str:
    return f"{factor:.0f}" if factor >= 9.95 else f"{factor:.1f}"


def _share(value: float, full: float, digits: bool) -> str:
    lost, things = full - value, "digits" if digits else "examples"
    if lost == 0:
        right = f"{100 * full:.1f} % of the {things}"
        return f"Nothing that was measured: {right} are right, as in the full network."
    if lost < 0:
        return f"Nothing: {_often(-lost, things)} more is right than in the full network."
    wrong, errs = ("misread", "misreads") if digits else ("wrong", "errs on")
    return (
        f"About {_often(lost, things)} more is {wrong}: it {errs} {_often(1 - value)}, the full "
        f"network {_often(1 - full)}."
    )


def _often(share: float, things: str = "") -> str:
    """A share as people count: '1 in 120 digits', '3 in 10', 'none'."""
    end = f" {things}" if things else ""
    if share <= 0:
        return "none"
    if share >= 0.15:
        return f"{max(2, round(10 * share))} in 10{end}"
    one_in = 1 / share
    rounded = round(one_in, 1 - math.floor(math.log10(one_in))) if one_in >= 100 else one_in
    return f"1 in {round(rounded):,}{end}"


def _number(frontier: Frontier, value: float, full: float) -> str:
    """For metrics that are no share: both values, and by how much they differ."""
    name = frontier.metric
    both = f"{name} {text.value(name, value)}, the full network has {text.value(name, full)}"
    if value == full:
        return f"Nothing that was measured: {name} {text.value(name, full)}, as the full network."
    worse = (value < full) == frontier.higher_is_better
    if not worse:
        return f"Nothing: {both}."
    by = f" ({100 * abs(value - full) / abs(full):.1f} % worse)" if full else ""
    if name == "perplexity" and 0 < full <= value:
        by = f" (each right word is on average {100 * (1 - full / value):.1f} % less expected)"
    return f"{both[0].upper()}{both[1:]}{by}."
