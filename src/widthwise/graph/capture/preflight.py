"""Running a model on its example before it is captured, to find what a graph could not hold.

torch.export records the operators of one call on tensors without data. It sees neither that the
example has the wrong dtype, nor writes to parameters through `.data`, nor that a number was drawn
by Python. One call for real does, on a twin of the model and copies of the example; parameters,
buffers and random generators are left as they were.
"""

from __future__ import annotations

import copy
import random
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

import numpy as np
import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch._ops import HigherOrderOperator, OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from widthwise.errors import CaptureError
from widthwise.graph.capture.containers import make_known
from widthwise.graph.capture.diagnostics import does_not_run, first_sentence, is_own, running

_RUNS = 8  # how often a model that draws with Python runs again to see whether that matters

_INSTEAD = (
    "compute a new tensor from it instead, as torch.nn.utils.parametrize does, or change weights "
    "outside forward, between the steps of training"
)


def twin(model: nn.Module) -> nn.Module:
    """The model once more on the same tensors, so that what it notes while it runs is thrown away.

    A table that a model keeps for the next call, say, would be one without data. What cannot be
    copied (a lock, a tensor with a history of gradients) is shared too.
    """
    held = [x for m in model.modules() for x in pytree.tree_leaves(vars(m))]
    memo: dict[int, Any] = {id(x): x for x in held if isinstance(x, Tensor)} | _empty(model)
    try:
        return copy.deepcopy(model, dict(memo))
    except Exception:  # noqa: BLE001 - any object may refuse in its own way
        memo |= {id(x): x for x in held if not isinstance(x, nn.Module) and not _copies(x)}
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:
        raise CaptureError(
            f"{type(model).__name__} holds something that cannot be copied "
            f"({first_sentence(error)}); take it out of the module while widthwise captures it."
        ) from error


def _empty(model: nn.Module) -> dict[int, Any]:
    """Copies of the empty collections of all modules by their ids: hooks' are most of what
    there is to copy, and take copy.deepcopy long.
    """
    values = (x for m in model.modules() for x in vars(m).values())
    return {id(x): type(x)() for x in values if type(x) in (OrderedDict, dict, set) and not x}


def _copies(value: Any) -> bool:
    try:
        copy.deepcopy(value)
    except Exception:  # noqa: BLE001 - the same
        return False
    return True


def try_out(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Run the model, in the mode it is in, and make known to torch.export what it returns.

    Raises CaptureError where it does not run, returns no tensor, changes its parameters, or
    computes something else after other draws of Python or numpy: a graph would hold one for ever.
    """
    try:
        out = _checked(_Call(model, args, kwargs))
    except CaptureError:
        raise
    except Exception as error:
        if any(t.is_meta for t in [*model.parameters(), *model.buffers()]):
            return  # without data it need not run; torch.export will tell
        raise CaptureError(does_not_run(model, args, kwargs, error)) from error
    make_known(out)
    leaves = pytree.tree_leaves(out)
    if all(leaf is None or isinstance(leaf, (bool, int, float, str)) for leaf in leaves):
        raise CaptureError(
            f"{type(model).__name__} returns no tensor (but {type(out).__name__}), so that nothing "
            "of it can be trained or cut; let forward return what it computes."
        )


def _checked(call: _Call) -> Any:
    """What the call returns, once it is clear that a graph can hold how it comes about."""
    out, changed = call()
    if _parameters in changed:
        where = call.line_that_changes(_parameters)
        raise CaptureError(
            f"{call.name} puts something else in the place of a parameter in forward{where}, which "
            f"narrower networks would lose; {_INSTEAD}."
        )
    if _chance in changed and any(_differ(out, call(seed)[0]) for seed in range(_RUNS)):
        raise CaptureError(
            f"{call.name} computes with numbers that Python or numpy draws"
            f"{call.line_that_changes(_chance)}, and a captured graph would hold one draw for "
            "ever; draw with torch.rand and choose by torch.where, or switch that part off."
        )
    return out


class _Call:
    """A call of a model that can be made again and again and leaves nothing behind."""

    def __init__(self, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self.model = model
        self.name = type(model).__name__
        self.inputs = args, dict(kwargs)

    def __call__(self, seed: int | None = None) -> tuple[Any, list[_Watch]]:
        """What is returned, and which of the watched things were others afterwards."""
        model = twin(self.model)
        with kept_state(self.model):
            if seed is not None:
                random.seed(seed)
                np.random.seed(seed)
            before = [watch(model) for watch in _WATCHED]
            out = self._run(model)
            return out, [w for w, b in zip(_WATCHED, before, strict=True) if w(model) != b]

    def line_that_changes(self, watch: _Watch) -> str:
        """Where that is in the user's own code, as `in_words` says it; may be empty."""
        model = twin(self.model)
        with kept_state(self.model), Lines(lambda: watch(model)) as lines:
            self._run(model)
        return lines.found

    def _run(self, model: nn.Module) -> Any:
        args, kwargs = pytree.tree_map_only(Tensor, lambda t: t.detach().clone(), self.inputs)
        writes = _OnlyReads(model)
        try:
            with silently(), writes:
                return model(*args, **kwargs)
        finally:
            if writes.refusal is not None:  # first of all, even where the model caught it
                raise writes.refusal


_Watch = Callable[[nn.Module], Any]


def _parameters(model: nn.Module) -> Any:
    return {name: (id(p), _storage(p)) for name, p in model.named_parameters()}


def _chance(_: nn.Module) -> Any:
    state: Any = np.random.get_state()
    return random.getstate(), state[1].tobytes(), state[2:]


_WATCHED: tuple[_Watch, ...] = (_parameters, _chance)


def _storage(tensor: Tensor) -> int:
    """What all views of the same numbers have in common, on any device."""
    return tensor.untyped_storage()._cdata if tensor.layout is torch.strided else id(tensor)


def _differ(a: Any, b: Any) -> bool:
    """Whether two outputs differ by more than the order of sums may do."""
    for x, y in zip(pytree.tree_leaves(a), pytree.tree_leaves(b), strict=True):
        if not isinstance(x, Tensor):
            continue
        same = x.shape == y.shape and torch.allclose(x, y, rtol=1e-3, atol=1e-6, equal_nan=True)
        if not same:
            return True
    return False


@contextmanager
def kept_state(model: nn.Module) -> Iterator[None]:
    """Put the tensors of the model and all random generators back as they were."""
    tensors = [(t, t.data) for t in [*model.parameters(), *model.buffers()]]
    values = [(b, b.clone()) for b in model.buffers()]
    gpus = {t.device.index for t, _ in tensors if t.device.type == "cuda"}
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(sorted(gpus)):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        with torch.no_grad():
            for tensor, data in tensors:
                if _storage(tensor) != _storage(data):
                    tensor.data = data
            for buffer, value in values:
                buffer.copy_(value)


@contextmanager
def silently(*, gradients: bool = False) -> Iterator[None]:
    """Without compiling or warnings, which the model's own runs will show."""
    eager = torch.compiler.set_stance("force_eager")
    with torch.set_grad_enabled(gradients), eager, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class _OnlyReads(TorchDispatchMode):
    """Refuses what writes to a parameter, through whatever view, or calls functions of its own."""

    supports_higher_order_operators = True

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.owners = {_storage(p): name for name, p in model.named_parameters()}
        self.refusal: CaptureError | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if isinstance(func, HigherOrderOperator):
            where = running(sys._getframe(1))
            self._refuse(
                f"{type(self.model).__name__} calls torch's {func.name()}{where}, whose inner "
                "functions cannot be captured; write it with plain operators, such as torch.where "
                "and scaled_dot_product_attention."
            )
        if isinstance(func, OpOverload) and func._schema.is_mutable:
            for i, argument in enumerate(func._schema.arguments):
                if argument.alias_info is not None and argument.alias_info.is_write:
                    given = args[i] if i < len(args) else kwargs.get(argument.name)
                    self._check(func._schema.name, given)
        return func(*args, **kwargs)

    def _check(self, operator: str, written: Any) -> None:
        for leaf in pytree.tree_leaves(written):
            if isinstance(leaf, Tensor) and _storage(leaf) in self.owners:
                owner, where = self.owners[_storage(leaf)], running(sys._getframe(2))
                self._refuse(
                    f"{type(self.model).__name__} writes to its parameter {owner!r} in forward"
                    f"{where}, by {operator}, which narrower networks would lose; {_INSTEAD}."
                )

    def _refuse(self, sentence: str) -> None:
        self.refusal = CaptureError(sentence)
        raise self.refusal


class Lines:
    """Runs with Python's tracing on, to find the first own line after which something changed."""

    def __init__(self, watch: Callable[[], Any]) -> None:
        self.watch = watch
        self.before = watch()
        self.last = ""
        self.found = ""

    def __enter__(self) -> Lines:
        self.outer = sys.gettrace()
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self.outer)

    def _trace(self, frame: FrameType, event: str, argument: object) -> Any:
        if self.found or not is_own(frame):
            return None
        if self.watch() != self.before:
            self.found = self.last
        # What happens after a return happens in the line that called.
        self.last = running(frame.f_back if event == "return" else frame)
        return self._trace
