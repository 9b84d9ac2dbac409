"""The scores by name, in one table: what each judges, what it takes, how its values compare.

    found = score(net, "obd-sd", batches, F.cross_entropy)      # {"fc1": (256,), ...}
    found = score(net, "magnitude", of="weights")               # {"fc1.weight": (256, 784), ...}
    register_score("mine", function, needs="inputs")            # function(net, batches)

Nothing else knows a score by its name: the command line, runs and comparisons ask this table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import torch
from torch import Tensor

from widthwise.common.defined import same_definition
from widthwise.elastic.network import Elastic
from widthwise.errors import ScoreError
from widthwise.pruning.gradual.compete import Scope, checked
from widthwise.pruning.scores.activations import activation
from widthwise.pruning.scores.dropout_ablation import dropout_ablation
from widthwise.pruning.scores.gradients import Criterion
from widthwise.pruning.scores.output_error import output_error
from widthwise.pruning.scores.progress import finite
from widthwise.pruning.scores.weights import Of, magnitude, obd, obd_sd, random, taylor

Needs = Literal["nothing", "inputs", "loss"]
_BOTH: Final[tuple[Of, ...]] = ("features", "weights")
_FEATURES: Final[tuple[Of, ...]] = ("features",)


@dataclass(frozen=True)
class Score:
    """One way of judging features or single weights.

    function: called with the network; with batches too where it needs "inputs"; and with the
    criterion besides where it needs the "loss". Returns by axis (size,), or by parameter its shape.
    of: what it judges; a function that judges both takes `of`. seeded, progress: whether it takes
    `seed` and `progress`. comparable: whether features of different axes compare, as estimates of
    the loss do, so that widths are allocated by it. scope: how weights of different tensors
    compete by it unless told otherwise.
    """

    name: str
    function: Callable[..., Mapping[str, Tensor]]
    needs: Needs = "nothing"
    of: tuple[Of, ...] = _FEATURES
    seeded: bool = False
    progress: bool = False
    comparable: bool = False
    scope: Scope = "global"


# Estimates of a loss compete as they are. Magnitudes by `lamp`: of an LSTM nothing would be left
# beside the large weights of embeddings, and the same share everywhere is too much of small
# kernels.
SCORES: Final[dict[str, Score]] = {
    score.name: score
    for score in (
        Score("output-error", output_error, "loss", _FEATURES, True, True, True),
        Score("obd", obd, "loss", _BOTH, True, True, True),
        Score("obd-sd", obd_sd, "loss", _BOTH, True, True, True),
        Score("taylor", taylor, "loss", _BOTH, False, True, True),
        Score("dropout-ablation", dropout_ablation, "loss", _FEATURES, True, True, True),
        Score("magnitude", magnitude, of=_BOTH, scope="lamp"),
        Score("activation", activation, "inputs", progress=True),
        Score("random", random, of=_BOTH, seeded=True),
    )
}


def register_score(
    name: str,
    function: Callable[..., Mapping[str, Tensor]],
    *,
    needs: Needs = "nothing",
    of: Iterable[Of] = _FEATURES,
    seeded: bool = False,
    comparable: bool = False,
    scope: Scope | None = None,
    replace: bool = False,
) -> None:
    """Give a score a name, by which `pruning.score` and the commands find it.

    In the file of a task it serves the commands too: `widthwise order mine.py:task --score NAME`.
    The same function of the same module may come again, as it does when its file is run again.

    Args:
        name: as it is typed after `--score`.
        function: called as `function(net)`, `function(net, batches)` or `function(net, batches,
            criterion)`, as `needs` says. Returns higher numbers for what matters more: a tensor
            (size,) by axis, or of a parameter's shape by its name; axes that it leaves out are not
            ordered.
        needs: "nothing" but the network, "inputs" for batches of (inputs, target), or "loss" for
            these and the criterion (outputs, target) -> mean loss.
        of: what the function judges, "features" or single "weights". A function that judges both
            is also given `of`.
        seeded: whether the function is also given `seed`, a number.
        comparable: whether features of different axes may be compared, so that a sweep allocates
            widths by the score. Estimates of a change of the loss are comparable.
        scope: how weights of different tensors compete unless told otherwise, as `pruning.keep`
            takes it; "global" by default for comparable scores, else "layer".
        replace: take the place of a score that has this name already.

    Raises:
        ValueError: For a name that is taken or empty, and for other values than these.
    """
    kinds = tuple(of)
    if not name or name != name.strip():
        raise ValueError(f"The name of a score is {name!r}; give a word.")
    if needs not in get_args(Needs):
        raise ValueError(f"needs is {needs!r}; give 'nothing', 'inputs' or 'loss'.")
    if not kinds or not {*kinds} <= {*_BOTH}:
        raise ValueError(f"of is {kinds!r}; give ('features',), ('weights',) or both.")
    known = SCORES.get(name)
    if known and not replace and not same_definition(known.function, function):
        raise ValueError(
            f"There is a score {name!r} already; give another name, or replace=True to take its "
            "place."
        )
    how = checked(scope or ("global" if comparable else "layer"))
    SCORES[name] = Score(name, function, needs, kinds, seeded, False, comparable, how)


def score(
    net: Elastic,
    name: str,
    batches: Any = None,
    criterion: Criterion | None = None,
    *,
    of: Of = "features",
    seed: int = 0,
    progress: bool = False,
) -> dict[str, Tensor]:
    """The scores of this name, for features or single weights.

    Args:
        net: the network, left as it is.
        name: one of the built-in scores, or what was given to `register_score`.
        batches: (inputs, target), for scores that need data.
        criterion: (outputs, target) -> mean loss, for scores that need the loss.
        of: "features" or single "weights".
        seed: random seed, for scores that draw numbers.
        progress: a bar on standard error, where the score takes time.

    Returns:
        (size,) for each axis, or a tensor of its shape for each parameter.

    Raises:
        ScoreError: For an unknown name, for data that is missing, and for scores of another form or
            that are not numbers.
    """
    found = find(name, of)
    given = {"nothing": (), "inputs": (batches,), "loss": (batches, criterion)}[found.needs]
    if any(value is None for value in given):
        lacking = "batches" if found.needs == "inputs" else "batches and a criterion"
        raise ScoreError(f"The score {name!r} needs data; give {lacking}.")
    more: dict[str, Any] = {"of": of} if len(found.of) > 1 else {}
    more |= {"seed": seed} if found.seeded else {}
    more |= {"progress": progress} if found.progress else {}
    return _checked(net, found, of, found.function(net, *given, **more))


def find(name: str, of: Of = "features") -> Score:
    """The score of this name. Raises ScoreError where there is none that judges these."""
    found = SCORES.get(name)
    if found is None or of not in found.of:
        what = f"no score {name!r}" if found is None else f"no score {name!r} of {of}"
        raise ScoreError(
            f"There is {what}; the known ones are {', '.join(names(of))}, and your own is made "
            "known with widthwise.register_score."
        )
    return found


def names(of: Of) -> list[str]:
    """The scores of features or of single weights, by name."""
    return [score.name for score in SCORES.values() if of in score.of]


def is_comparable(name: str | None) -> bool:
    """Whether features of different axes compare by a score; not by one that is not known here."""
    return name in SCORES and SCORES[name].comparable


def _checked(net: Elastic, score: Score, of: Of, found: Any) -> dict[str, Tensor]:
    """Scores as they may be gone on with. Raises ScoreError for anything else."""
    if not isinstance(found, Mapping):
        raise ScoreError(
            f"The score {score.name!r} gave a {type(found).__name__}; return a dict of tensors."
        )
    parameters = net.model.named_parameters(remove_duplicate=False)
    features = {name: torch.Size([axis.size]) for name, axis in net.free.items()}
    shapes = features if of == "features" else {name: p.shape for name, p in parameters}
    for name, value in found.items():
        if name not in shapes:
            kind = "axis that can be cut" if of == "features" else "parameter"
            raise ScoreError(f"The score {score.name!r} judges {name!r}, which is no {kind}.")
        if not isinstance(value, Tensor) or value.shape != shapes[name]:
            gave = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ScoreError(
                f"The score {score.name!r} gave {gave} for {name!r}; return a tensor of shape "
                f"{tuple(shapes[name])}."
            )
    return finite({name: value.detach() for name, value in found.items()})
