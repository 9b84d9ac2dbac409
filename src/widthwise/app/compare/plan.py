"""What is compared, and what was measured, as data.

Plan("mnist", Recipe(epochs=10))            # four ladders of mnist, one seed
cell = Cell("sparse", 0.9, 0, ...)          # one network of them: 90 % zeros, seed 0
save(path, plan, cells); cells = load(path, plan)
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from widthwise.common.atomic import write_whole
from widthwise.common.jsonfile import contents, sealed, unsealed
from widthwise.errors import FileError, RunError
from widthwise.pruning.gradual import Gradual
from widthwise.train.recipe import Recipe


class Kind(StrEnum):
    """How a line of smaller networks comes about.

    DENSE: every width trained by itself, from new weights ("small-dense").
    SPARSE: the full width pruned gradually, a training for every sparsity ("large-sparse").
    ELASTIC: one training, cut to every width.
    ELASTIC_SPARSE: one elastic training that is pruned gradually, cut to every width.
    """

    DENSE = "dense"
    SPARSE = "sparse"
    ELASTIC = "elastic"
    ELASTIC_SPARSE = "elastic-sparse"


@dataclass(frozen=True)
class Plan:
    """What decides the networks of all ladders.

    task: as `resolve` takes it. recipe: of every training. pruning: of those that are pruned; its
    sparsity is the elastic-sparse ladder's. lowest: the smallest fraction that elastic
    training draws.

    Raises ValueError for a fraction outside (0, 1].
    """

    task: str
    recipe: Recipe
    pruning: Gradual = field(default_factory=lambda: Gradual(0.8))
    lowest: float = 0.125

    def __post_init__(self) -> None:
        if not 0 < self.lowest <= 1:
            raise ValueError(f"The lowest fraction is {self.lowest}; give one above 0, at most 1.")


@dataclass(frozen=True)
class Cell:
    """One network: what it is, what its file takes, how good the network read from it is.

    amount: the fraction of every axis that is kept; for SPARSE the sparsity.
    bytes: of its file. accounted: of the same by the formula of Zhu & Gupta (2017).
    nonzero, params: numbers of its parameters. metric: by split. further: the task's further
    figures on the test data. seconds: of the training that it came from, by the processor; an
    interrupted one is counted from its start.
    """

    kind: str
    amount: float
    seed: int
    bytes: int
    published_bytes: int
    nonzero: int
    params: int
    metric: Mapping[str, float]
    extra_metrics: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def key(self) -> tuple[str, float, int]:
        """What sets it apart from other cells of a plan."""
        return self.kind, self.amount, self.seed


def save(path: Path, plan: Plan, cells: Sequence[Cell]) -> None:
    """Write plan and cells as JSON. Raises FileError."""
    body = {"plan": asdict(plan), "cells": [asdict(cell) for cell in cells]}
    write_whole(path, [sealed(body)])


def load(path: Path, plan: Plan | None = None) -> list[Cell]:
    """The cells that were measured; none where there is no file.

    plan: the one that they must be of. Raises FileError for a damaged file, RunError for another
    plan.
    """
    if not path.exists():
        return []
    try:
        body = unsealed(contents(path))
        cells, old = [Cell(**cell) for cell in body["cells"]], body["plan"]
        if {*body} != {"plan", "cells"} or not isinstance(old, dict) or not all(map(_right, cells)):
            raise ValueError("its cells are no cells")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise FileError(
            f"{path} is damaged or was not written by this version of widthwise; give another "
            "folder, or delete it to start over."
        ) from error
    if plan is not None:
        _same(old, json.loads(json.dumps(asdict(plan))), path)
    return cells


def _right(cell: Cell) -> bool:
    """Whether everything is of its type."""
    tables = (cell.metric, cell.extra_metrics)
    if not all(isinstance(table, dict) for table in tables):
        return False
    counts = (cell.bytes, cell.published_bytes, cell.nonzero, cell.params)
    return (
        isinstance(cell.kind, str)
        and type(cell.seed) is int
        and all(type(n) is int and n >= 0 for n in counts)
        and all(
            type(n) in (int, float)
            for n in (cell.amount, cell.seconds, *(n for t in tables for n in t.values()))
        )
    )


def _same(old: Mapping[str, Any], new: Mapping[str, Any], path: Path) -> None:
    flat_old, flat_new = _flat(old), _flat(new)
    for name in flat_old.keys() | flat_new.keys():
        a, b = flat_old.get(name), flat_new.get(name)
        if a != b:
            raise RunError(
                f"{path} holds ladders with {name} {a} rather than {b}; give the same, or another "
                "--out."
            )


def _flat(plan: Mapping[str, Any]) -> dict[str, Any]:
    tables = [v for v in plan.values() if isinstance(v, dict)]
    flat = {name: v for name, v in plan.items() if not isinstance(v, dict)}
    for table in tables:
        flat |= table
    return flat
