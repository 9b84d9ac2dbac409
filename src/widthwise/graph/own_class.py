"""The user's own class at a smaller size.

A model that is built from a configuration is built anew from one with smaller numbers. Any other is
copied over the cut tensors, and the sizes that its layers and classes hold as attributes are set
to match. Whether that was right is not assumed: the result must compute what the cut graph
computes, or it is not used.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from widthwise.graph.axes import Axes
from widthwise.graph.class_sizes import Number, search, size_groups
from widthwise.graph.from_config import rebuilt
from widthwise.graph.layer_sizes import layer_sizes
from widthwise.graph.relate import Relations
from widthwise.graph.same import Outcome, Reference
from widthwise.graph.sizes import Evidence, evidence


@dataclass(frozen=True)
class Patch:
    """One size attribute that was set: module path, attribute name, new value (int or ints)."""

    module: str
    attribute: str
    value: int | tuple[int, ...]


def own_class(
    model: nn.Module,
    relations: Relations,
    axes: Axes,
    widths: Mapping[str, int],
    full: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    evaluation: fx.GraphModule,
    training: fx.GraphModule | None,
) -> tuple[nn.Module, tuple[Patch, ...]] | str:
    """The user's class over the cut tensors with the patches made, or why it cannot be had.

    full, state: the model's tensors and their cut versions, by name. evaluation: the cut graph to
    compare with; training: that of training mode, None where the same operators serve both modes.
    """
    known = evidence(model, relations, axes, widths)
    with Reference(relations, evaluation, training) as reference:
        found = _rebuilt(model, state, known, reference)
        if isinstance(found, str):
            copied = _patched(model, full, state, known, reference)
            if isinstance(copied, str):
                return copied
            found = copied
    for path, module in model.named_modules():
        found.get_submodule(path).training = module.training
    return found, tuple(_changed(model, found))


def _rebuilt(
    model: nn.Module, state: Mapping[str, Tensor], known: Evidence, reference: Reference
) -> nn.Module | str:
    try:
        return rebuilt(model, state, known.everywhere, reference.differs)
    except Exception as error:  # noqa: BLE001 - the user's code runs inside
        return f"its configuration refuses the sizes ({type(error).__name__})"


def _patched(
    model: nn.Module,
    full: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    known: Evidence,
    reference: Reference,
) -> nn.Module | str:
    """A copy of the model on the cut tensors, with its sizes set."""
    try:
        shell = copy.deepcopy(model, {id(full[n]): t for n, t in state.items()})
    except Exception as error:  # noqa: BLE001 - the user's code runs inside
        return f"it cannot be copied ({type(error).__name__})"
    for path, module in shell.named_modules():
        for name, value in layer_sizes(module, known.groups.get(path, 1)):
            setattr(module, name, value)

    def outcome(values: dict[Number, int]) -> Outcome:
        _set_numbers(shell, values)
        for module in shell.modules():
            if isinstance(module, (nn.MultiheadAttention, nn.Transformer)):
                for name, value in layer_sizes(module, 1):
                    setattr(module, name, value)
        return reference.compare(shell)

    found = search(size_groups(model, known), outcome)
    if isinstance(found, str):
        return found
    _set_numbers(shell, found)
    return shell


def _set_numbers(shell: nn.Module, values: Mapping[Number, int]) -> None:
    for (path, attribute, index), value in values.items():
        module = shell.get_submodule(path)
        if index is not None:
            items = list(getattr(module, attribute))
            items[index] = value
            setattr(module, attribute, type(getattr(module, attribute))(items))
        else:
            setattr(module, attribute, value)


def _changed(model: nn.Module, found: nn.Module) -> Iterator[Patch]:
    """The sizes that differ between the model and its smaller twin."""
    twins = dict(found.named_modules())
    for path, module in model.named_modules():
        before = dict(_held(module))
        for name, value in _held(twins[path]):
            if before.get(name, value) != value:
                yield Patch(path, name, value)


def _held(module: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, value in vars(module).items():
        if type(value) is int:
            yield name, value
        elif isinstance(value, (tuple, list)) and all(type(v) is int for v in value):
            yield name, tuple(value)


def apply_patches(model: nn.Module, patches: Iterable[Patch]) -> None:
    """Set recorded sizes on a newly built model, as when loading a file.

    Raises AttributeError for a module that the model does not have.
    """
    for patch in patches:
        module = model.get_submodule(patch.module)
        if not hasattr(module, patch.attribute):
            raise AttributeError(f"{patch.module or 'the model'} has no {patch.attribute}")
        held = getattr(module, patch.attribute)
        value = list(patch.value) if isinstance(held, list) else patch.value  # type: ignore[arg-type]
        setattr(module, patch.attribute, value)
