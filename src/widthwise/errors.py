"""Every error that widthwise raises on purpose.

Each message is one sentence that says what is wrong and what to do about it, so that the
command line can print it as it is.
"""

import difflib
from collections.abc import Iterable

_LONGEST = 2000  # characters of a message; longer ones hold something from a file


class WidthwiseError(Exception):
    """Base of all errors raised on purpose.

    What a message names may come from a file: it is shown in one line, without control characters
    that a terminal would obey, and shortened in its middle.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(_shown(message))


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


def _shown(message: str) -> str:
    if len(message) > _LONGEST:
        message = f"{message[: _LONGEST // 2]} ... {message[-_LONGEST // 2 + 5 :]}"
    if message.isprintable():
        return message
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in message)


def or_rather(name: str, names: Iterable[str], most: int = 1) -> str:
    """The end of a sentence on a name that is not there: names like it, where there are any."""
    close = difflib.get_close_matches(name[:100], dict.fromkeys(names), n=most)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else "."
