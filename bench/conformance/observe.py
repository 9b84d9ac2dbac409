"""Everything that a call of a module does, by name, and how two such records compare.

Recorded: outputs (with their form, and whether they carry gradients), gradients of parameters and
inputs, parameters and buffers afterwards, inputs afterwards (a model may write to them).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.utils._pytree as pytree
from bench.conformance import verdicts
from bench.conformance.verdicts import Finding
from torch import Tensor, nn

import widthwise as ww

TOLERANCE = 1e-6  # relative to the largest entry of a tensor; everything is in double precision
NOTHING = 1e-6  # a gradient this small beside the largest of all is compared with that one


@dataclass
class Record:
    """What calls of a module did: values by name, or the exception that ended them."""

    values: dict[str, Any] = field(default_factory=dict)
    error: Exception | None = None


def observe(
    call: Callable[..., Any],
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    calls: int = 1,
    inputs_need_gradients: bool = True,
) -> Record:
    """Call a module, once or several times in a row, go backward, and record all that it does.

    call: the module, or a function that calls it. model: holds the parameters and buffers. Chance
    is seeded alike every time; a state that calls leave behind is not undone.
    """
    record = Record()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for number in range(calls):
            prefix = "" if calls == 1 else f"call {number + 1}: "
            given, named = pytree.tree_map_only(
                Tensor, lambda x: _leaf(x, inputs_need_gradients), (args, dict(kwargs))
            )
            try:
                seen = dict(_one_call(call, model, given, named))
            except Exception as error:  # noqa: BLE001 - the user's code runs inside
                record.error = error
                break
            record.values |= {prefix + name: value for name, value in seen.items()}
    return record


def _leaf(x: Tensor, needs_gradients: bool) -> Tensor:
    copy = x.detach().clone()
    differentiable = copy.is_floating_point() or copy.is_complex()
    return copy.requires_grad_() if needs_gradients and differentiable else copy


def _one_call(
    call: Callable[..., Any], model: nn.Module, args: Any, kwargs: Any
) -> Iterator[tuple[str, Any]]:
    model.zero_grad(set_to_none=True)
    outputs = dict(leaves(call(*args, **kwargs), "output"))
    _backward([t for t in outputs.values() if isinstance(t, Tensor)])
    for name, value in outputs.items():
        yield name, value.detach().clone() if isinstance(value, Tensor) else value
        if isinstance(value, Tensor):
            yield f"{name} carries gradients", value.requires_grad
    for name, parameter in model.named_parameters():
        yield f"gradient of {name}", _copied(parameter.grad)
        yield f"{name} afterwards", parameter.detach().clone()
    for name, buffer in model.named_buffers():
        yield f"{name} afterwards", buffer.detach().clone()
    for number, x in enumerate(pytree.tree_leaves((args, kwargs))):
        if isinstance(x, Tensor):
            yield f"gradient of input {number}", _copied(x.grad) if x.is_leaf else None
            yield f"input {number} afterwards", x.detach().clone()


def _copied(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.detach().clone()


def _backward(outputs: list[Tensor]) -> None:
    """Of a sum with random weights, so that no two errors cancel."""
    draws = torch.Generator().manual_seed(2)
    total: Any = 0
    for out in outputs:
        if out.requires_grad:
            real = torch.view_as_real(out) if out.is_complex() else out
            total = total + (real * torch.randn(real.shape, generator=draws).to(real)).sum()
    if isinstance(total, Tensor):
        total.backward()


def leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The leaves of an output by path, and the class of each container."""
    items: Any
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    elif dataclasses.is_dataclass(value):
        items = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
    else:
        yield path, value
        return
    yield f"class of {path}", type(value).__name__
    for key, inner in items:
        yield from leaves(inner, f"{path}.{key}")


def compare(check: str, ours: Record, theirs: Record, tolerance: float = TOLERANCE) -> Finding:
    """What a check found: `ours` was recorded of the Elastic, `theirs` of the model."""
    if ours.error is not None:
        text = said(ours.error)
        if theirs.error is not None:
            return Finding(check, verdicts.BOTH_FAIL, text)
        refused = isinstance(ours.error, ww.errors.WidthwiseError) or _by_its_graph(ours.error)
        return Finding(check, verdicts.REFUSED if refused else verdicts.ERROR, text)
    if theirs.error is not None:
        return Finding(check, verdicts.ACCEPTED, said(theirs.error))
    text = _apart(ours.values, theirs.values, tolerance)
    return Finding(check, verdicts.DIFFERENT if text else verdicts.EQUAL, text)


def _by_its_graph(error: Exception) -> bool:
    """Whether a cut graph module refused a size: it can raise nothing but an AssertionError."""
    told = re.match(r"Dim \d+ of input .* must have size|The captured graph is right", str(error))
    return isinstance(error, AssertionError) and told is not None


def said(error: BaseException) -> str:
    """An exception in a line."""
    text = " ".join(str(error).split())
    return (
        text if isinstance(error, ww.errors.WidthwiseError) else f"{type(error).__name__}: {text}"
    )


def _apart(ours: dict[str, Any], theirs: dict[str, Any], tolerance: float) -> str:
    """The differences, as text: how many values differ, and the first three."""
    largest = max((_size(v) for n, v in theirs.items() if "gradient of" in n), default=0.0)
    told = []
    for name in dict.fromkeys([*theirs, *ours]):
        if name not in ours or name not in theirs:
            told.append(f"{name} is only in the {'model' if name in theirs else 'Elastic'}'s")
            continue
        floor = NOTHING * largest if "gradient of" in name else 0.0
        text = _difference(ours[name], theirs[name], tolerance, floor)
        if text:
            told.append(f"{name}: {text}")
    more = f"; and {len(told) - 3} more" if len(told) > 3 else ""
    return "; ".join(told[:3]) + more


def _size(value: Any) -> float:
    return (
        float(value.abs().nan_to_num().max())
        if isinstance(value, Tensor) and value.numel()
        else 0.0
    )


def _difference(a: Any, b: Any, tolerance: float, floor: float) -> str:
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
        same = (a is None) == (b is None) and (isinstance(a, Tensor) == isinstance(b, Tensor))
        if same and (a == b or (type(a) is type(b) and not isinstance(a, (int, float, str, bool)))):
            return ""
        return f"{_shown(a)} instead of {_shown(b)}"
    if a.shape != b.shape or a.dtype != b.dtype:
        return f"{tuple(a.shape)} {a.dtype} instead of {tuple(b.shape)} {b.dtype}"
    if a.is_complex():
        a, b = torch.view_as_real(a), torch.view_as_real(b)
    if a.is_sparse:
        a, b = a.to_dense(), b.to_dense()
    if not a.is_floating_point():
        return "" if torch.equal(a, b) else f"{int((a != b).sum())} of {a.numel()} entries differ"
    finite = b.isfinite()
    if not torch.equal(a.isfinite(), finite) or not torch.equal(
        a[~finite].nan_to_num(), b[~finite].nan_to_num()
    ):
        return "other entries are not finite"
    a, b = a[finite].double(), b[finite].double()
    if not b.numel():
        return ""
    apart = float((a - b).abs().max())
    scale = max(float(b.abs().max()), floor)
    if apart <= tolerance * scale:
        return ""
    return f"differs by {apart:.1e} where the model's largest is {float(b.abs().max()):.1e}"


def _shown(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor (largest {_size(value):.1e})"
    return repr(value)[:60]
