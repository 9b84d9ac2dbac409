"""The task that a file says it was made by.

    without_folder("/home/ada/mine.py:task")                # "mine.py:task", as files note it
    task_of(manifest.task, Path("small.safetensors"))       # with its folder, if it is near

A file may come from anywhere, so what it says is not run: a built-in task is taken by its name, and
a user's only where a file of that name lies beside it or in the current folder, imports widthwise
and defines that function.
"""

from __future__ import annotations

import ast
from pathlib import Path

from widthwise.app.tasks import BUILT_IN
from widthwise.errors import TaskError


def without_folder(reference: str) -> str:
    """A task as files note it: the folder of a task's file is left out."""
    source, colon, function = reference.rpartition(":")
    return f"{Path(source).name}{colon}{function}" if source.endswith(".py") else reference


def task_of(noted: str, file: Path) -> str:
    """What `resolve` takes for the task that a file notes. Raises TaskError.

    noted: `Manifest.task`, "" for nothing. file: the network's, in messages; the task's file is
    looked for beside it and in the current folder.
    """
    if noted in BUILT_IN:
        return noted
    if not noted:
        raise TaskError(f"{file} does not say what task it is of; give it, such as --task digits.")
    source, _, function = noted.rpartition(":")
    if not source.endswith(".py") or Path(source).name != source:
        raise TaskError(
            f"{file} was made by the task {noted}, which is not run without your word; give it "
            f"with --task {noted}."
        )
    for folder in (file.resolve().parent, Path.cwd()):
        path = folder / source
        if path.is_file() and _defines(path, function):
            return f"{path}:{function}"
    raise TaskError(
        f"{file} was made by the task {noted}, and no such file with that function lies beside it "
        f"or in the current folder; give it with --task PATH/{noted}."
    )


def _defines(path: Path, function: str) -> bool:
    """Whether a Python file imports widthwise and has a function of this name; nothing is run."""
    try:
        body = ast.parse(path.read_bytes()).body
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    nodes = list(ast.walk(ast.Module(body, [])))
    modules = [n.module or "" for n in nodes if isinstance(n, ast.ImportFrom)]
    modules += [a.name for n in nodes if isinstance(n, ast.Import) for a in n.names]
    functions = {n.name for n in body if isinstance(n, ast.FunctionDef)}
    return function in functions and any(m.partition(".")[0] == "widthwise" for m in modules)
