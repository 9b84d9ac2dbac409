"""A model's layers, hooks and values as they were when it was captured: its graph has no others.

    was = Structure(model)
    model.head = nn.Linear(64, 5)
    was.changed()                     # "the layer head was replaced by a Linear"

Parameters and buffers may change at any time: the graph reads them at every call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

_MANY = 8  # changes of a number that never mattered, after which it is looked at no more
_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
# transformers collects hidden states by hooks that it puts when first asked for them.
_OBSERVERS = frozenset({"transformers.utils.output_capturing"})
_PLAIN = (bool, int, float, str, type(None))
_LONG = 100  # entries of a list or a settings object above which it is not looked into
# Read at every call (graph/switches.py), or kept by torch for itself.
_READ = {_NormBase: {"momentum"}, _DropoutNd: {"p"}}
_OF_TORCH = frozenset(vars(nn.Module())) | {"call_super_init", "forward"}
_OF_TORCH |= {"_flat_weights", "_flat_weight_refs"}


@dataclass(frozen=True)
class _Noted:
    """One module as it was: the layers in it, its hooks, and which parameters it has or lacks."""

    path: str
    module: nn.Module
    layers: dict[str, nn.Module | None]
    parameters: dict[str, bool]
    hooks: tuple[Any, ...]
    forward: Any


class _Absent:
    """The mark of an attribute that is not there."""


class _This:
    """The mark of an object that is known by which one it is."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _This) and other.value is self.value

    __hash__ = None  # type: ignore[assignment]


@dataclass
class _Owner:
    """A module or settings object whose attributes are watched, but for some; size: how many."""

    path: str
    value: Any
    but: frozenset[str]
    size: int


@dataclass
class _Attribute:
    """One attribute of a module or settings object, and how often it changed without mattering."""

    name: str
    owner: Any
    attribute: str
    mark: Any
    changes: int = 0

    @property
    def now(self) -> Any:
        """What marks its present value."""
        value = vars(self.owner).get(self.attribute, _Absent)
        return value if value is self.mark else _mark(value)


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
        self._owners: list[_Owner] = []
        self._attributes: list[_Attribute] = []
        seen: set[int] = set()
        for path, module in model.named_modules():
            name = path or type(model).__name__
            self._watch(name, module, _OF_TORCH | _read(module))
            for attribute, value in vars(module).items():
                if id(value) not in seen and _settings(attribute, value):
                    seen.add(id(value))
                    self._watch(f"{name}.{attribute}", value, frozenset())

    def _watch(self, path: str, owner: Any, but: frozenset[str]) -> None:
        self._owners.append(_Owner(path, owner, but, len(vars(owner))))
        self._attributes += [
            _Attribute(f"{path}.{name}", owner, name, _mark(value))
            for name, value in vars(owner).items()
            if name not in but
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

    def other_values(self) -> list[str]:
        """The attributes that have another value now: numbers, texts, lists of such, tensors."""
        changed = [a.name for a in self._attributes if a.changes < _MANY and a.now != a.mark]
        return changed + [a.name for a in self._new()]

    def accept(self, names: list[str]) -> None:
        """Remember the present values of these attributes, which do not matter.

        An attribute that has changed many times so is looked at no more.
        """
        self._attributes += self._new()
        for owner in self._owners:
            owner.size = len(vars(owner.value))
        for attribute in self._attributes:
            if attribute.name in names:
                attribute.mark = attribute.now
                attribute.changes += 1

    def _new(self) -> list[_Attribute]:
        """Public attributes that were not there; private ones are put by frameworks."""
        found = []
        for owner in self._owners:
            if len(vars(owner.value)) == owner.size:
                continue
            known = {a.attribute for a in self._attributes if a.owner is owner.value}
            new = [
                _Attribute(f"{owner.path}.{name}", owner.value, name, _Absent)
                for name in vars(owner.value)
                if not name.startswith("_") and name not in owner.but and name not in known
            ]
            if not new:  # so that the next call need not look again
                owner.size = len(vars(owner.value))
            found += new
        return found


def _mark(value: Any) -> Any:
    """What a value is compared by: plain ones and lists of them by value, others by identity."""
    if isinstance(value, _PLAIN) or value is _Absent:
        return value
    if isinstance(value, (list, tuple)) and len(value) <= _LONG:
        return tuple(map(_mark, value))
    if isinstance(value, dict) and len(value) <= _LONG and all(isinstance(k, str) for k in value):
        return tuple((key, _mark(entry)) for key, entry in value.items())
    return _This(value)


def _settings(name: str, value: Any) -> bool:
    """Whether a value may hold the user's settings: a public object of a class of its own."""
    return (
        not name.startswith("_")
        and hasattr(value, "__dict__")
        and not isinstance(value, (nn.Module, Tensor, type))
        and not callable(value)
        and type(value).__module__.partition(".")[0] != "torch"
        and len(vars(value)) <= _LONG
    )


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


def _read(module: nn.Module) -> frozenset[str]:
    return frozenset(
        name for kind, names in _READ.items() if isinstance(module, kind) for name in names
    )


def _other_layer(was: _Noted) -> str:
    now = was.module._modules
    name = next(n for n in {**was.layers, **now} if was.layers.get(n) is not now.get(n))
    path = name if was.path == type(was.module).__name__ else f"{was.path}.{name}"
    if now.get(name) is None:
        return f"the layer {path} was taken away"
    if was.layers.get(name) is None:
        return f"the layer {path} was added"
    return f"the layer {path} was replaced by a {type(now[name]).__name__}"
