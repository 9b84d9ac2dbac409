"""A model's layers, hooks and numbers as they were when it was captured: its graph has no others.

    was = Structure(model)
    model.head = nn.Linear(64, 5)
    was.changed()                     # "the layer head was replaced by a Linear"

Parameters and buffers may change at any time: the graph reads them at every call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

_MANY = 8  # changes of a number that never mattered, after which it is looked at no more
_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
# transformers collects hidden states by hooks that it puts when first asked for them.
_OBSERVERS = frozenset({"transformers.utils.output_capturing"})
_PLAIN = (bool, int, float, str)
# Read at every call (graph/switches.py), or written by torch in passing.
_READ = {_NormBase: {"momentum"}, _DropoutNd: {"p"}}
_IN_PASSING = frozenset({"training", "_is_full_backward_hook", "call_super_init"})


@dataclass(frozen=True)
class _Noted:
    """One module as it was: the layers in it, its hooks, and which parameters it has or lacks."""

    path: str
    module: nn.Module
    layers: dict[str, nn.Module | None]
    parameters: dict[str, bool]
    hooks: tuple[Any, ...]
    forward: Any


@dataclass
class _Number:
    """One plain attribute of a module, and how often it changed without mattering."""

    name: str
    module: nn.Module
    attribute: str
    value: Any
    changes: int = 0


class Structure:
    """What a model was made of; copied together with it."""

    def __init__(self, model: nn.Module) -> None:
        self._noted = [
            _Noted(
                path or type(model).__name__,
                module,
                dict(module._modules),
                {name: p is not None for name, p in module._parameters.items()},
                _hooks(module),
                vars(module).get("forward"),
            )
            for path, module in model.named_modules()
        ]
        self._numbers = [
            _Number(f"{path or type(model).__name__}.{name}", module, name, value)
            for path, module in model.named_modules()
            for name, value in vars(module).items()
            if isinstance(value, _PLAIN) and name not in _IN_PASSING | _read(module)
        ]

    def changed(self) -> str | None:
        """What is not as it was, as a clause; None for nothing."""
        for was in self._noted:
            held = vars(was.module)  # which is quicker than attributes, for this runs at every call
            if held["_modules"] != was.layers:
                return _other_layer(was)
            if held["_parameters"].keys() != was.parameters.keys() or any(
                (held["_parameters"][name] is None) is given
                for name, given in was.parameters.items()
            ):
                return f"the parameters of {was.path} are made in another way"
            if held.get("forward") != was.forward:
                return f"the forward of {was.path} was replaced"
            if (was.hooks or any(map(held.get, _HOOKS))) and _hooks(was.module) != was.hooks:
                return f"{was.path} got or lost a hook"
        return None

    def other_numbers(self) -> list[str]:
        """The plain attributes (numbers, texts) that have another value now."""
        return [
            number.name
            for number in self._numbers
            if (now := vars(number.module).get(number.attribute)) is not number.value
            and now != number.value
        ]

    def accept(self, names: list[str]) -> None:
        """Remember the present values of these attributes, which do not matter.

        An attribute that has changed many times so is looked at no more.
        """
        for number in self._numbers:
            if number.name in names:
                number.value = vars(number.module).get(number.attribute)
                number.changes += 1
        self._numbers = [n for n in self._numbers if n.changes < _MANY]


def _hooks(module: nn.Module) -> tuple[Any, ...]:
    """The hooks of a module, without torch's own (sharding) and without known observers."""
    held = [getattr(module, name) for name in _HOOKS]
    if not any(held):
        return ()
    return tuple(hook for hooks in held for hook in hooks.values() if not _harmless(hook))


def _harmless(hook: Any) -> bool:
    function = getattr(hook, "func", hook)  # of a partial
    module = str(getattr(function, "__module__", None) or type(function).__module__)
    return module.partition(".")[0] == "torch" or module in _OBSERVERS


def _read(module: nn.Module) -> set[str]:
    return {name for kind, names in _READ.items() if isinstance(module, kind) for name in names}


def _other_layer(was: _Noted) -> str:
    now = was.module._modules
    name = next(n for n in {**was.layers, **now} if was.layers.get(n) is not now.get(n))
    path = name if was.path == type(was.module).__name__ else f"{was.path}.{name}"
    if now.get(name) is None:
        return f"the layer {path} was taken away"
    if was.layers.get(name) is None:
        return f"the layer {path} was added"
    return f"the layer {path} was replaced by a {type(now[name]).__name__}"
