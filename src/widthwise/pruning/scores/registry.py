"""Scores by the names that the command line and comparisons have for them.

scores = features(net, "obd-sd", batches, F.cross_entropy)       # {"fc1": (256,), ...}
scores = weights(net, "magnitude", batches, F.cross_entropy)     # {"fc1.weight": (256, 784), ...}
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

from torch import Tensor

from widthwise.elastic.network import Elastic
from widthwise.pruning.gradual.compete import Scope
from widthwise.pruning.scores.activations import activation
from widthwise.pruning.scores.dropout_ablation import dropout_ablation
from widthwise.pruning.scores.gradients import Criterion
from widthwise.pruning.scores.output_error import output_error
from widthwise.pruning.scores.weights import magnitude, obd, obd_sd, random, taylor

FeatureScore = Literal[
    "output-error",
    "obd",
    "obd-sd",
    "taylor",
    "dropout-ablation",
    "magnitude",
    "activation",
    "random",
]
WeightScore = Literal["magnitude", "obd", "obd-sd", "taylor", "random"]

_WITH_LOSS: Final[Mapping[str, Callable[..., dict[str, Tensor]]]] = {
    "output-error": output_error,
    "obd": obd,
    "obd-sd": obd_sd,
    "taylor": taylor,
    "dropout-ablation": dropout_ablation,
}
_RANDOM: Final = ("output-error", "obd", "obd-sd", "dropout-ablation")  # take a seed


def features(
    net: Elastic,
    score: FeatureScore,
    batches: Any,
    criterion: Criterion,
    *,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, Tensor]:
    """The scores of all features, by axis. Raises ScoreError."""
    if score == "random":
        return random(net, seed=seed)
    if score == "magnitude":
        return magnitude(net)
    if score == "activation":
        return activation(net, batches, progress=progress)
    return _WITH_LOSS[score](net, batches, criterion, progress=progress, **_seeded(score, seed))


def weights(
    net: Elastic,
    score: WeightScore,
    batches: Any,
    criterion: Criterion,
    *,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, Tensor]:
    """The scores of single weights, by tensor. Raises ScoreError."""
    if score == "random":
        return random(net, of="weights", seed=seed)
    if score == "magnitude":
        return magnitude(net, of="weights")
    more = {"of": "weights", **_seeded(score, seed)}
    return _WITH_LOSS[score](net, batches, criterion, progress=progress, **more)


def competing(score: WeightScore) -> Scope:
    """How scores of different tensors are compared unless told otherwise.

    Estimates of a loss as they are. Magnitudes by `lamp`: of an LSTM nothing would be left beside
    the large weights of embeddings, and the same share everywhere is too much of small kernels.
    """
    return "lamp" if score == "magnitude" else "global"


def _seeded(score: str, seed: int) -> dict[str, Any]:
    return {"seed": seed} if score in _RANDOM else {}
