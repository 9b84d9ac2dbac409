"""Where trained weights come from: a run folder, a safetensors file, or the task itself.

    source = find(task, Path("runs/x"))      # or a file, or None for the task's own weights
    model = model_of(task, source)

A source goes by the SHA-256 of its file, so that other weights under the same name are another
source.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
from safetensors import SafetensorError
from torch import Tensor, nn

from widthwise.app.runs.folder import single
from widthwise.app.tasks.weights import filled, foreign, misfit
from widthwise.errors import DataError, FileError, RunError, TaskError
from widthwise.store.file import load, read
from widthwise.store.manifest import Manifest
from widthwise.task import Task

_CURE = "give the full network's weights with --from, or the task that they are of"


@dataclass(frozen=True)
class Source:
    """A safetensors file of trained weights.

    sha256: of its bytes, as 64 hexadecimal digits. order, scores: of a run that has scores, how it
    was ordered, as its settings say, and the file with them.
    """

    file: Path
    sha256: str
    order: Mapping[str, Any] = field(default_factory=dict)
    scores: Path | None = None


def find(task: Task, given: Path | None = None) -> Source:
    """The file of weights that `given` stands for: itself, or the network of a finished run.

    given: None for the weights that come with the task. Raises TaskError when there are none,
    RunError, and what `model_of` raises, so that a source which was found can be used.
    """
    order: Mapping[str, Any] = {}
    scores: Path | None = None
    if given is None:
        if task.weights is None:
            raise TaskError(
                f"Task {task.name!r} comes without trained weights; give some with --from "
                f"FILE_OR_RUN, such as a run made by: widthwise train {task.name} --out RUN"
            )
        file = task.weights()
    elif given.is_dir():
        run = single(given)
        order = run.finished_record().settings.order
        file, scores = run.model, run.scores if order else None
    elif given.exists():
        file = given
    else:
        raise FileError(
            f"There is no file or folder {given}; give a safetensors file, or the folder of a "
            "finished run, with --from."
        )
    try:
        with file.open("rb") as data:
            digest = hashlib.file_digest(data, "sha256").hexdigest()
    except OSError as error:
        raise FileError(
            f"{file} cannot be read ({error.strerror or error}); give another with --from."
        ) from error
    source = Source(file, digest, order, scores)
    model_of(task, source)
    return source


def model_of(task: Task, source: Source) -> nn.Module:
    """A new model of `task` with these weights, on the CPU and in evaluation mode.

    The file is a plain state dict, or one that `store.file.save` wrote of a network at full width.
    Raises DataError for other files and for weights of another network, FileError for files of
    widthwise that are damaged or were cut.
    """
    try:
        with safetensors.safe_open(source.file, framework="pt") as file:
            ours = "widthwise" in (file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"{source.file} is damaged or no safetensors file ({error}); write one from PyTorch "
            "with safetensors.torch.save_file(model.state_dict(), path)."
        ) from error
    return _saved(task, source.file) if ours else filled(task, source.file, _CURE)


def apart(source: Source | None, folder: Path) -> None:
    """Raise RunError when a run would be written where its source lies."""
    if source is not None and source.file.resolve().parent == folder.resolve():
        raise RunError(
            f"The weights are read from {folder} itself; give another folder with --out."
        )


def _saved(task: Task, path: Path) -> nn.Module:
    """The network of a file that `save` wrote."""
    tensors, manifest = read(path)
    if _is_cut(manifest):
        raise FileError(f"{path} holds a network that was cut; {_CURE}.")
    model = task.model()
    wrong = misfit(model, tensors) or _names(model, tensors, manifest)
    if wrong:
        raise DataError(foreign(task, path, wrong, _CURE))
    return load(path, build=task.model)


def _is_cut(manifest: Manifest) -> bool:
    return bool(manifest.full) or any(
        manifest.widths.get(axis, size) < size for axis, size in manifest.sizes.items()
    )


def _names(model: nn.Module, tensors: dict[str, Tensor], manifest: Manifest) -> str | None:
    """A tensor of the model that the file lacks."""
    known = {*tensors, *manifest.tied}
    return next((f"it lacks {name}" for name in model.state_dict() if name not in known), None)
