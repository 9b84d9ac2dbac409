"""Shells: what each of several nested widths adds to the one below, entry by entry.

A tensor pruned as a whole is not as sparse at every width: features in front matter more, so most
zeros lie behind. Pruned shell by shell, every level has the same share of zeros.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from widthwise.elastic.network import Elastic
from widthwise.errors import WidthError
from widthwise.graph.rewrite import keeper
from widthwise.graph.slicing import layout, positions
from widthwise.variant import AnyWidths


def shells(net: Elastic, levels: Sequence[AnyWidths]) -> dict[str, Tensor]:
    """For every parameter, the narrowest level that has each entry: uint8, of the tensor's shape.

    levels: widths from narrow to wide, each at least as wide as the one before on every axis; full
    width follows them. Raises WidthError for levels that are not nested, or more than 254.
    """
    complete = [net.complete(w) for w in levels]
    full = net.full()
    if not complete or dict(complete[-1]) != dict(full):
        complete.append(full)
    if len(complete) > 255:
        raise WidthError(f"{len(complete)} levels are too many; give at most 254.")
    for narrow, wide in pairwise(complete):
        wrong = next((name for name in narrow if narrow[name] > wide[name]), None)
        if wrong is not None:
            raise WidthError(
                f"A level keeps {narrow[wrong]} features of {wrong!r} and a later one only "
                f"{wide[wrong]}; give levels from narrow to wide that lie inside each other."
            )
    found: dict[str, Tensor] = {}
    for name, parameter in net.model.named_parameters():
        if name in net.engine.relations.state:
            found[name] = _of(net, name, parameter.shape, complete)
    return found


def _of(
    net: Elastic, name: str, shape: torch.Size, complete: Sequence[Mapping[str, int]]
) -> Tensor:
    shell = torch.full(shape, len(complete) - 1, dtype=torch.uint8)
    for number in reversed(range(len(complete) - 1)):
        keep = keeper(net.engine.table, complete[number])
        inside = torch.ones(1, dtype=torch.bool)
        for dim, term in enumerate(net.engine.relations.state[name]):
            there = torch.zeros(shape[dim], dtype=torch.bool)
            there[positions(layout(term, keep))] = True
            inside = inside & there.view([-1 if d == dim else 1 for d in range(len(shape))])
        shell[inside.expand(shape)] = number
    return shell
