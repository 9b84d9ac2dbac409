"""From a task's name to the task.

    resolve("mnist")                    # a built-in task
    resolve("mine.py:task")             # the function `task` in a file
    resolve("package.module:task")      # the function `task` of an importable module

A user's own functions are not trusted to fit: the task that comes back checks what its model,
example and splits give at the moment they are called, so that no data is loaded twice.
"""

import difflib
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from widthwise.app.tasks import BUILT_IN
from widthwise.app.tasks.blame import described
from widthwise.errors import DataError, TaskError, WidthwiseError
from widthwise.measure.data import Items, Stream, adapt
from widthwise.measure.pairs import Takes, form_of, rank_of, shape_of
from widthwise.task import Splits, Task
from widthwise.train.batches import in_order, own_randomness


def resolve(name: str) -> Task:
    """The task called `name`: built in, `path/to/file.py:function` or `package.module:function`.

    Files and modules are imported, so their code runs; modules are looked for in the current
    folder too.

    Raises TaskError when there is no such task, its function fails, or it gives no Task. Calling
    the task's model, example or splits raises TaskError when they give something of another form.
    """
    if name in BUILT_IN:
        return replace(BUILT_IN[name](), reference=name)
    source, colon, function = name.rpartition(":")
    if not (colon and source and function):
        raise TaskError(_unknown(name))
    make = getattr(_load(source), function, None)
    if not callable(make):
        raise TaskError(
            f"{source} has no function {function!r}; define it there, returning a Task."
        )
    try:
        task = make()
    except WidthwiseError:
        raise
    except Exception as error:
        raise TaskError(f"{name} failed with {described(error)}; correct that function.") from error
    if not isinstance(task, Task):
        raise TaskError(f"{name} returned {_kind(task)}; return a widthwise.Task from it.")
    return replace(
        task,
        reference=name,
        model=partial(_checked_model, task.name, task.model),
        example=partial(_checked_example, task.name, task.example),
        splits=partial(_checked_splits, task),
        extra_metrics=task.extra_metrics
        and partial(_checked_extra_metrics, task.name, task.extra_metrics),
    )


def _unknown(name: str) -> str:
    if name.endswith(".py"):
        return f"{name!r} names no function; write {name}:function."
    close = difflib.get_close_matches(name, BUILT_IN, n=1)
    guess = f" (did you mean {close[0]!r}?)" if close else ""
    return (
        f"There is no task {name!r}{guess}; the built-in ones are {', '.join(BUILT_IN)}, and your"
        " own is named file.py:function or package.module:function."
    )


def _load(source: str) -> ModuleType:
    """Import a file (anything that ends in .py) or a module by its dotted name."""
    is_file = source.endswith(".py")
    path = Path(source).expanduser()
    if is_file and not path.is_file():
        raise TaskError(f"There is no file {source}; check the path before the colon.")
    _importable(path.resolve().parent if is_file else Path.cwd())
    try:
        return _run_file(path) if is_file else importlib.import_module(source)
    except Exception as error:
        raise TaskError(
            f"{source} could not be imported: {described(error)}; correct it and run again."
        ) from error


def _importable(folder: Path) -> None:
    """Let a user's file import its neighbours, as it could when run as a script.

    Last on the path, so that a neighbour called like an installed package does not hide it.
    """
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _run_file(path: Path) -> ModuleType:
    # A name of its own: two files called task.py are two modules. The same in every process, for
    # runs are known by the names of their functions.
    name = f"widthwise_task_{path.stem}"
    loaded = getattr(sys.modules.get(name), "__file__", None)
    if loaded is not None and Path(loaded) != path.resolve():
        name += f"_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up while it is being run
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _checked_model(name: str, model: Callable[[], Any]) -> torch.nn.Module:
    made = model()
    if not isinstance(made, torch.nn.Module):
        raise TaskError(
            f"model() of task {name!r} returned {_kind(made)}; return a torch.nn.Module from it."
        )
    return made


def _checked_example(name: str, example: Callable[[], Any]) -> tuple[Any, ...]:
    made = example()
    if not isinstance(made, tuple):
        raise TaskError(
            f"example() of task {name!r} returned {_kind(made)}; return a tuple of the positional"
            " inputs of forward, (x,) for a single one."
        )
    return made


def _checked_splits(task: Task) -> Splits:
    """The splits of a user's task, in the form that the commands need."""
    name, made = task.name, task.splits()
    if not isinstance(made, Splits):
        raise TaskError(
            f"splits() of task {name!r} returned {_kind(made)}; return Splits(train, valid, test)."
        )
    with own_randomness():  # looking at an item may draw numbers
        form = form_of(_checked_model(name, task.model), _checked_example(name, task.example), {})
        parts = {
            f.name: _checked_split(name, f.name, getattr(made, f.name), form) for f in fields(made)
        }
    return Splits(**parts)


def _checked_split(name: str, part: str, data: Any, form: Takes) -> Items:
    """Data of whatever form as items. Raises TaskError for data that cannot be indexed."""
    try:
        found = adapt(data, form)
        if isinstance(found, Stream):
            kind = type(found.data).__name__
            raise DataError(
                f"{kind} can only be gone through from its beginning, and commands need some of it "
                "at random; give a Dataset, or a DataLoader over one."
            )
        inputs = next(iter(in_order(found, 2, 0))).inputs
        if rank_of(inputs, form) not in (0, None):
            raise DataError(
                f"its batches have inputs of shape {shape_of(inputs)}, and example() gives "
                f"{shape_of(form.args)}; make them alike."
            )
    except DataError as error:
        raise TaskError(f"The {part} split of task {name!r} cannot be used: {error}") from error
    return found


def _checked_extra_metrics(
    name: str,
    extra_metrics: Callable[[torch.nn.Module, str], Any],
    module: torch.nn.Module,
    split: str,
) -> Mapping[str, float]:
    made = extra_metrics(module, split)
    figures = made.items() if isinstance(made, Mapping) else [(None, None)]
    if not all(isinstance(k, str) and isinstance(v, int | float) for k, v in figures):
        raise TaskError(
            f"extra_metrics() of task {name!r} returned {_kind(made)}; return numbers by their "
            'names, such as {"BLEU": 31.2}.'
        )
    return made  # type: ignore[no-any-return]  # as just checked


def _kind(value: Any) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return "None" if value is None else f"a value of type {type(value).__name__}"
