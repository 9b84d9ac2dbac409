"""A task tried on a few items before any work is done with it.

try_out(task, model, data)      # TaskError: the loss of task 'mine' returned 64 values, ...
"""

from __future__ import annotations

from typing import Any

import torch.utils._pytree as pytree
from torch import Tensor, nn

from widthwise.app.tasks.blame import described, users_place
from widthwise.common.calling import outputs_for
from widthwise.common.modes import evaluating
from widthwise.errors import TaskError, WidthwiseError
from widthwise.measure.evaluation import Evaluation
from widthwise.measure.pairs import form_of, needing, pair
from widthwise.task import Splits, Task
from widthwise.train.batches import in_order, own_randomness

_ITEMS = 64  # of the training data
_MEASURED = 256  # of those that are evaluated on


def try_out(task: Task, model: nn.Module, data: Splits) -> None:
    """Run model, loss and metric of a task once, in evaluation mode; nothing is changed.

    Args:
        task: whose loss and metric are called.
        model: a model of the task, on the CPU.
        data: the splits of the task.

    Raises:
        TaskError: One of them fails on what the others give, or returns something of another form.
            Errors that the user's own code raises are not caught.
    """
    form = form_of(model, task.example(), {})
    with own_randomness(), evaluating(model):
        size = min(_ITEMS, task.recipe.batch_size)
        inputs, target = pair(next(iter(in_order(data.train, size, 0))), form)
        outputs = _tried(task, "model", lambda: outputs_for(model, inputs), inputs)
        loss = _tried(task, "loss", lambda: _lost(task, outputs, target), outputs, target)
        _check(task, loss)
        valid = pair(next(iter(in_order(data.valid, _MEASURED, 0))), form)
        _tried(task, "metric", lambda: _measured(task, model, valid), outputs, target)


def _lost(task: Task, outputs: Any, target: Any) -> Any:
    with needing(target, "the loss"):
        return task.loss(outputs, target)


def _measured(task: Task, model: nn.Module, batch: Any) -> float:
    try:
        return Evaluation([batch], task.metric)(model)
    except ValueError as error:
        if users_place(error) is None and "class" in str(error):
            return 0.0  # such as an area under a curve, where these few items are of one class
        raise


def _tried(task: Task, what: str, call: Any, *given: Any) -> Any:
    try:
        return call()
    except WidthwiseError:
        raise
    except Exception as error:
        if users_place(error) is not None:
            raise
        forms = " and ".join(map(_form, given))
        raise TaskError(
            f"The {what} of task {task.name!r} fails on {forms} with {described(error)}; make "
            "it fit what the data and the model give."
        ) from error


def _check(task: Task, loss: Any) -> None:
    if isinstance(loss, Tensor) and loss.numel() == 1 and loss.is_floating_point():
        return
    if isinstance(loss, Tensor) and loss.numel() != 1:
        raise TaskError(
            f"The loss of task {task.name!r} returned {loss.numel()} values, of shape "
            f"{tuple(loss.shape)}; return their mean, for example with reduction='mean'."
        )
    raise TaskError(
        f"The loss of task {task.name!r} returned {_form(loss)}; return one number, a 0-dim tensor."
    )


def _form(value: Any) -> str:
    """What a value is made of, in a few words."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    if isinstance(value, dict | tuple | list):
        leaves = ", ".join(map(_form, pytree.tree_leaves(value)[:4]))
        return f"a {type(value).__name__} of {leaves or 'nothing'}"
    return "None" if value is None else f"a value of type {type(value).__name__}"
