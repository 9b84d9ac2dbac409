"""From a task's name to the task.

    resolve("mnist")                    # a built-in task
    resolve("mine.py:task")             # the function `task` in a file
    resolve("package.module:task")      # the function `task` of an importable module

A user's own functions are not trusted to fit: the task that comes back checks what its model,
example and splits give at the moment they are called, so that no data is loaded twice.
"""

import difflib
import importlib
import importlib.util
import itertools
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from widthwise.errors import TaskError, WidthwiseError
from widthwise.tasks import BUILT_IN
from widthwise.tasks.task import Splits, Task

_fresh = itertools.count()


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
        raise TaskError(f"{name} failed with {_told(error)}; correct that function.") from error
    if not isinstance(task, Task):
        raise TaskError(
            f"{name} returned {_kind(task)}; return a widthwise.tasks.task.Task from it."
        )
    return replace(
        task,
        reference=name,
        model=partial(_checked_model, task.name, task.model),
        example=partial(_checked_example, task.name, task.example),
        splits=partial(_checked_splits, task.name, task.splits),
        further=task.further and partial(_checked_further, task.name, task.further),
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
            f"{source} could not be imported: {_told(error)}; correct it and run again."
        ) from error


def _importable(folder: Path) -> None:
    """Let a user's file import its neighbours, as it could when run as a script.

    Last on the path, so that a neighbour called like an installed package does not hide it.
    """
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _run_file(path: Path) -> ModuleType:
    # A name of its own: two files called task.py are two modules.
    name = f"widthwise_task_{next(_fresh)}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
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


def _checked_splits(name: str, splits: Callable[[], Any]) -> Splits:
    made = splits()
    if not isinstance(made, Splits):
        raise TaskError(
            f"splits() of task {name!r} returned {_kind(made)}; return Splits(train, valid, test)."
        )
    for part in ("train", "valid", "test"):
        wrong = _wrong_form(getattr(made, part))
        if wrong:
            raise TaskError(
                f"The {part} split of task {name!r} {wrong}; give a map-style data set whose items"
                " are (inputs, target), inputs a tensor, a tuple or a dict."
            )
    return made


def _checked_further(
    name: str, further: Callable[[torch.nn.Module, str], Any], module: torch.nn.Module, split: str
) -> Mapping[str, float]:
    made = further(module, split)
    figures = made.items() if isinstance(made, Mapping) else [(None, None)]
    if not all(isinstance(k, str) and isinstance(v, int | float) for k, v in figures):
        raise TaskError(
            f"further() of task {name!r} returned {_kind(made)}; return numbers by their names,"
            ' such as {"BLEU": 31.2}.'
        )
    return made  # type: ignore[no-any-return]  # as just checked


def _wrong_form(data: Any) -> str | None:
    """What is wrong with a data set, judged by its length and first item; None when nothing is."""
    try:
        if len(data) == 0:
            return "is empty"
        item = data[0]
    except Exception as error:  # noqa: BLE001 - a user's data set may raise anything
        return f"cannot be indexed ({_told(error)})"
    if not (isinstance(item, tuple | list) and len(item) == 2):
        return f"has {_kind(item)} as its first item"
    if not isinstance(item[0], Tensor | tuple | dict):
        return f"has {_kind(item[0])} as the inputs of its first item"
    return None


def _kind(value: Any) -> str:
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return "None" if value is None else f"a value of type {type(value).__name__}"


def _told(error: Exception) -> str:
    """An exception in one line."""
    return " ".join(f"{type(error).__name__}: {error}".rstrip(": ").split())
