"""What a comparison compares, from a short readable file.

task = "mnist"
budgets = ["2kB", "10kB", "50kB"]     # of stored bytes, for every method
seeds = 3                             # trainings of everything, 0, 1, 2
epochs = 10                           # of every training; the task's own when left out
fine_tune = 3                         # epochs of every fine-tuning and post-processing
trials = 60                           # of a search, for every budget
examples = 10_000                     # to train on, drawn once; all when left out
scope = "global"                      # how magnitudes of weights compete; "lamp" when left out
methods = ["elastic*", "small-dense*", "search"]     # all that there are when left out

spec = read(Path("mnist.toml"))
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

from widthwise.app.runs.postprocessing import fine_tuning
from widthwise.common.jsonfile import contents
from widthwise.common.units import parse_size
from widthwise.errors import BudgetError, TaskError, or_rather
from widthwise.pruning.gradual.compete import Scope
from widthwise.task import Task
from widthwise.train.recipe import Recipe

_LARGEST: Final = 64 * 1024  # bytes of a file
_LARGEST_KEY: Final = 1000  # dots in a line
_COUNTS: Final = ("seeds", "epochs", "fine_tune", "trials", "examples")


@dataclass(frozen=True)
class Spec:
    """What decides every number of a comparison.

    task: as `resolve` takes it. budgets: bytes, ascending. methods: names in
    `METHODS`, or what a file says of them, which `methods.chosen` makes names of.
    epochs: None for the task's recipe. examples: None for all. scope: as `keep` takes it,
    of weights judged by magnitude. The others as in the file.
    """

    task: str
    budgets: tuple[int, ...]
    seeds: int = 3
    epochs: int | None = None
    fine_tune: int = 3
    trials: int = 60
    examples: int | None = None
    scope: Scope = "lamp"
    methods: tuple[str, ...] = ("*",)

    def recipe(self, task: Task) -> Recipe:
        """The recipe of every training."""
        return replace(task.recipe, epochs=self.epochs or task.recipe.epochs)

    def tuning(self, task: Task) -> Recipe:
        """Recipe for fine-tuning after a cut or a pruning: at the full learning rate."""
        return replace(task.recipe, epochs=self.fine_tune)

    def settling(self, task: Task) -> Recipe:
        """Recipe for quantization-aware training of an uncut network: a tenth of the rate."""
        return fine_tuning(task.recipe, self.fine_tune)


def read(path: Path) -> Spec:
    """The spec in a TOML file. Raises TaskError in one sentence that says what to mend."""
    try:
        return made(tomllib.loads(_text(path)))
    except OSError as error:
        raise TaskError(f"{path} cannot be read ({error.strerror}); give a TOML file.") from error
    except UnicodeDecodeError as error:
        raise TaskError(f"{path} is no text; give a TOML file.") from error
    except tomllib.TOMLDecodeError as error:
        raise TaskError(f"{path} is no TOML ({error}); mend that line.") from error
    except (ValueError, RecursionError) as error:
        raise TaskError(f"{path} is larger or deeper than a comparison; mend it.") from error
    except (TaskError, BudgetError) as error:
        raise TaskError(f"{path}: {error}") from error


def _text(path: Path) -> str:
    """Raises OSError, and ValueError for what is no text or would take long to read."""
    text = contents(path, _LARGEST).decode("utf-8").replace("\r\n", "\n")
    # A key of n names takes n squared steps.
    if max(line.count(".") for line in text.split("\n")) > _LARGEST_KEY:
        raise ValueError("a key of too many names")
    return text


def made(data: Mapping[str, Any]) -> Spec:
    """A spec from what a file says. Raises TaskError, BudgetError."""
    names = [f.name for f in fields(Spec)]
    for name in data:
        if name not in names:
            raise TaskError(f"There is no setting {name!r}{or_rather(name, names)}")
    for name in ("task", "budgets"):
        if name not in data:
            raise TaskError(f"It lacks {name}; see: widthwise compare --help")
    if not isinstance(data["task"], str):
        raise TaskError(f"task is {data['task']!r}; give the name of a task.")
    for name in _COUNTS:
        if name in data and (type(data[name]) is not int or data[name] < 1):
            raise TaskError(f"{name} is {data[name]!r}; give a whole number of at least 1.")
    if data.get("scope", "lamp") not in ("global", "lamp"):
        raise TaskError(f"scope is {data['scope']!r}; give 'global' or 'lamp'.")
    given = {name: data[name] for name in ("task", "scope", *_COUNTS) if name in data}
    budgets = tuple(sorted({parse_size(b) for b in _listed("budgets", data["budgets"])}))
    if "methods" in data:
        given["methods"] = tuple(map(str, _listed("methods", data["methods"])))
    return Spec(budgets=budgets, **given)


def _listed(name: str, value: Any) -> Sequence[Any]:
    if not isinstance(value, list) or not value:
        raise TaskError(f"{name} is {value!r}; give a list with at least one entry.")
    return value
