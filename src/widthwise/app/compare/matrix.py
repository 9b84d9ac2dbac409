"""A comparison: every method at every budget, for every seed, kept in a folder as it is measured.

    with Local() as engine:
        outcomes = run(read(Path("mnist.toml")), Path("comparisons/mnist"), engine)

The folder holds a file for every shared training and every unit that is done; what is there is not
done again, whatever ended the run.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from widthwise.app.compare import bases, cells
from widthwise.app.compare.bases import Base, Kind
from widthwise.app.compare.cells import Unit, units
from widthwise.app.compare.engines import Engine, Ray
from widthwise.app.compare.methods import group, grouped
from widthwise.app.compare.outcome import Outcome
from widthwise.app.compare.spec import Spec
from widthwise.common.atomic import tidy, write_whole
from widthwise.common.jsonfile import contents, sealed, unsealed
from widthwise.errors import FileError, RunError, WidthError
from widthwise.variant import Widths

_SPEC: Final = "spec.json"
_EXTENDED: Final = ("seeds", "budgets", "methods")  # of which a folder may get more

Told = Callable[[int, int, str], object]
"""(units and trainings done, of how many, what was done last)."""


def run(
    spec: Spec, folder: Path, engine: Engine, told: Told = lambda done, of, what: None
) -> list[Outcome]:
    """Train and measure what is missing in `folder`, which must be held (`folder.hold`).

    Returns all outcomes that the spec asks for, in its order. Raises RunError when the folder holds
    another comparison; TaskError, DataError, CaptureError, TrainingError, FileError.
    """
    claim(spec, folder)
    groups = grouped(spec.methods)
    every = units(spec, list(groups))
    missing = [unit for unit in every if not _unit_file(folder, unit).exists()]
    start = {unit: (group(unit.group)[0].base, unit.seed) for unit in missing}
    kinds = sorted({*start.values()})
    lacking = [pair for pair in kinds if not _base_file(folder, *pair).exists()]
    _tidy(folder)
    done, total = 0, len(lacking) + len(missing)
    shared = not isinstance(engine, Ray)  # whether workers see the folder
    given = {(k, s): (spec, k, s, _place(folder, k, s) if shared else None) for k, s in lacking}
    for (kind, seed), base in engine.run(bases.train, given):
        _store_base(folder, base)
        done += 1
        told(done, total, f"trained {kind}, seed {seed}")
    trained = {pair: _stored_base(folder, *pair, as_file=shared) for pair in kinds}
    tasks = {unit: (spec, unit, trained[start[unit]]) for unit in missing}
    for unit, outcomes in engine.run(cells.measure, tasks):
        keep(folder, unit, outcomes)
        done += 1
        told(done, total, f"{unit.name}: {_said(outcomes)}")
    return stored(spec, folder)


def stored(spec: Spec, folder: Path) -> list[Outcome]:
    """The outcomes that a folder has of those that the spec asks for. Raises FileError."""
    found: dict[tuple[str, int, int], Outcome] = {}
    for unit in units(spec, list(grouped(spec.methods))):
        path = _unit_file(folder, unit)
        if path.exists():
            found |= {outcome.key: outcome for outcome in read_outcomes(path)}
    order = [(m, b, s) for m in spec.methods for b in spec.budgets for s in range(spec.seeds)]
    return [found[key] for key in order if key in found]


def keep(folder: Path, unit: Unit, outcomes: Iterable[Outcome]) -> None:
    """Note in a folder what a unit came to. Raises FileError."""
    _write(_unit_file(folder, unit), {"outcomes": [o.to_dict() for o in outcomes]})


def read_outcomes(path: Path) -> list[Outcome]:
    """The outcomes of the file of a unit. Raises FileError."""
    data = _read(path)
    if [*data] != ["outcomes"] or not isinstance(data["outcomes"], list):
        raise _damaged(path)
    return [Outcome.from_dict(each, path) for each in data["outcomes"]]


def claim(spec: Spec, folder: Path) -> None:
    """Note in a folder what it is for. Raises RunError when that is something else, FileError."""
    path = folder / _SPEC
    new = json.loads(json.dumps(asdict(spec)))
    if path.exists():
        old = _read(path)
        for name in new:
            if name not in _EXTENDED and old.get(name) != new[name]:
                raise RunError(
                    f"{folder} holds a comparison with {name} {old.get(name)} rather than "
                    f"{new[name]}; give the same, or another --out."
                )
    _write(path, new)


def _unit_file(folder: Path, unit: Unit) -> Path:
    return folder / "units" / f"{unit.name}.json"


def _base_file(folder: Path, kind: Kind, seed: int) -> Path:
    return folder / "trained" / f"{kind}-{seed}.json"


def _place(folder: Path, kind: Kind, seed: int) -> Path:
    """Where a training keeps its checkpoints."""
    return folder / "trained" / f"{kind}-{seed}"


def _tidy(folder: Path) -> None:
    """Take away what a run that was killed left: half files, checkpoints of what is trained."""
    for name in ("trained", "units"):
        tidy(folder / name)
    for path in (folder / "trained").glob("*.json"):
        shutil.rmtree(path.with_suffix(""), ignore_errors=True)


def _store_base(folder: Path, base: Base) -> None:
    assert isinstance(base.weights, bytes)
    path = _base_file(folder, base.kind, base.seed)
    _make_folder(path.parent)
    write_whole(path.with_suffix(".safetensors"), [base.weights])
    _write(path, {"seconds": base.seconds, "levels": [dict(level) for level in base.levels]})
    shutil.rmtree(_place(folder, base.kind, base.seed), ignore_errors=True)


def _stored_base(folder: Path, kind: Kind, seed: int, *, as_file: bool) -> Base:
    path = _base_file(folder, kind, seed)
    weights = path.with_suffix(".safetensors")
    noted = _read(path)
    seconds = noted.get("seconds")
    try:
        levels = tuple(Widths(level) for level in noted.get("levels", ()))
    except (TypeError, WidthError) as error:
        raise _damaged(path) from error
    if type(seconds) is not float:
        raise _damaged(path)
    return Base(kind, seed, weights if as_file else weights.read_bytes(), seconds, levels)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(
            f"{folder} could not be made ({error.strerror or error}); free some space there or "
            "give another --out."
        ) from error


def _write(path: Path, data: Any) -> None:
    _make_folder(path.parent)
    write_whole(path, [sealed(data)])


def _read(path: Path) -> dict[str, Any]:
    try:
        data = unsealed(contents(path))
        # Files of before there was a checksum hold a list alone.
        data = {"outcomes": data} if isinstance(data, list) else data
        if not isinstance(data, dict):
            raise ValueError("no table")
    except (OSError, ValueError) as error:
        raise _damaged(path) from error
    return data


def _damaged(path: Path) -> FileError:
    return FileError(f"{path} is damaged; delete it to measure it again.")


def _said(outcomes: Iterable[Outcome]) -> str:
    return ", ".join(f"{o.metric['valid']:.4g}" if o.reached else "too large" for o in outcomes)
