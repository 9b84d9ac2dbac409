"""widthwise: train once, cut to any width."""

from widthwise import pruning, quantization
from widthwise.benchmark.kernels import NothingFasterWarning, run_sparse
from widthwise.elastic.network import Elastic, GraphModuleWarning, NothingToCutWarning
from widthwise.elastic.recalibration import StatisticsWarning
from widthwise.elastic.zeros import ZerosLostWarning
from widthwise.errors import (
    BudgetError,
    CaptureError,
    DataError,
    ExportError,
    FileError,
    QuantizationError,
    RunError,
    ScoreError,
    TaskError,
    TrainingError,
    WidthError,
    WidthwiseError,
)
from widthwise.export.elastic_onnx import export_elastic
from widthwise.export.int8_onnx import export_int8
from widthwise.export.onnx import export_onnx, export_program
from widthwise.graph.axes import Axis
from widthwise.graph.constraints import Constraints
from widthwise.graph.explain import Inspection
from widthwise.measure.frontier import Frontier, Point
from widthwise.measure.metric import ACCURACY, Metric
from widthwise.measure.recalibrate import recalibrate
from widthwise.measure.sweep import Evaluation, ladder, sweep
from widthwise.pruning.gradual import GradualPruner, Schedule, prunable
from widthwise.sampling.draws import PUBLISHED, Draw, Sandwich
from widthwise.store.file import load, save
from widthwise.store.progressive.reader import Progressive
from widthwise.store.progressive.writer import save_progressive
from widthwise.store.stream import cut_file
from widthwise.task import Splits, Task
from widthwise.train.carry import carry_average, carry_optimizer
from widthwise.train.family import FamilyLoss
from widthwise.train.fit import fit
from widthwise.train.layer import StructuralDropout
from widthwise.train.losses import Distill, SandwichLoss, SingleDraw, StepLoss
from widthwise.train.recipe import Recipe
from widthwise.train.sam import SAM
from widthwise.train.touchup import distill, refit_output
from widthwise.variant import Variant, Widths
from widthwise.variants import apply, search, variant_of
from widthwise.version import VERSION

__version__ = VERSION

__all__ = [
    "ACCURACY",
    "PUBLISHED",
    "SAM",
    "Axis",
    "BudgetError",
    "CaptureError",
    "Constraints",
    "DataError",
    "Distill",
    "Draw",
    "Elastic",
    "Evaluation",
    "ExportError",
    "FamilyLoss",
    "FileError",
    "Frontier",
    "GradualPruner",
    "GraphModuleWarning",
    "Inspection",
    "Metric",
    "NothingFasterWarning",
    "NothingToCutWarning",
    "Point",
    "Progressive",
    "QuantizationError",
    "Recipe",
    "RunError",
    "Sandwich",
    "SandwichLoss",
    "Schedule",
    "ScoreError",
    "SingleDraw",
    "Splits",
    "StatisticsWarning",
    "StepLoss",
    "StructuralDropout",
    "Task",
    "TaskError",
    "TrainingError",
    "Variant",
    "WidthError",
    "Widths",
    "WidthwiseError",
    "ZerosLostWarning",
    "apply",
    "carry_average",
    "carry_optimizer",
    "cut_file",
    "distill",
    "export_elastic",
    "export_int8",
    "export_onnx",
    "export_program",
    "fit",
    "ladder",
    "load",
    "prunable",
    "pruning",
    "quantization",
    "recalibrate",
    "refit_output",
    "run_sparse",
    "save",
    "save_progressive",
    "search",
    "sweep",
    "variant_of",
]
