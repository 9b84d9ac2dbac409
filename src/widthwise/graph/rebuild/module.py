"""The user's own class at a smaller size.

A model that is built from a configuration is rebuilt from one with smaller numbers. Any other is
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
from widthwise.graph.rebuild.attributes import Number, search, size_groups
from widthwise.graph.rebuild.config import is_configuration, rebuilt
from widthwise.graph.rebuild.equivalence import Outcome, Reference
from widthwise.graph.rebuild.evidence import Evidence, evidence
from widthwise.graph.rebuild.layers import layer_sizes
from widthwise.graph.relate import Relations


@dataclass(frozen=True)
class Patch:
    """One size that was set: module path, attribute, new value (int or ints).

    The attribute may lie in a configuration that the module holds: "config.hidden_size".
    """

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
    compare with; training: its training mode, None where the same operators serve both modes.
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
    before = {(patch.module, patch.attribute): patch.value for patch in held_sizes(model)}
    for patch in held_sizes(found):
        if before.get((patch.module, patch.attribute), patch.value) != patch.value:
            yield patch


def held_sizes(model: nn.Module) -> Iterator[Patch]:
    """The sizes that modules and their configurations hold, each configuration once."""
    seen: set[int] = set()
    for path, module in model.named_modules():
        for name, value in _held(module, seen):
            yield Patch(path, name, value)


def _held(module: nn.Module, seen: set[int]) -> Iterator[tuple[str, Any]]:
    for name, value in vars(module).items():
        if is_configuration(value):
            if id(value) not in seen:
                seen.add(id(value))
                yield from _configured(name, value)
        elif is_size(value):
            yield name, tuple(value) if isinstance(value, list) else value


def _configured(path: str, config: Any) -> Iterator[tuple[str, Any]]:
    for name in config.to_dict():
        value = getattr(config, name, None)
        if is_configuration(value):
            yield from _configured(f"{path}.{name}", value)
        elif is_size(value):
            yield f"{path}.{name}", tuple(value) if isinstance(value, list) else value


def is_size(value: Any) -> bool:
    """Whether a value is an int, or a tuple or list of nothing but ints."""
    if isinstance(value, (tuple, list)):
        return bool(value) and all(type(v) is int for v in value)
    return type(value) is int


def apply_patches(model: nn.Module, patches: Iterable[Patch]) -> None:
    """Set recorded sizes on a newly built model, as when loading a file.

    Raises AttributeError for a module that the model does not have.
    """
    for patch in patches:
        where, _, name = patch.attribute.rpartition(".")
        holder: Any = model.get_submodule(patch.module)
        for part in where.split(".") if where else ():
            holder = getattr(holder, part)
        if not hasattr(holder, name):
            raise AttributeError(f"{patch.module or 'the model'} has no {patch.attribute}")
        held, value = getattr(holder, name), patch.value
        setattr(holder, name, list(value) if isinstance(held, list) else value)  # type: ignore[arg-type]
