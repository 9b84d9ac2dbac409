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

__version__ = "0.1.0"

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
