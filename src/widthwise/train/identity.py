"""What a function, a module or a data set is, as JSON that two runs can be told apart by.

described(nn.CrossEntropyLoss(weight=w))     # {"": "torch.nn...", "weight": "#3f0c...", ...}
sampled(data)                                # {"items": 60000, "values": "#81aa..."}

Digests begin with "#". What cannot be told (attributes of other kinds, data that are other at each
look) is left out rather than guessed: two runs that differ in it alone look the same.
"""

from __future__ import annotations

import hashlib
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from itertools import islice
from typing import Any, Final

import numpy as np
import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from widthwise.elastic.network import Elastic
from widthwise.measure.data import Items, Stream
from widthwise.train.batches import own_randomness, reseed, reseed_others

_LOOKS: Final = 8  # items of a data set
_MOST: Final = 1 << 20  # numbers of a tensor that are looked at
_DEEP: Final = 4  # objects inside objects
_FEW: Final = 8  # values that are told one by one
_NAMED: Final = ("torch", "widthwise", "numpy", "torchmetrics", "sklearn", "builtins")
_PLAIN: Final = (bool, int, float, str, type(None))


def described(value: Any, but: nn.Module | None = None) -> dict[str, Any]:
    """What decides the results of a callable: its name, code, tensors and plain attributes.

    Args:
        value: a function, a method, a partial, a module or any object.
        but: the network that is trained; what holds its tensors is not looked into.

    Returns:
        name of an attribute, "" for the object itself -> a plain value, or a digest.
    """
    trained = set() if but is None else {id(t) for t in (*but.parameters(), *but.buffers())}
    found: dict[str, Any] = {}
    _describe("", value, found, frozenset(trained), _DEEP)
    return found


def configured(net: nn.Module) -> dict[str, Any]:
    """The plain attributes of all modules of a network by class, such as {"Dropout.p": 0.1}.

    Of an Elastic, also its constraints, and a digest of what it computes.
    """
    model = net.model if isinstance(net, Elastic) else net
    values: dict[str, list[Any]] = {}
    for module in model.modules():
        for name, value in sorted(vars(module).items()):
            if name != "training" and not name.startswith("_") and _is_plain(value):
                values.setdefault(f"{type(module).__name__}.{name}", []).append(_json(value))
    found: dict[str, Any] = {name: _few(each) for name, each in values.items()}
    if isinstance(net, Elastic):
        found["graph"] = _digest(str(net.engine.evaluation.program.graph).encode())
        found["constraints"] = described(net.constraints)
    return found


def sampled(data: Items | Stream) -> dict[str, Any]:
    """How many items a data set has, and a digest of a few of them.

    None in the place of the digest where they are other at each look, as with an augmentation by a
    generator of its own.
    """
    with own_randomness():
        first, second = _look(data), _look(data)
    known: dict[str, Any] = {"values": first if first == second else None}
    if isinstance(data, Stream):
        return known
    known["items"] = len(data)
    if data.loader is not None:
        loader = data.loader
        sampler = loader.batch_sampler or loader.sampler
        known |= {"batch_size": loader.batch_size, "drop_last": loader.drop_last}
        known |= {"sampler": f"{type(sampler).__name__}({type(loader.sampler).__name__})"}
    return known


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """What two descriptions differ in, as sentences' parts such as 'lr was 0.1 and is 0.2'.

    What an older run did not note is passed over.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        names = sorted(old.keys() | new.keys())
        each = [(n, old.get(n), new.get(n)) for n in names]
        return [d for n, a, b in each for d in differences(a, b, f"{path}.{n}".strip("."))]
    if old == new:
        return []
    digest = any(isinstance(v, str) and v.startswith("#") for v in (old, new))
    if digest or isinstance(old, dict) or isinstance(new, dict):
        return [f"{path} differs"]
    return [f"{path} was {old} and is {new}"]


def _look(data: Items | Stream) -> str:
    reseed(0)
    reseed_others(0)
    if isinstance(data, Stream):
        return _digest_of(next(iter(data.ordered(2)), None))
    count = len(data)
    places = sorted({round(i * (count - 1) / max(1, _LOOKS - 1)) for i in range(_LOOKS)})
    if data.at_once:
        return _digest_of(data.data.batch(torch.tensor(places)))
    return _digest_of([data[i] for i in places])


def _describe(
    path: str, value: Any, found: dict[str, Any], trained: frozenset[int], deep: int
) -> None:
    inner = _parts(value, trained)
    if inner is None:
        if _is_plain(value):
            found[path] = _json(value)
        elif isinstance(value, Tensor | np.ndarray):
            found[path] = _digest_of(value)
        return
    name, parts = inner
    found[path] = name
    if deep:
        for key, part in parts.items():
            _describe(f"{path} {key}".strip(), part, found, trained, deep - 1)


def _parts(value: Any, trained: frozenset[int]) -> tuple[str, Mapping[str, Any]] | None:
    """The name of an object and what it is made of; None for values."""
    if _is_plain(value) or isinstance(value, Tensor | np.ndarray):
        return None
    if isinstance(value, list | tuple):
        return type(value).__name__, {str(i): v for i, v in enumerate(islice(value, 100))}
    if isinstance(value, dict):
        return "dict", {str(k): v for k, v in islice(value.items(), 100)}
    if isinstance(value, partial):
        return "partial", {"of": value.func, "args": value.args, **value.keywords}
    if isinstance(value, types.MethodType):
        return value.__func__.__qualname__, {"self": value.__self__, "code": value.__func__}
    if isinstance(value, types.FunctionType):
        return _function(value)
    if isinstance(value, type | types.ModuleType | types.BuiltinFunctionType):
        return getattr(value, "__qualname__", value.__name__), {}
    if isinstance(value, nn.Module):
        return _module(value, trained)
    name = _name(type(value))
    if is_dataclass(value):
        return name, {f.name: getattr(value, f.name) for f in fields(value)}
    own = {k: v for k, v in getattr(value, "__dict__", {}).items() if not k.startswith("_")}
    call = vars(type(value)).get("__call__")
    return name, own | ({"code": call} if isinstance(call, types.FunctionType) else {})


def _module(value: nn.Module, trained: frozenset[int]) -> tuple[str, Mapping[str, Any]]:
    tensors = dict([*value.named_parameters(), *value.named_buffers()])
    name = _name(type(value))
    if isinstance(value, Elastic) or any(id(t) in trained for t in tensors.values()):
        return name, {}
    plain = {
        f"{prefix}.{key}".strip("."): v
        for prefix, m in value.named_modules()
        for key, v in vars(m).items()
        if key != "training" and not key.startswith("_") and _is_plain(v)
    }
    return name, {**plain, **tensors, "code": type(value).forward}


def _function(value: types.FunctionType) -> tuple[str, Mapping[str, Any]]:
    """A function by its code and the values that it takes from outside, of the user's own only."""
    name = f"{value.__module__}.{value.__qualname__}"
    if value.__module__.partition(".")[0] in _NAMED:
        return name, {}
    cells = {}
    for key, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
        try:
            cells[key] = cell.cell_contents
        except ValueError:  # not set yet
            continue
    outside = {n: value.__globals__[n] for n in value.__code__.co_names if n in value.__globals__}
    used = {n: v for n, v in outside.items() if not isinstance(v, type | types.ModuleType)}
    defaults = {"defaults": value.__defaults__} if value.__defaults__ else {}
    # Not its module's name: a task file is imported under a new one each time.
    code = _digest(_code(value.__code__))
    return value.__qualname__, {"source": code, **defaults, **used, **cells}


def _code(code: types.CodeType) -> bytes:
    consts = [
        _code(c) if isinstance(c, types.CodeType) else repr(c).encode() for c in code.co_consts
    ]
    return b"\0".join([code.co_code, repr(code.co_names).encode(), *consts])


def _name(kind: type) -> str:
    outside = kind.__module__.partition(".")[0] in _NAMED
    return f"{kind.__module__}.{kind.__qualname__}" if outside else kind.__qualname__


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list) and len(value) <= _FEW:
        return all(isinstance(v, _PLAIN) for v in value)
    return isinstance(value, (*_PLAIN, torch.dtype, torch.device))


def _json(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_json(v) for v in value]
    if isinstance(value, str):
        return value if len(value) <= 80 else _digest(value.encode())
    return value if isinstance(value, bool | int | None) else str(value)


def _few(values: list[Any]) -> Any:
    """One value that all have, a few of them, or a digest of many."""
    if all(v == values[0] for v in values):
        return values[0]
    return values if len(values) <= _FEW else _digest(repr(values).encode())


def _digest_of(value: Any) -> str:
    digest = hashlib.sha256()
    for leaf in pytree.tree_leaves(value):
        if isinstance(leaf, np.ndarray) and leaf.dtype.kind in "biufc":
            leaf = torch.as_tensor(leaf)
        if not isinstance(leaf, Tensor):
            digest.update(repr(leaf).encode() if isinstance(leaf, _PLAIN) else b"?")
            continue
        flat = leaf.detach().reshape(-1) if leaf.layout == torch.strided else torch.zeros(0)
        some = flat[:: max(1, -(-flat.numel() // _MOST))].cpu().contiguous()
        digest.update(f"{leaf.dtype} {tuple(leaf.shape)}".encode())
        digest.update(some.view(torch.uint8).numpy().data if some.numel() else b"")
    return f"#{digest.hexdigest()[:16]}"


def _digest(data: bytes) -> str:
    return f"#{hashlib.sha256(data).hexdigest()[:16]}"


__all__ = ["configured", "described", "differences", "sampled"]
