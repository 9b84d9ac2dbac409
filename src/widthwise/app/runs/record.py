"""What run.json says: the settings that decide the trained weights, and how far the run came.

difference(old, new)          # "lr 0.1 rather than 0.2"; "" where two runs are the same
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import Any, Final, Literal

import torch

from widthwise.common.checks import need
from widthwise.graph.constraints import Constraints
from widthwise.train.history import Epoch
from widthwise.train.identity import differences
from widthwise.variant import Widths
from widthwise.version import VERSION

Status = Literal["running", "interrupted", "finished"]

State = Literal["new", "continued", "longer", "finished"]

_TOLD: Final = 4  # differences of a task

ORDERED: Final = "ordered"  # the method of a run that no training made


@dataclass(frozen=True)
class Settings:
    """What decides the trained weights: two runs of equal settings are the same run.

    task: as `resolve` takes it. method: how widths are drawn, or ORDERED. recipe: the fields of
    `Recipe`, none for an ordered run. source: the SHA-256 of the file of weights that the run
    started from, "" for new ones. order: of an ordered run, and of a training that started from one
    and draws its widths by the scores, the score and the number of samples. pruning: the fields of
    `Gradual`, none for a dense run. parts: of a training, what the task's model, data and loss are
    (`train.identity`), so that a task that was changed is another; none where that was not noted.
    constraints: the fields of `Constraints`, none where there are none. distillation: how narrow
    widths learn from the full one, as `tasks.objectives.DISTILLATIONS` has it.
    """

    task: str
    method: str
    seed: int
    recipe: Mapping[str, Any]
    source: str = ""
    order: Mapping[str, Any] = field(default_factory=dict)
    pruning: Mapping[str, Any] = field(default_factory=dict)
    parts: Mapping[str, Any] = field(default_factory=dict)
    constraints: Mapping[str, Any] = field(default_factory=dict)
    distillation: str = "auto"


@dataclass(frozen=True)
class Record:
    """What run.json says.

    command: as it was typed. draw: the fields of `Draw`, empty for an ordered run.
    versions: of what ran. started, finished: UTC, ISO 8601. metric: its name.
    results: split -> metric of the full network, once the run is finished.
    source: the file of weights that the run started from, "" for none. levels: the widths that it
    was trained along, from narrow to full. history: the fields of `Epoch`, of every epoch; none
    of an ordered run. extra_metrics: the task's, of the full network on the test split.
    """

    settings: Settings
    command: str
    draw: Mapping[str, Any]
    status: Status
    started: str
    finished: str | None = None
    metric: str = ""
    results: Mapping[str, float] = field(default_factory=dict)
    source: str = ""
    levels: Sequence[Mapping[str, int]] = ()
    history: Sequence[Mapping[str, Any]] = ()
    extra_metrics: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=lambda: dict(_versions()))


def constraints_of(settings: Settings) -> Constraints:
    """What the run's axes must fulfil. Raises TypeError, ValueError for what is none."""
    return Constraints(**settings.constraints)


def longer(old: Settings, new: Settings) -> bool:
    """Whether these are the settings of a run with more epochs; one that prunes is at its end."""
    before, now = (each.recipe.get("epochs", 0) for each in (old, new))
    same = replace(new, recipe={**new.recipe, "epochs": before})
    return now > before and not new.pruning and not difference(old, same)


def now() -> str:
    """The time in UTC to the second, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _versions() -> Iterator[tuple[str, str]]:
    yield "python", platform.python_version()
    yield "torch", torch.__version__
    yield "widthwise", VERSION


def difference(old: Settings, new: Settings) -> str:
    """What two settings differ in, as 'lr 0.1 rather than 0.2'; "" for nothing."""
    if old.method != new.method and ORDERED in (old.method, new.method):
        # Everything else differs as well.
        return f"method {old.method} rather than {new.method}"
    flat_old, flat_new = _flat(old), _flat(new)
    names = [n for n in {**flat_old, **flat_new} if flat_old.get(n) != flat_new.get(n)]
    said = (
        (n, *((_short(f[n]) if n == "source" else f.get(n)) for f in (flat_old, flat_new)))
        for n in names
    )
    plain = [f"{name} {a} rather than {b}" for name, a, b in said]
    known = old.parts and new.parts
    other = differences(_plain(old.parts), _plain(new.parts)) if known else []
    if len(other) > _TOLD:
        other = [*other[:_TOLD], f"{len(other) - _TOLD} more"]
    return ", ".join([*plain, *([f"another task now ({', '.join(other)})"] if other else [])])


def _short(source: str) -> str:
    return f"{source[:12]}..." if source else "none"


def _flat(settings: Settings) -> dict[str, Any]:
    tables = ("recipe", "order", "pruning", "parts", "constraints")
    own = {f.name: getattr(settings, f.name) for f in fields(Settings) if f.name not in tables}
    pruning = {f"pruning {name}": value for name, value in _plain(settings.pruning).items()}
    constraints = {f"constraint {n}": v for n, v in _plain(settings.constraints).items()}
    return own | _plain(settings.recipe) | _plain(settings.order) | pruning | constraints


def _plain(data: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON gives it back, so that what is read compares equal to what was written."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(data)))
    return plain


def read_record(data: Any) -> Record:
    """A record from JSON. Raises ValueError, TypeError or KeyError for anything else."""
    settings = Settings(**data["settings"])
    levels = tuple(data.get("levels", ()))
    history = tuple(data.get("history", ()))
    record = Record(**{**data, "settings": settings, "levels": levels, "history": history})
    need(record.finished is None or isinstance(record.finished, str), "a time")
    words = [settings.task, settings.method, record.command, record.started, record.metric]
    words += [settings.source, record.source]
    need(all(isinstance(w, str) for w in (*words, *record.versions.values())), "a text")
    need(type(settings.seed) is int, "the seed")
    tables = [settings.recipe, settings.order, settings.pruning, settings.parts]
    tables += [settings.constraints, record.draw]
    need(all(isinstance(t, dict) for t in tables), "a table")
    constraints_of(settings)
    ordered = settings.order.keys() == {"score", "samples"}
    need(ordered or not settings.order, "how it was ordered")
    need(ordered or settings.method != ORDERED, "how it was ordered")
    need(record.status in ("running", "interrupted", "finished"), "the status")
    need(all(type(v) is float for v in record.results.values()), "a result")
    need(all(Widths(level) is not None for level in record.levels), "a level")
    need(isinstance(record.extra_metrics, dict), "extra metrics")
    need(all(type(v) in (int, float) for v in record.extra_metrics.values()), "an extra metric")
    need(all(Epoch(**epoch) is not None for epoch in record.history), "an epoch")
    return record
