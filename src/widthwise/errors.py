"""Every error that widthwise raises on purpose.

Each message is one sentence that says what is wrong and what to do about it, so that the
command line can print it as it is.
"""

import difflib
from collections.abc import Iterable


class WidthwiseError(Exception):
    """Base of all errors raised on purpose."""


class CaptureError(WidthwiseError):
    """The model could not be captured, or was called with inputs it was not captured for."""


class WidthError(WidthwiseError):
    """An unknown axis, or a width outside 1..size."""


class BudgetError(WidthwiseError):
    """No measured variant meets the budget; the message names the nearest one."""


class FileError(WidthwiseError):
    """A file is missing, truncated, altered, or was not written by widthwise."""


class ExportError(WidthwiseError):
    """A network cannot be exported, or the exported one computes something else."""


class DataError(WidthwiseError):
    """A data set is missing or damaged; the message says how to get it."""


class ScoreError(WidthwiseError):
    """Scores cannot be computed, or are not numbers."""


class QuantizationError(WidthwiseError):
    """Weights cannot be written in few bits."""


class TrainingError(WidthwiseError):
    """Training cannot go on, for example because the loss is not a number."""


class RunError(WidthwiseError):
    """A run folder is in use, belongs to another command, or cannot be read."""


class TaskError(WidthwiseError):
    """A task could not be found or does not fit together."""


def or_rather(name: str, names: Iterable[str]) -> str:
    """The end of a sentence on a name that is not there: one like it, where there is any."""
    close = difflib.get_close_matches(name, list(names), n=1)
    return f"; did you mean {close[0]!r}?" if close else "."
