"""One batch, or one item, as (inputs, target).

    form = takes(net)                        # what the network's forward takes
    inputs, target = pair(batch, form)       # from a tuple, a dict, a tensor alone

What a data set gives is read by what the network takes, so that inputs alone are never taken for
(inputs, target), nor an input for a target:

    x                        inputs alone; the target is None
    (x,)                     inputs alone
    (x, y)                   (inputs, target), or two inputs of a network that needs two
    (a, b, y)                two inputs and the target, for a network of two inputs
    ({"a": a, "b": b}, y)    inputs by name
    {"x": x, "labels": y}    entries that forward takes are inputs, the other one is the target
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from widthwise.elastic.network import Elastic
from widthwise.errors import DataError

LABELS: Final = ("labels", "label", "target", "targets", "y")
_GIVEN_TOO: Final = ("labels", "label")  # a model may take these itself, as in transformers


class Pair(NamedTuple):
    """A batch or an item in its final form. target: None where the data has none."""

    inputs: Any
    target: Any


@dataclass(frozen=True)
class Takes:
    """What a network's forward takes, as far as that is known.

    args, kwargs: the example that it was captured with. known: whether there is one.
    required: positional parameters without a default, None where any number is taken.
    names: of the parameters, in their order. open: whether other names are taken too.
    single: whether the network computes in float32, so that float64 inputs are rounded to it.
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    known: bool = False
    required: int | None = None
    names: tuple[str, ...] = ()
    open: bool = True
    single: bool = False

    @property
    def count(self) -> int | None:
        """How many positional inputs a batch has; None where that is not known."""
        if self.known:
            return len(self.args) or None
        return self.required or None

    def named(self) -> dict[str, Any]:
        """The example's inputs by name."""
        return {**dict(zip(self.names, self.args, strict=False)), **self.kwargs}


ANYTHING: Final = Takes()


def takes(module: Callable[..., Any]) -> Takes:
    """What a network takes: by the example of an Elastic, else by the signature of its forward."""
    inner = getattr(module, "net", None)
    net = inner if isinstance(inner, Elastic) else module
    if isinstance(net, Elastic):
        args, kwargs = net.engine.example()
        return form_of(net.model, args, kwargs)
    return form_of(net) if isinstance(net, nn.Module) else ANYTHING


def form_of(
    model: nn.Module, args: tuple[Any, ...] | None = None, kwargs: Mapping[str, Any] | None = None
) -> Takes:
    """What a model takes. args, kwargs: an example, where there is one."""
    positional, names, open_names = _signature(model)
    example = pytree.tree_leaves((args, kwargs))
    floats = [p for p in (*model.parameters(), *model.buffers()) if p.is_floating_point()]
    double = any(isinstance(x, Tensor) and x.dtype == torch.float64 for x in example)
    return Takes(
        args=args or (),
        kwargs=kwargs or {},
        known=args is not None,
        required=positional,
        names=names,
        open=open_names,
        single=bool(floats) and not double and all(p.dtype == torch.float32 for p in floats),
    )


def _signature(model: nn.Module) -> tuple[int | None, tuple[str, ...], bool]:
    """Required positional parameters, the names of all, and whether others are taken."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return None, (), True
    by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = sum(p.kind in by_place and p.default is p.empty for p in parameters)
    names = tuple(p.name for p in parameters if p.kind in (*by_place, p.KEYWORD_ONLY))
    kinds = {p.kind for p in parameters}
    several = inspect.Parameter.VAR_POSITIONAL in kinds
    return None if several else needed, names, inspect.Parameter.VAR_KEYWORD in kinds


def pair(given: Any, form: Takes = ANYTHING) -> Pair:
    """A batch, or an item, as (inputs, target).

    Args:
        given: what the data gave; numpy arrays become tensors.
        form: what the network takes.

    Returns:
        The inputs (a tensor, a tuple of positional arguments or a dict of named ones) and the
        target, None where the data has none.

    Raises:
        DataError: It could be read in no way, or in more than one.
    """
    if isinstance(given, Pair):
        return given
    inputs, target = _parted(given, form)
    return Pair(_single(_tensors(inputs), form), _tensors(target))


def _parted(given: Any, form: Takes) -> tuple[Any, Any]:
    if isinstance(given, Mapping):
        return _by_name(given, form)
    if isinstance(given, PackedSequence) or not isinstance(given, tuple | list):
        return given, None
    parts = tuple(given)
    count, nested = form.count, bool(parts) and isinstance(parts[0], tuple | list | Mapping)
    if len(parts) == 1:
        return _wrapped(parts[0], form), None
    if len(parts) == 2 and (nested or count in (None, 1) or (form.required or 0) < 2):
        return _wrapped(parts[0], form), parts[1]
    if count is not None and len(parts) == count + 1:
        return parts[:-1], parts[-1]
    if count is not None and len(parts) == count:
        return parts, None
    said = "" if count is None else f" and the network takes {count} input{'s' * (count > 1)}"
    raise DataError(
        f"The data gives {len(parts)} values for an item{said}; give (inputs, target), of which "
        "either may be a tuple or a dict."
    )


def _wrapped(inputs: Any, form: Takes) -> Any:
    """The inputs, as the one argument of a network whose one argument is a list or a dict."""
    if len(form.args) != 1 or form.kwargs:
        return inputs
    example = form.args[0]
    same = isinstance(example, Mapping) and isinstance(inputs, Mapping) and {*example} <= {*inputs}
    listed = isinstance(example, tuple | list) and isinstance(inputs, tuple | list)
    return (inputs,) if same or (listed and not _holds_one(inputs)) else inputs


def _holds_one(inputs: Sequence[Any]) -> bool:
    return len(inputs) == 1 and isinstance(inputs[0], tuple | list)


def _by_name(given: Mapping[str, Any], form: Takes) -> tuple[Any, Any]:
    """The entries of a dict that are inputs, and the one, or those, that are the target."""
    example = form.args[0] if len(form.args) == 1 and isinstance(form.args[0], Mapping) else None
    expected = {*form.named()} if example is None else {*example}
    label = next((n for n in LABELS if n in given and n not in expected), None)
    target = given[label] if label is not None else None
    if label is None:  # also given to a model that takes it itself
        target = next((given[n] for n in _GIVEN_TOO if n in given), None)
    rest = {n: v for n, v in given.items() if n != label}
    if example is not None:
        inputs, others = _divided(rest, expected)
        return (inputs,), _target(label, target, others)
    if label is not None and not form.known and label in form.names:
        rest[label] = target
    if form.open and (not form.names or form.known is False or expected & {*rest}):
        return rest, target
    inputs, others = _divided(rest, {*form.names, *expected})
    if not inputs and len(others) == 1:
        return next(iter(others.values())), target  # there is nothing else that it could be
    if not inputs:
        raise DataError(
            f"The data's items have {', '.join(map(repr, given))}, and none of these is an "
            f"argument of the network ({', '.join(form.names)}); name them alike, or give items "
            "(inputs, target)."
        )
    return inputs, _target(label, target, others)


def _divided(given: Mapping[str, Any], names: set[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    inputs = {n: v for n, v in given.items() if n in names}
    return inputs, {n: v for n, v in given.items() if n not in names}


def _target(label: str | None, target: Any, others: Mapping[str, Any]) -> Any:
    """The target of an item that has these entries besides its inputs."""
    if not others:
        return target
    if label is None and target is None:
        return next(iter(others.values())) if len(others) == 1 else dict(others)
    raise DataError(
        f"The data's items have {', '.join(map(repr, others))}, which the network does not take; "
        "leave that out, or give items (inputs, target), of which either may be a dict."
    )


def rank_of(inputs: Any, form: Takes) -> int | None:
    """How many dims the inputs have more than the example: 0 for a batch, -1 for a single item.

    None where that is not known.
    """
    if not form.known:
        return None
    named = form.named()
    if isinstance(inputs, Mapping):
        pairs = [(v, named[n]) for n, v in inputs.items() if n in named]
    else:
        single = not isinstance(inputs, tuple | list) or isinstance(inputs, PackedSequence)
        listed = (inputs,) if single else inputs
        pairs = list(zip(listed, [*form.args, *form.kwargs.values()], strict=False))
    for value, example in pairs:
        first, wanted = _first_array(value), _first_array(example)
        if first is not None and wanted is not None and _dims(wanted):
            return _dims(first) - _dims(wanted)
    return None


def _first_array(value: Any) -> Any:
    arrays = (Tensor, np.ndarray, np.generic, int, float)
    if isinstance(value, list) and value and numbers(value):
        return np.asarray(value)
    return next((x for x in pytree.tree_leaves(value) if isinstance(x, arrays)), None)


def numbers(value: Any) -> bool:
    """Whether a list holds Python numbers alone, or lists of them, as data frames give them."""
    first = value[0] if isinstance(value, list) and value else value
    return numbers(first) if isinstance(first, list) and first else isinstance(first, int | float)


def _dims(value: Any) -> int:
    return value.dim() if isinstance(value, Tensor) else int(np.ndim(value))


def shape_of(value: Any) -> tuple[int, ...] | None:
    """The shape of a value's first tensor; None where it has none."""
    first = _first_array(value)
    return None if first is None else tuple(np.shape(first))


def size_of(value: Any) -> int | None:
    """How many items a batch has: the first size of its first tensor; None where it has none."""
    for leaf in pytree.tree_leaves(value):
        if isinstance(leaf, Tensor | np.ndarray) and leaf.ndim:
            return len(leaf)
    return None


def _tensors(value: Any) -> Any:
    """The value with numpy arrays as tensors, and dicts of other classes as dicts."""
    if isinstance(value, Tensor) or value is None:
        return value
    if isinstance(value, Mapping):
        return {n: _tensors(v) for n, v in value.items()}
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        return torch.as_tensor(value)
    if type(value) is tuple or type(value) is list:
        return type(value)(map(_tensors, value))
    return value


def _single(inputs: Any, form: Takes) -> Any:
    if not form.single:
        return inputs
    if isinstance(inputs, Tensor):
        return inputs.float() if inputs.dtype == torch.float64 else inputs
    return pytree.tree_map_only(
        Tensor, lambda t: t.float() if t.dtype == torch.float64 else t, inputs
    )


def placed(value: Any, device: torch.device) -> Any:
    """Inputs or a target, whatever they are made of, with all tensors on the device."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    return pytree.tree_map_only(Tensor, lambda t: t.to(device, non_blocking=True), value)


@contextmanager
def needing(target: Any, what: str) -> Iterator[None]:
    """Raise DataError where `what` fails on a target that is not there.

    what: the function that is called inside, such as "the loss".
    """
    try:
        yield
    except (TypeError, AttributeError) as error:
        if target is not None:
            raise
        raise DataError(
            f"The data gives inputs without a target, which {what} cannot do without "
            f"({' '.join(str(error).split())}); give items (inputs, target)."
        ) from error
