"""Words that the checks and the page share; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

EQUAL = "equal"  # outputs, gradients and state afterwards, to rounding
REFUSED = "refused"  # one sentence of a WidthwiseError, or of a warning
BOTH_FAIL = "both fail"  # so does the model
ACCEPTED = "accepted"  # answers where the model raises
ERROR = "error"  # an exception that widthwise did not raise on purpose
DIFFERENT = "DIFFERENT"
VERDICTS = (EQUAL, REFUSED, BOTH_FAIL, ACCEPTED, ERROR, DIFFERENT)
WRONG = (ACCEPTED, ERROR, DIFFERENT)


@dataclass(frozen=True)
class Finding:
    """What one check found.

    check: its name, such as "training" or "argument labels". text: the refusal, the error or the
    difference; empty where the two are equal.
    """

    check: str
    verdict: str
    text: str = ""
