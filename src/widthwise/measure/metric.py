"""How good is a network: a metric over batches.

A `Metric` turns the outputs for one batch into a sum and a count, and the totals into one
number. Accuracy, mean loss and perplexity are settings of it:

    Metric("accuracy", correct, higher_is_better=True)
    Metric("perplexity", token_loss, higher_is_better=False, finish=math.exp)
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor


def _mean(value: float) -> float:
    return value


@dataclass(frozen=True)
class Metric:
    """A number that says how good a network is.

    name: shown in tables and plots.
    batch: (outputs, target) -> (sum over the batch, 0-dim tensor or float; count, int).
    higher_is_better: the direction in which the metric improves.
    finish: mean over all counted items -> the value reported, e.g. math.exp for perplexity.
    """

    name: str
    batch: Callable[[Any, Any], tuple[Tensor | float, int]]
    higher_is_better: bool = True
    finish: Callable[[float], float] = _mean

    def better(self, a: float, b: float) -> bool:
        """Whether value `a` is strictly better than value `b`."""
        return a > b if self.higher_is_better else a < b


def correct(outputs: Tensor, target: Tensor) -> tuple[Tensor, int]:
    """How many rows of `outputs` (N, classes) have their largest value at `target` (N,)."""
    return (outputs.argmax(dim=-1) == target).sum(), target.numel()


ACCURACY = Metric("accuracy", correct)


def outputs_for(module: Callable[..., Any], inputs: Any) -> Any:
    """Call `module` with one batch's inputs: a tensor, a tuple of arguments, or a dict."""
    if isinstance(inputs, dict):
        return module(**inputs)
    if isinstance(inputs, (tuple, list)):
        return module(*inputs)
    return module(inputs)
