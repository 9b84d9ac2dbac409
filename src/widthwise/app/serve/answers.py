"""What a network says of an example: its answer, how sure it is, and what else it considered.

answer(module, gallery, inputs, target)       # of a batch of one
where_they_differ(small, full, gallery)       # on the first test examples
"""

from typing import Any, Final

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from widthwise.app.serve.examples import PAGE, Examples, Gallery, spot
from widthwise.common.calling import outputs_for
from widthwise.common.modes import evaluating
from widthwise.errors import DataError

_TOP: Final = 3
_FEW: Final = 8  # numbers that can be shown as they are
LOOKED_AT: Final = 500
_AT_ONCE: Final = 100


class Candidate(BaseModel):
    """An answer. share: the probability that the network gives it, 0..1."""

    label: str
    share: float


class Answer(BaseModel):
    """What a network says. right: null where nothing is known to be. top: the likeliest first."""

    label: str
    right: bool | None
    top: list[Candidate]


class Differences(BaseModel):
    """On how many of the first test examples only one of two networks is right.

    lost: those that only the full network gets. gained: those that only the smaller one gets.
    examples: some of the former.
    """

    looked_at: int
    lost: int
    gained: int
    examples: Examples


def answer(module: nn.Module, gallery: Gallery, inputs: Any, target: Any = None) -> Answer:
    """What a network says of a batch of one; target: what is right, None where that is unknown."""
    with evaluating(module):
        outputs = outputs_for(module, inputs)
    scores = outputs[0] if isinstance(outputs, (tuple, list)) else outputs
    if not isinstance(scores, Tensor):
        return Answer(label="(cannot be shown)", right=None, top=[])
    scores = scores[0].float()
    if gallery.kind == "text" and isinstance(target, Tensor) and scores.dim() == 2:
        return _likeliest(scores[spot(target)], gallery, gallery.label(target), as_words=True)
    known = isinstance(target, Tensor)
    if scores.dim() == 1 and len(scores) > 1 and not (known and target.is_floating_point()):
        return _likeliest(scores, gallery, gallery.label(target) if known else None)
    if scores.numel() > _FEW:
        return Answer(label=f"{scores.numel()} numbers", right=None, top=[])
    said = ", ".join(f"{value:.4g}" for value in scores.flatten().tolist())
    return Answer(label=said, right=None, top=[])


def where_they_differ(small: nn.Module, full: nn.Module, gallery: Gallery) -> Differences:
    """Which test examples only one of two networks gets right, of the first in the gallery's order.

    Raises DataError where the outputs are no scores of classes.
    """
    looked_at = gallery.order[:LOOKED_AT]
    lost, gained = [], 0
    for begin in range(0, len(looked_at), _AT_ONCE):
        numbers = looked_at[begin : begin + _AT_ONCE]
        inputs, target = gallery.batch(numbers)
        right = [_right(module, inputs, target) for module in (small, full)]
        lost += [numbers[i] for i in (right[1] & ~right[0]).nonzero().flatten().tolist()]
        gained += int((right[0] & ~right[1]).sum())
    examples = gallery.some(lost[:PAGE])
    return Differences(looked_at=len(looked_at), lost=len(lost), gained=gained, examples=examples)


def _right(module: nn.Module, inputs: Any, target: Any) -> Tensor:
    """Which examples of a batch (B,) are classified rightly."""
    with evaluating(module):
        outputs = outputs_for(module, inputs)
    fits = isinstance(outputs, Tensor) and isinstance(target, Tensor)
    if not fits or outputs.dim() != 2 or target.shape != outputs.shape[:1]:
        raise DataError("These are no classes that could be compared; look at single examples.")
    right: Tensor = outputs.argmax(1) == target
    return right


def _likeliest(
    scores: Tensor, gallery: Gallery, right: str | None, *, as_words: bool = False
) -> Answer:
    shares, classes = _probabilities(scores).topk(min(_TOP, len(scores)))
    names = [gallery.words(c) if as_words else gallery.name(int(c)) for c in classes]
    top = [
        Candidate(label=name, share=share)
        for name, share in zip(names, shares.tolist(), strict=True)
    ]
    return Answer(label=names[0], right=None if right is None else names[0] == right, top=top)


def _probabilities(scores: Tensor) -> Tensor:
    """Scores (C,) as probabilities; what is one already stays."""
    is_one = bool((scores >= 0).all()) and abs(float(scores.sum()) - 1) < 1e-3
    return scores if is_one else torch.softmax(scores, 0)
