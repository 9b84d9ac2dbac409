"""From a task to its model with trained weights: the ones that come with it, or a file's.

    model = trained_model(resolve("cifar10-resnet20"))
    model = filled(task, Path("mine.safetensors"), "give another file")

It is ready to be evaluated, cut or fine-tuned.
"""

from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from widthwise.errors import DataError, TaskError
from widthwise.task import Task


def trained_model(task: Task) -> nn.Module:
    """A new model of `task`, on the CPU and in evaluation mode, with the task's trained weights.

    Every tensor must have its place and every place its tensor; only counters of batch norms, which
    many files leave out, may be absent. Nothing but safetensors is read.

    Raises TaskError when the task has no weights, DataError when their file is missing, damaged, or
    of another network.
    """
    if task.weights is None:
        raise TaskError(
            f"Task {task.name!r} comes without trained weights; train it with"
            f" widthwise train {task.name} --out RUN."
        )
    return filled(task, task.weights(), "put the right file in its place")


def filled(task: Task, path: Path, cure: str) -> nn.Module:
    """A new model of `task` with the weights of a safetensors file, as `trained_model` checks them.

    cure: what to do about a file of another network. Raises DataError.
    """
    tensors = _read(path)
    model = task.model()
    wrong = misfit(model, tensors) or _load(model, tensors)
    if wrong:
        raise DataError(foreign(task, path, wrong, cure))
    return model.eval()


def foreign(task: Task, path: Path, wrong: str, cure: str) -> str:
    """The sentence on a file of another network."""
    return (
        f"{path} holds the weights of another network, not of task {task.name!r} ({wrong}); {cure}."
    )


def misfit(model: nn.Module, tensors: Mapping[str, Tensor]) -> str | None:
    """The first of these tensors that is of another shape than the model's of the same name."""
    own = model.state_dict()
    for name, tensor in tensors.items():
        if name in own and own[name].shape != tensor.shape:
            found, needed = tuple(tensor.shape), tuple(own[name].shape)
            return f"{name} is of shape {found} instead of {needed}"
    return None


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"{path} is damaged or no safetensors file ({error}); copy it again."
        ) from error


def _load(model: nn.Module, tensors: dict[str, Tensor]) -> str | None:
    """Load tensors of the right shapes, and say which are missing or too many."""
    # Not strict, since torch's own complaint is a list of hundreds of names; what it counts as
    # missing already leaves out the counters of batch norms.
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    if missing:
        return f"it lacks {missing[0]}" + _more(missing)
    if unexpected:
        return f"it has {unexpected[0]} besides" + _more(unexpected)
    return None


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
