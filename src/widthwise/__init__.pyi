"""What `import widthwise` offers, and where it is. `__init__.py` imports a name when it is used."""

from . import errors, extend, pruning, quantization
from .benchmark.kernels import NothingFasterWarning, run_sparse
from .elastic.network import Elastic, GraphModuleWarning, NothingToCutWarning
from .elastic.recalibration import StatisticsWarning
from .elastic.zeros import ZerosLostWarning
from .errors import (
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
from .export.elastic_onnx import export_elastic
from .export.int8_onnx import export_int8
from .export.onnx import export_onnx, export_program
from .extend import RuleWarning, register_rule, register_score
from .graph.axes import Axis
from .graph.constraints import Constraints
from .graph.explain import Inspection
from .measure.budget import Budget
from .measure.evaluation import Evaluation
from .measure.even_levels import even_levels
from .measure.frontier import Frontier, Point
from .measure.metric import ACCURACY, Metric
from .measure.recalibrate import recalibrate_
from .measure.sweep import sweep
from .pruning.gradual import GradualPruner, Schedule, prunable
from .sampling.draws import PUBLISHED, Draw, Sandwich
from .store.file import load, save
from .store.progressive.reader import Progressive
from .store.progressive.writer import save_progressive
from .store.stream import cut_file
from .task import Splits, Task
from .train.carry import carry_average, carry_optimizer
from .train.config import RunConfig
from .train.distillation import Teacher, distill
from .train.family import FamilyLoss
from .train.fit import fit
from .train.layer import StructuralDropout
from .train.losses import Distill, SandwichLoss, SingleDraw, StepLoss
from .train.recipe import Recipe
from .train.refit import refit_output_
from .train.sam import SAM
from .variant import Variant, Widths
from .variants.apply import apply, variant_of
from .variants.search import Candidates, search

__version__: str

__all__ = [
    "ACCURACY",
    "PUBLISHED",
    "SAM",
    "Axis",
    "Budget",
    "BudgetError",
    "Candidates",
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
    "RuleWarning",
    "RunConfig",
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
    "Teacher",
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
    "errors",
    "even_levels",
    "export_elastic",
    "export_int8",
    "export_onnx",
    "export_program",
    "extend",
    "fit",
    "load",
    "prunable",
    "pruning",
    "quantization",
    "recalibrate_",
    "refit_output_",
    "register_rule",
    "register_score",
    "run_sparse",
    "save",
    "save_progressive",
    "search",
    "sweep",
    "variant_of",
]
