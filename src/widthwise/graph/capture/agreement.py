"""The check that an elastic network at full width is the model: outputs, gradients, and state.

It runs once, on the example, when a model is captured. Model and graph start from the same buffers
and random numbers and are called twice in a row, for what a model keeps from one call to the next
shows only in the second. What differs is refused by name.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from widthwise.errors import CaptureError
from widthwise.graph.capture.diagnostics import first_sentence
from widthwise.graph.capture.preflight import Lines, kept_state, silently, twin

# Relative to the largest entry of a tensor; a graph calls the same operators as the model, so that
# what is right differs by the order of sums at most.
_CLOSE = {torch.float16: 2e-2, torch.bfloat16: 5e-2}
_SEED = 0
_COMPARING: ContextVar[bool] = ContextVar("comparing", default=False)

Call = Callable[[tuple[Any, ...], dict[str, Any]], Any]


class KeptTableWarning(UserWarning):
    """A model keeps what it computed from parameters for later calls; its Elastic does not."""


@dataclass
class _Seen:
    """What one call left behind: outputs, inputs after it, buffers, gradients by name."""

    outputs: list[Any]
    inputs: list[Any]
    buffers: dict[str, Tensor]
    gradients: dict[str, Tensor | None] | None


def elastic_draws() -> bool:
    """Whether a model runs in the place of its captured graph, whose Elastic draws the widths."""
    return torch.compiler.is_exporting() or _COMPARING.get()


def check_agreement(
    model: nn.Module,
    run: Call,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    training: bool,
    gradients: bool = True,
) -> None:
    """Refuse a capture that is not the model.

    Args:
        model: the user's module; it and its tensors are left as they are.
        run: the captured graph at full width, as `run(args, kwargs)`, on the model's own tensors.
        args, kwargs: the example.
        training: the mode to compare in, that in which `run` was captured.
        gradients: whether gradients are compared as well.

    Raises:
        CaptureError: naming the output, the parameter or the attribute that differs.
    """
    mine = twin(model).train(training)
    before = _attributes(mine)
    with kept_state(model), _comparing(mine, model), silently(gradients=True):
        start = _buffers(model)
        call = _of(mine)
        inputs = gradients
        try:
            wanted = [_called(mine, call, args, kwargs, gradients=gradients, inputs=inputs)]
        except RuntimeError:  # some operators have no gradient of an input: weights of classes
            inputs = False
            _restore(model, start)
            wanted = [_called(mine, call, args, kwargs, gradients=gradients)]
        changed = [n for n, v in _attributes(mine).items() if before.get(n) != v]
        # The statistics of norms say nothing of the next call's outputs.
        statistics = _statistics(model)
        own = {n: b for n, b in start.items() if n not in statistics}
        again = bool(changed) or not _same(own, wanted[0].buffers)
        if again:
            wanted.append(_called(mine, call, args, kwargs))
        _restore(model, start)
        try:
            known = wanted[0].gradients is not None
            found = [_called(model, run, args, kwargs, gradients=known, inputs=inputs)]
            if again:
                found.append(_called(model, run, args, kwargs))
        except CaptureError:
            raise
        except Exception as error:
            raise CaptureError(
                f"The captured graph of {type(model).__name__} does not run on the example "
                f"({first_sentence(error)}); give widthwise a part of the model without what "
                "stands in the way."
            ) from error
    mode = "training" if training else "evaluation"
    _compare(model, wanted[0], found[0], mode)
    if again:
        _compare_second(model, args, kwargs, (wanted[1], found[1]), changed, mode)


def _of(module: nn.Module) -> Call:
    return lambda args, kwargs: module(*args, **kwargs)


@contextmanager
def _comparing(mine: nn.Module, model: nn.Module) -> Iterator[None]:
    """The model in the modes of its twin, for a graph follows the norms that are frozen."""
    modes = [module.training for module in model.modules()]
    token = _COMPARING.set(True)
    for module, like in zip(model.modules(), mine.modules(), strict=True):
        module.training = like.training
    try:
        yield
    finally:
        _COMPARING.reset(token)
        for module, training in zip(model.modules(), modes, strict=True):
            module.training = training


def _compare(model: nn.Module, wanted: _Seen, found: _Seen, mode: str) -> None:
    name = type(model).__name__
    if not _equal(wanted.outputs, found.outputs):
        raise CaptureError(
            f"The captured graph of {name} computes something else than the model in {mode} mode, "
            "so that what forward does depends on more than its inputs, parameters and buffers; "
            "give widthwise the part of the model without that."
        )
    if not _equal(wanted.inputs, found.inputs):
        raise CaptureError(
            f"{name} changes its inputs in another way than the captured graph does; let forward "
            "compute new tensors."
        )
    for buffer, value in found.buffers.items():
        if not _close(wanted.buffers[buffer], value):
            raise CaptureError(
                f"{name} changes its buffer {buffer!r} in {mode} mode in a way that the captured "
                "graph does not; change it in place, by copy_() or add_() under torch.no_grad()."
            )
    if wanted.gradients is None:
        return
    if found.gradients is None:
        raise CaptureError(
            f"The captured graph of {name} has no gradients in {mode} mode, and the model has; let "
            "forward compute new tensors where it writes to one in place, or give prove=False if "
            "no gradient is needed."
        )
    for leaf, gradient in wanted.gradients.items():
        if not _close_gradients(gradient, found.gradients[leaf]):
            raise CaptureError(
                f"At full width the gradient of {leaf} is not the model's, so that something has a "
                "backward that a captured graph does not hold; give widthwise the part of "
                f"{name} without it, or prove=False if no gradient is needed."
            )


def _compare_second(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    seen: tuple[_Seen, _Seen],
    changed: list[str],
    mode: str,
) -> None:
    """Compare second calls; what differs now comes from what the first one left."""
    wanted, found = seen
    if not changed:
        return _compare(model, wanted, found, mode)
    training = mode == "training"
    if _equal(wanted.outputs, found.outputs) and _same(found.buffers, wanted.buffers):
        return _tell_of_tables(model, args, kwargs, changed, training=training)
    mine = twin(model).train(training)
    with kept_state(model), silently(), Lines(lambda: _attributes(mine).get(changed[0])) as lines:
        mine(*args, **kwargs)
    raise CaptureError(
        f"{type(model).__name__} keeps {changed[0]} from one call to the next{lines.found}, which "
        "a captured graph holds as it was; keep it in a buffer that forward changes in place, or "
        "pass it in and return it."
    )


def _tell_of_tables(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    changed: list[str],
    *,
    training: bool,
) -> None:
    """Warn of attributes in which the first call leaves what it computed from parameters.

    Later calls of the model take it as it is: their gradients stop there, or go back through a
    graph that is gone. A captured graph computes it at every call.
    """
    mine = twin(model).train(training)
    seen = []
    with kept_state(model), silently(gradients=True):
        for _ in range(2):
            given = pytree.tree_map_only(Tensor, lambda t: t.detach().clone(), (args, kwargs))
            try:
                _of(mine)(*given)
            except RuntimeError:  # it runs without gradients alone
                return
            seen.append(_attributes(mine))
    first, second = seen
    # What every call makes again is only left to look at.
    kept = [name for name in changed if name in first and first[name] == second.get(name)]
    tables = [name for name in kept if _has_history(mine, name)]
    if tables:
        mode = "training" if mine.training else "evaluation"
        others = f" and {len(tables) - 1} more" if tables[1:] else ""
        warnings.warn(
            f"In {mode} mode {type(model).__name__} keeps {tables[0]}{others}, computed from "
            "parameters, for later calls, whose gradients do not reach these parameters; the "
            "Elastic computes it at every call, as the model does at its first.",
            KeptTableWarning,
            stacklevel=4,
        )


def _has_history(model: nn.Module, name: str) -> bool:
    path, _, attribute = name.rpartition(".")
    held = pytree.tree_leaves(getattr(model.get_submodule(path), attribute))
    return any(isinstance(x, Tensor) and x.grad_fn is not None for x in held)


def _called(
    model: nn.Module,
    run: Call,
    args: Any,
    kwargs: Any,
    *,
    gradients: bool = False,
    inputs: bool = False,
) -> _Seen:
    """Call with the same random numbers each time, and take gradients of all outputs at once.

    gradients: of the parameters. inputs: of the inputs as well.
    """
    given = pytree.tree_map_only(Tensor, lambda t: t.detach().clone(), (args, dict(kwargs)))
    leaves = {
        f"input {i}": t.requires_grad_()
        for i, t in enumerate(pytree.tree_leaves(given))
        if inputs and isinstance(t, Tensor) and (t.is_floating_point() or t.is_complex())
    }
    # What forward writes to may not be a leaf.
    passed = pytree.tree_map_only(Tensor, lambda t: t.clone() if t.requires_grad else t, given)
    leaves |= {repr(n): p for n, p in model.named_parameters() if gradients and p.requires_grad}
    torch.manual_seed(_SEED)
    with torch.set_grad_enabled(gradients):
        out = [o for o in pytree.tree_leaves(run(*passed)) if isinstance(o, Tensor)]
    return _Seen(
        [o.detach().clone() for o in out],
        [t.detach().clone() for t in pytree.tree_leaves(passed) if isinstance(t, Tensor)],
        _buffers(model),
        _gradients(out, leaves) if gradients else None,
    )


def _gradients(out: list[Tensor], leaves: dict[str, Tensor]) -> dict[str, Tensor | None] | None:
    """The gradients of a random sum of all outputs; None where the model gives none."""
    reached = [o for o in out if o.requires_grad and o.grad_fn is not None]
    if not reached or not leaves:
        return {} if not leaves else dict.fromkeys(leaves)
    generator = torch.Generator().manual_seed(_SEED)
    weights = [
        torch.randn(o.shape, generator=generator, dtype=torch.float64).to(o.device, o.dtype)
        for o in reached
    ]
    try:
        found = torch.autograd.grad(
            reached, list(leaves.values()), weights, allow_unused=True, retain_graph=True
        )
    except RuntimeError:  # the user's own backward refuses, as reentrant checkpoints do
        return _by_backward(reached, leaves, weights)
    return dict(zip(leaves, found, strict=True))


def _by_backward(
    out: list[Tensor], leaves: dict[str, Tensor], weights: list[Tensor]
) -> dict[str, Tensor | None] | None:
    """The same by `backward`, which leaves the gradients that the tensors held as they were."""
    if any(t._post_accumulate_grad_hooks for t in leaves.values()):
        return None  # which may take a step of an optimizer
    held = [t.grad for t in leaves.values()]
    try:
        for t in leaves.values():
            t.grad = None
        torch.autograd.backward(out, weights)
        return {name: t.grad for name, t in leaves.items()}
    except RuntimeError:
        return None
    finally:
        for t, gradient in zip(leaves.values(), held, strict=True):
            t.grad = gradient


def _buffers(model: nn.Module) -> dict[str, Tensor]:
    return {n: b.detach().clone() for n, b in model.named_buffers()}


def _statistics(model: nn.Module) -> set[str]:
    """The buffers of batch norms and their kin, by name."""
    return {
        f"{path}.{name}".lstrip(".")
        for path, module in model.named_modules()
        if isinstance(module, _NormBase)
        for name, _ in module.named_buffers(recurse=False)
    }


def _restore(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            buffer.copy_(values[name])


_NOT_KEPT = {"_parameters", "_buffers", "_modules", "_non_persistent_buffers_set", "training"}


def _attributes(model: nn.Module) -> dict[str, Any]:
    """What the modules hold besides parameters and buffers, so that a change can be told."""
    found: dict[str, Any] = {}
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if name not in _NOT_KEPT and "_hooks" not in name:
                found[f"{path}.{name}" if path else name] = _mark(value)
    return found


def _mark(value: Any) -> Any:
    if isinstance(value, (bool, int, float, str, type(None))):
        return value
    if isinstance(value, Tensor):
        return id(value), value._version
    if isinstance(value, (list, tuple)) and len(value) < 100:
        return tuple(map(_mark, value))
    if isinstance(value, dict) and len(value) < 100:
        return tuple((str(k), _mark(v)) for k, v in value.items())
    return id(value)


def _same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """Whether the buffers of `a` are as in `b`, which may have made more of them."""
    return all(_close(value, b[name]) for name, value in a.items())


def _equal(a: list[Any], b: list[Any]) -> bool:
    return len(a) == len(b) and all(map(_close, a, b))


def _close(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors differ by rounding only."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.layout is not torch.strided:
        return a.layout is b.layout and _close(a.to_dense(), b.to_dense())
    if not (a.is_floating_point() or a.is_complex()):
        return torch.equal(a, b)
    near = _CLOSE.get(a.dtype, 1e-3)
    if _largest(a - b) <= near * _largest(a):
        return True
    finite = a.isfinite()
    scale = float(a[finite].abs().max()) if finite.any() else 1.0
    return torch.allclose(a, b, rtol=near, atol=near * scale, equal_nan=True)


def _largest(tensor: Tensor) -> float:
    """The largest absolute entry; not a number where one of them is none."""
    return float(torch.linalg.vector_norm(tensor, torch.inf)) if tensor.numel() else 0.0


def _close_gradients(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        given = a if b is None else b
        return given is None or not bool(given.any())
    return _close(a, b)
