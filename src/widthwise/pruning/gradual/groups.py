"""Which weights are ranked together, and by which schedule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from widthwise.errors import ScoreError
from widthwise.pruning.gradual.compete import Scope, lowest_by_lamp
from widthwise.pruning.gradual.schedule import Schedule
from widthwise.pruning.gradual.select import lowest


@dataclass(frozen=True)
class Group:
    """Weights that compete with each other.

    entries: by tensor, which of its entries belong here, int64 places in the flattened tensor;
        None for all.
    adaptive: whether they compete by `lamp` rather than by what they are.
    """

    entries: Mapping[str, Tensor | None]
    schedule: Schedule
    adaptive: bool = False

    def kept(self, weights: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        """Which of its entries stay: by tensor, bool, those entries in order.

        weights: by tensor, whole. Exactly the share that the schedule says goes, rounded to a
        number of weights. Raises ScoreError when nothing is left of a tensor.
        """
        sparsity = self.schedule.sparsity(step)
        values = [_those(weights[name], inside).abs() for name, inside in self.entries.items()]
        sizes = [len(v) for v in values]
        count = round(sparsity * sum(sizes))
        if self.adaptive:
            pieces = lowest_by_lamp(values, count)
        else:
            pieces = list(lowest(torch.cat(values), count).split(sizes))
        left = [gone.logical_not_() for gone in pieces]  # quicker than ~
        found = dict(zip(self.entries, left, strict=True))
        empty = next(
            (n for n, inside in self.entries.items() if inside is None and not found[n].any()), None
        )
        if empty is not None:
            raise nothing_left(empty, sparsity)
        return found


def _those(values: Tensor, inside: Tensor | None) -> Tensor:
    flat = values.detach().flatten()
    return flat if inside is None else flat.index_select(0, inside.to(flat.device))


def groups(
    tensors: Sequence[str],
    schedule: Schedule,
    scope: Scope,
    each: Mapping[str, Schedule],
    shells: Mapping[str, Tensor],
) -> Iterator[Group]:
    """The groups of a pruner, whose arguments these are; shells: by tensor, none for one shell."""
    together = [name for name in dict.fromkeys(tensors) if name not in each]
    blocks = [[name] for name in together] if scope == "layer" or not together else [together]
    planned = [(names, schedule) for names in blocks]
    planned += [([name], own) for name, own in each.items()]
    for names, plan in planned:
        adaptive = scope == "lamp" and len(names) > 1
        if not shells:
            yield Group(dict.fromkeys(names), plan, adaptive)
            continue
        for number in sorted({int(s) for name in names for s in shells[name].unique()}):
            inside = {n: (shells[n] == number).flatten().nonzero().squeeze(1) for n in names}
            there = {name: some for name, some in inside.items() if len(some)}
            yield Group(there, plan, adaptive)


def check(group: Group, sizes: Mapping[str, int]) -> None:
    """Raise ScoreError where the end of the schedule would leave nothing of a tensor."""
    (name, inside), *others = group.entries.items()
    count = sizes[name] if inside is None else len(inside)
    if not others and round(group.schedule.final * count) == count:
        raise nothing_left(name, group.schedule.final)


def nothing_left(name: str, sparsity: float) -> ScoreError:
    """For a tensor that would be zero as a whole."""
    return ScoreError(
        f"At a sparsity of {sparsity:.4g} nothing is left of {name!r}, or of its narrowest width; "
        "leave it dense with tensors=, give it a schedule of its own with each=, or a scope of "
        '"layer".'
    )
