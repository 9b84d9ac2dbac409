"""How good is a network: a metric over all of some data.

    ACCURACY                                                  # a mean over the examples
    Metric("RMSE", squared, higher_is_better=False, finish=math.sqrt)
    as_metric(torchmetrics.classification.MulticlassF1Score(10))
    as_metric(partial(sklearn.metrics.f1_score, average="macro"))
    Metric("BLEU", bleu)               # bleu(all outputs, all targets) -> number

A metric means the same whatever the size of the batches: a function that gives the sum and the
count of each batch is added up, after it was seen that this gives what the whole gives; an object
with `update` and `compute` keeps a state of its own; any other function is called once, with the
outputs for all the data.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from widthwise.measure import scikit

Reads = Callable[[Any, Any], tuple[Any, Any]]
"""(outputs, target) -> what a metric compares: (predictions, target)."""


@runtime_checkable
class Stateful(Protocol):
    """What torchmetrics' objects are: a metric with a state."""

    def update(self, preds: Any, target: Any) -> None:
        """Take a batch in."""

    def compute(self) -> Any:
        """The value over all batches since the last reset."""

    def reset(self) -> None:
        """Forget all batches."""


def _mean(value: Any) -> Any:
    return value


@dataclass(frozen=True)
class Metric:
    """A number that says how good a network is.

    Args:
        name: shown in tables and plots.
        batch: one of
            - (outputs, target) -> (sum over the batch, 0-dim tensor, float or tensor of several
              sums; count, int), which are added up over the batches;
            - (outputs, target) -> a number, which is called once with all outputs and targets,
              concatenated along dim 0 on the CPU;
            - an object with update(predictions, target), compute() and reset(), such as
              torchmetrics';
            - a function of sklearn.metrics, which gets classes, probabilities or values as it wants
              them.
        higher_is_better: the direction in which the metric improves; by default as the object of
            torchmetrics or the function of scikit-learn says, else True.
        finish: sums over counts -> the value reported, e.g. math.exp for perplexity.
        reads: (outputs, target) -> the predictions and the target that `batch` gets, for networks
            with several outputs.
        additive: whether sums and counts of batches add up to the whole's; None finds out,
            with two parts of each batch, and calls `batch` with all outputs where they do not.

    Raises:
        ValueError: Where the direction cannot be told.
    """

    name: str
    batch: Any
    higher_is_better: bool | Any = None
    finish: Callable[[Any], Any] = _mean
    reads: Reads | None = None
    additive: bool | None = None

    def __post_init__(self) -> None:
        if not (isinstance(self.batch, Stateful) or callable(self.batch)):
            raise ValueError(
                f"The metric {self.name!r} is made of a value of type {type(self.batch).__name__}; "
                "give a function of (outputs, target), or an object with update() and compute()."
            )
        if self.higher_is_better is None:
            object.__setattr__(self, "higher_is_better", self._direction())

    def _direction(self) -> bool:
        if scikit.is_one(self.batch):
            said = scikit.higher_is_better(self.batch)
        elif isinstance(self.batch, Stateful):
            said = getattr(self.batch, "higher_is_better", None)
        else:
            return True
        if said is None:
            raise ValueError(
                f"Whether a higher {self.name} is better cannot be told; say it: "
                f"Metric({self.name!r}, ..., higher_is_better=True)."
            )
        return bool(said)

    def better(self, a: float, b: float) -> bool:
        """Whether value `a` is strictly better than value `b`."""
        return a > b if self.higher_is_better else a < b

    @property
    def whole(self) -> bool:
        """Whether it is known to need all outputs at once."""
        return self.additive is False or scikit.is_one(self.batch)

    def read(self, outputs: Any, target: Any) -> tuple[Any, Any]:
        """What the metric compares. Raises ValueError where that is not to be told from outputs."""
        if self.reads is not None:
            return self.reads(outputs, target)
        return (_only_one(self.name, outputs) if self._of_one else outputs), target

    @cached_property
    def _of_one(self) -> bool:
        """Whether it compares one tensor of predictions; looked up once for all batches."""
        return isinstance(self.batch, Stateful) or scikit.is_one(self.batch)


def as_metric(given: Any) -> Metric:
    """A metric of what users have: a Metric, an object of torchmetrics, a function of sklearn's.

    Raises ValueError for other functions, of which nobody can tell which direction is better.

        as_metric(BinaryAUROC())                    # Metric("BinaryAUROC", ...)
        as_metric(sklearn.metrics.r2_score)         # Metric("r2_score", ...)
    """
    if isinstance(given, Metric):
        return given
    if scikit.is_one(given):
        return Metric(scikit.inner(given).__name__, given)
    if isinstance(given, Stateful) and not isinstance(given, type):
        return Metric(type(given).__name__, given)
    if isinstance(given, type) or not callable(given):
        raise ValueError(
            f"The metric is {given!r}; give a Metric, an object with update() and compute(), such "
            "as torchmetrics', or a function of sklearn.metrics."
        )
    name = getattr(given, "__name__", type(given).__name__)
    raise ValueError(
        f"Which direction of the metric {name} is better cannot be told from a function; give "
        f"Metric({name!r}, {name}, higher_is_better=True), where {name} takes (outputs, target)."
    )


def _only_one(name: str, outputs: Any) -> Any:
    """The predictions among outputs: the only tensor, or those called logits."""
    if isinstance(outputs, Tensor):
        return outputs
    named = outputs if isinstance(outputs, Mapping) else vars(outputs) if hasattr(
        outputs, "__dict__") else {}  # fmt: skip
    if isinstance(named.get("logits"), Tensor):
        return named["logits"]
    values = outputs if isinstance(outputs, list | tuple) else named.values()
    tensors = [t for t in values if isinstance(t, Tensor) and t.dim() > 0]
    if len(tensors) != 1:
        raise ValueError(
            f"Which of {len(tensors)} outputs the metric {name} reads cannot be told; say it: "
            f"Metric({name!r}, ..., reads=lambda outputs, target: (outputs[0], target))."
        )
    return tensors[0]


def correct(outputs: Tensor, target: Tensor) -> tuple[Tensor, int]:
    """How many positions of `outputs` have their largest value at the class in `target`.

    outputs: (N, classes), (N, ..., classes) or (N, classes, ...); where both fit, the classes are
    last. target: int64 of that shape without the classes. Raises ValueError for other shapes.
    """
    return (outputs.argmax(dim=_class_dim(outputs, target)) == target).sum(), target.numel()


def _class_dim(outputs: Tensor, target: Tensor) -> int:
    if outputs.shape[:-1] == target.shape:
        return -1
    if outputs.dim() > 2 and (outputs.shape[0], *outputs.shape[2:]) == target.shape:
        return 1
    raise ValueError(
        f"Accuracy is of classes, but outputs of shape {list(outputs.shape)} and targets of shape "
        f"{list(target.shape)} are none; give the metric= that fits."
    )


ACCURACY = Metric("accuracy", correct, additive=True)
