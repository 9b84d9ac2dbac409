"""One training of a whole family of networks, along levels that its own scores choose.

    loss = FamilyLoss(net, F.cross_entropy)
    fit(net, train, loss, recipe=Recipe(epochs=20))    # as fit(net, train, F.cross_entropy, ...)
    net.levels                                         # the widths it was trained at, narrow first

1. *Warm-up*: the full network is trained alone, for a quarter of the epochs.
2. *Levels*: its features are scored (`pruning.output_error`) and put in order, and the widths
   of every axis are allocated by the scores, at sizes from 1/500 of the parameters to all.
3. *Elastic epochs*: the full network and a drawn level take turns, step by step; a level learns
   half from the targets and half from what the full network gives for the same batch.

Equal shares of every layer are the wrong family: layers differ in what they need. Each step trains
one width, so that a training takes about as long as one of the full network alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

from torch import Tensor

from widthwise import pruning
from widthwise.elastic.network import Elastic
from widthwise.sampling.draws import Sandwich
from widthwise.train.criteria import Criterion, one_number
from widthwise.train.losses import Objective, SandwichLoss, name_of, run_at
from widthwise.train.ranks import spread
from widthwise.train.teaching import HALF, Distill, DistillLoss
from widthwise.variant import AnyWidths, Widths

LEVELS: Final = 24
LOWEST: Final = 1 / 500  # of the parameters
WARM_UP: Final = 0.25  # of the epochs
_ONE: Final = Sandwich(2, narrowest=False)  # the full width, and a level that it teaches


class FamilyLoss(Objective):
    """The loss of a training along levels: of the full network first, then of the levels.

    `fit` goes from the first to the second by itself. In a loop of your own, call `choose_levels`
    between the two, and make a new optimizer, since the features change places:

        loss = FamilyLoss(net, F.cross_entropy)
        ...                                  # a few epochs of loss(inputs, target): the full width
        loss.choose_levels(batches)          # 2,000 training items do
        ...                                  # the other epochs of loss(inputs, target)

    Args:
        net: the network to train. Its `levels` are set by `choose_levels`.
        criterion: (outputs, target) -> mean loss of a batch, a 0-dim tensor.
        distill: how levels learn from the full width; None gives them the criterion alone.
        distill_loss: as for `SandwichLoss`.
        levels: number of levels, each the same factor above the last in parameters.
        lowest: fraction of the parameters that the narrowest level keeps, or the least possible.
        warm_up: fraction of the epochs in which `fit` trains the full width alone, at least one
            epoch where there are two; 0 for a network that is trained already.
        passes: which widths a step trains together; None trains one, the full width and a level in
            turns.

    Raises:
        ValueError: for numbers out of range.
        ScoreError: from `choose_levels`.
        TrainingError: when called, as `SandwichLoss`.

    References:
        Yu & Huang, "Universally Slimmable Networks", 2019 (steps of several widths); Cai et al.,
        "Once-for-All", 2020 (the full width first).
    """

    def __init__(
        self,
        net: Elastic,
        criterion: Criterion,
        *,
        distill: Distill | None = HALF,
        distill_loss: DistillLoss | None = None,
        levels: int = LEVELS,
        lowest: float = LOWEST,
        warm_up: float = WARM_UP,
        passes: Sandwich | None = None,
    ) -> None:
        if isinstance(levels, bool) or not isinstance(levels, int) or levels < 2:
            raise ValueError(f"levels is {levels!r}; give an integer of at least 2.")
        if not 0 < lowest < 1:
            raise ValueError(f"lowest is {lowest}; give a fraction between 0 and 1.")
        if not 0 <= warm_up < 1:
            raise ValueError(f"warm_up is {warm_up}; give a fraction from 0 to below 1.")
        self.net = net
        self.criterion = criterion
        self.distill = distill
        self.distill_loss = distill_loss
        self.count = levels
        self.lowest = lowest
        self.warm_up = warm_up
        self.passes = passes
        self.levels: tuple[Widths, ...] = ()
        self._steps: SandwichLoss | None = None  # None while the full width is trained alone

    def choose_levels(self, batches: Sequence[tuple[Any, Any]]) -> None:
        """Score the features on these batches, put them in order, and choose the levels.

        What the network computes does not change; its `levels` are the chosen ones, and so is what
        the next calls train. All processes of a distributed training call it together.

        Args:
            batches: (inputs, target) of training data, on the device of the network.

        Raises:
            ScoreError: when there is no batch, or the loss does not depend on the network.
        """
        net = self.net
        scores = pruning.output_error(net, batches, self.criterion)
        spread(scores.values())  # processes might round differently
        moved = pruning.order_(net, scores)
        scores = {name: value[moved[name].to(value.device)] for name, value in scores.items()}
        self.train_along(
            pruning.allocated_levels(net, scores, self.count, lowest=self.lowest, drawn=False)
        )

    def train_along(self, levels: Sequence[AnyWidths]) -> None:
        """Train these widths from now on, narrow ones first; the full width is always trained."""
        net = self.net
        net.levels = tuple(net.complete(w) for w in levels)
        narrow = [w for w in net.levels if w != net.full()]
        self.levels = net.levels
        self._steps = (
            SandwichLoss(
                net,
                self.criterion,
                passes=self.passes or _ONE,
                distill=self.distill,
                distill_loss=self.distill_loss,
                emphasis=0.0,
                levels=narrow,
            )
            if narrow
            else None
        )

    def warm_up_epochs(self, epochs: int) -> int:
        """How many of these epochs `fit` trains the full width alone."""
        return min(max(1, round(self.warm_up * epochs)), epochs - 1) if self.warm_up else 0

    def __call__(self, inputs: Any, target: Any) -> Tensor:
        taught = self.passes is not None or self.net.step % 2 == 1
        if self._steps is None or not taught:
            self.net.step += 1
            return one_number(self.criterion(run_at(self.net, inputs, Widths()), target))
        if self.passes is None:
            return self._steps.taught(inputs, target)
        return self._steps(inputs, target)

    def settings(self) -> dict[str, Any]:
        return {
            "loss": "family",
            "criterion": name_of(self.criterion),
            "distill": None if self.distill is None else asdict(self.distill),
            "distill_loss": None if self.distill_loss is None else name_of(self.distill_loss),
            "number_of_levels": self.count,
            "lowest": self.lowest,
            "warm_up": self.warm_up,
            "passes": None if self.passes is None else asdict(self.passes),
            "levels": [dict(w) for w in self.levels],
        }
