"""Functions of scikit-learn's metrics on outputs of networks.

    value(sklearn.metrics.f1_score, logits, classes)      # f1_score(true classes, predicted ones)
    value(sklearn.metrics.roc_auc_score, logits, classes) # roc_auc_score(classes, probabilities)

scikit-learn is not imported here: whoever gives one of its functions has it.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from torch import Tensor

# Which want probabilities, or any scores, rather than classes.
_SCORES: Final = (
    "average_precision_score",
    "brier_score_loss",
    "coverage_error",
    "d2_brier_score",
    "d2_log_loss_score",
    "dcg_score",
    "label_ranking_average_precision_score",
    "label_ranking_loss",
    "log_loss",
    "ndcg_score",
    "roc_auc_score",
    "top_k_accuracy_score",
)
# Of two classes these want the probabilities of the second alone.
_SECOND: Final = ("average_precision_score", "brier_score_loss", "roc_auc_score")


def inner(function: Any) -> Any:
    """A function without the arguments that it was bound to."""
    return inner(function.func) if isinstance(function, partial) else function


def is_one(function: Any) -> bool:
    """Whether a function, or what it was bound from, is one of sklearn.metrics."""
    module = getattr(inner(function), "__module__", None) or ""
    return callable(function) and module.startswith("sklearn.metrics")


def higher_is_better(function: Any) -> bool | None:
    """By the names that scikit-learn gives its functions; None where they do not say."""
    name = inner(function).__name__
    if name.endswith(("_error", "_loss", "_deviance")):
        return False
    return True if name.endswith(("_score", "_corrcoef")) else None


def value(function: Callable[..., Any], outputs: Tensor, target: Tensor) -> Any:
    """What a function of sklearn.metrics gives.

    outputs: of a network: values, logits or probabilities, for all examples; integers are classes.
    target: true values or classes, of the shape of the outputs, or of that without the class dim.
    """
    name, module = inner(function).__name__, inner(function).__module__
    outputs = _without_one(outputs.detach().cpu(), target)
    target = target.detach().cpu()
    if "_regression" in module:
        found = outputs
    elif name in _SCORES:
        found = _scores(outputs, target, second=name in _SECOND)
    else:
        found = _classes(outputs, target)
    # Positions of images or sequences, not several labels.
    if outputs.dim() > found.dim() == target.dim() > 1:
        found, target = found.flatten(), target.flatten()
    if found.shape[:1] == target.shape[:1] and not target.is_floating_point():
        counted = target.flatten(1).amin(1) >= 0 if target.dim() > 1 else target >= 0
        found, target = found[counted], target[counted]
    return function(target.numpy(), (found.float() if found.is_floating_point() else found).numpy())


def _without_one(outputs: Tensor, target: Tensor) -> Tensor:
    """Outputs (N, 1) as (N,), where the target is."""
    single = outputs.dim() == target.dim() + 1 and outputs.shape[1] == 1
    return outputs.squeeze(1) if single else outputs


def _class_dim(outputs: Tensor, target: Tensor) -> int:
    return 1 if (outputs.shape[0], *outputs.shape[2:]) == target.shape else outputs.dim() - 1


def _probable(outputs: Tensor) -> bool:
    return bool(((outputs >= 0) & (outputs <= 1)).all())


def _classes(outputs: Tensor, target: Tensor) -> Tensor:
    if not outputs.is_floating_point():
        return outputs
    if outputs.dim() == target.dim() + 1:
        return outputs.argmax(_class_dim(outputs, target))
    return (outputs > (0.5 if _probable(outputs) else 0.0)).to(target.dtype)


def _scores(outputs: Tensor, target: Tensor, second: bool) -> Tensor:
    outputs = outputs.float()
    if outputs.dim() != target.dim() + 1:
        return outputs if _probable(outputs) else outputs.sigmoid()
    dim = _class_dim(outputs, target)
    sums = outputs.sum(dim)
    if not (_probable(outputs) and bool(((sums - 1).abs() < 1e-3).all())):
        outputs = outputs.softmax(dim)
    outputs = outputs.movedim(dim, -1)
    if second and outputs.shape[-1] == 2:
        return outputs[..., 1]
    return outputs
