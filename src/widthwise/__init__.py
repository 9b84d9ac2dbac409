"""widthwise: train once, cut to any width."""

from widthwise.choose.draws import PUBLISHED, Draw
from widthwise.elastic import Elastic, GraphModuleWarning, NothingToCutWarning
from widthwise.errors import (
    BudgetError,
    CaptureError,
    DataError,
    FileError,
    RunError,
    TaskError,
    TrainingError,
    WidthError,
    WidthwiseError,
)
from widthwise.graph.axes import Axis
from widthwise.variant import Widths
from widthwise.version import VERSION

__version__ = VERSION

__all__ = [
    "PUBLISHED",
    "Axis",
    "BudgetError",
    "CaptureError",
    "DataError",
    "Draw",
    "Elastic",
    "FileError",
    "GraphModuleWarning",
    "NothingToCutWarning",
    "RunError",
    "TaskError",
    "TrainingError",
    "WidthError",
    "Widths",
    "WidthwiseError",
]
