"""Listening to a model while torch.export records it, for what the record would leave out.

The model is a twin of the user's, so it may carry hooks: they put a listener around its forward
that sees every function of torch as the model calls it. It marks hooks on tensors, takes `.data`
for the detached tensor that it is, lets the tracer know of inference mode, and notes which line of
the user's code fixed a size.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch._subclasses import FakeTensor
from torch.overrides import TorchFunctionMode

from widthwise.errors import CaptureError
from widthwise.graph.capture.diagnostics import running
from widthwise.graph.capture.own_functions import Calls

_DATA: Any = Tensor.data.__get__  # type: ignore[attr-defined]
_SET_DATA: Any = Tensor.data.__set__  # type: ignore[attr-defined]


class Listener(TorchFunctionMode):
    """Sees the functions that a model calls while it is captured.

    Attributes:
        lines: for guards on sizes that torch recorded, by their number, the line of the user's
            code that ran then.
        inside: the numbers of guards that were recorded inside a function of torch whose result
            tells the model no size.
        given: the numbers of those inside a function to which the model gave a size, so that the
            function may have taken it for a number.
    """

    def __init__(self, calls: Calls) -> None:
        super().__init__()
        self.lines: dict[int, str] = {}
        self.inside: set[int] = set()
        self.given: set[int] = set()
        self._calls = calls
        self._inferring = False
        self._guards: list[Any] | None = None
        self._seen = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        self._follow_inference_mode()
        if func is Tensor.register_hook:
            self._calls.hook(*args, **kwargs)
        if func == _DATA:
            return args[0].detach()
        if func == _SET_DATA:
            raise CaptureError(
                f"Forward puts other numbers into a tensor by .data{running(sys._getframe(1))}, "
                "which a captured graph cannot hold; compute a new tensor, or use copy_() under "
                "torch.no_grad()."
            )
        before = len(self._guards or ())
        out = func(*args, **kwargs)
        if self._guards is None:
            self._guards = _guards(args)
        after = len(self._guards or ())
        if not _tells_a_size(func, out):
            self.inside |= set(range(before, after))
            if after > before and _given_a_size((args, kwargs)):
                self.given |= set(range(before, after))
        if after > self._seen:
            # Guards since the last call come from this line, or from a module that it calls.
            self.lines |= dict.fromkeys(range(self._seen, after), running(sys._getframe(1)))
            self._seen = after
        return out

    def _follow_inference_mode(self) -> None:
        """Inference mode switches gradients off where the tracer does not see it."""
        if torch.is_inference_mode_enabled() != self._inferring:
            self._inferring = not self._inferring
            torch._C._set_grad_enabled(torch.is_grad_enabled())


def _given_a_size(call: Any) -> bool:
    return any(isinstance(x, (torch.SymInt, torch.SymFloat)) for x in pytree.tree_leaves(call))


def _guards(args: tuple[Any, ...]) -> list[Any] | None:
    for value in args:
        if isinstance(value, FakeTensor) and value.fake_mode.shape_env is not None:
            return value.fake_mode.shape_env.guards
    return None


# What a tensor tells about itself that does not depend on its sizes.
_NO_SIZE = (torch.dtype, torch.device, torch.layout, torch.memory_format, type(None), str)
_SPLITS = frozenset(
    """unbind split split_with_sizes chunk tensor_split hsplit vsplit dsplit unsafe_split
    unsafe_split_with_sizes unsafe_chunk""".split()
)  # how many tensors they return tells a size
_NO_SIZE_BY_NAME = frozenset(
    """dim ndim ndimension element_size get_device requires_grad is_leaf is_cpu is_cuda is_meta
    is_mps is_mkldnn is_nested is_quantized is_sparse is_sparse_csr is_xla is_xpu is_floating_point
    is_complex is_inference is_conj is_neg""".split()
)


class Looks(TorchFunctionMode):
    """Notes whether a model's own code looks at the size of a tensor, on which it might decide.

    What functions of torch look at inside is not seen: the operators in the graph do it again.

    Attributes:
        any: whether it did.
    """

    def __init__(self) -> None:
        super().__init__()
        self.any = False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        self.any = self.any or _tells_a_size(func, out)
        return out


def _tells_a_size(func: Any, out: Any) -> bool:
    name = getattr(func, "__name__", "")
    if name == "__get__":  # of a property
        name = getattr(getattr(func, "__self__", None), "__name__", "")
    return name in _SPLITS or not (name in _NO_SIZE_BY_NAME or _sizeless(out))


def _sizeless(value: Any) -> bool:
    """Whether a result holds tensors and marks only, and no number."""
    if isinstance(value, (list, tuple)) and not isinstance(value, torch.Size):
        return all(map(_sizeless, value))
    return isinstance(value, (Tensor, *_NO_SIZE))


@contextmanager
def listening(model: nn.Module, listener: TorchFunctionMode) -> Iterator[None]:
    """Put a listener around the forward of a model that nobody else uses."""
    around = ExitStack()
    enter = model.register_forward_pre_hook(
        _Call(lambda: around.enter_context(listener)), prepend=True
    )
    leave = model.register_forward_hook(_Call(around.close))
    try:
        yield
    finally:
        around.close()  # forward may have raised
        enter.remove()
        leave.remove()


class _Call:
    """A hook that calls something and changes nothing."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.call = call

    def __call__(self, *_: Any) -> None:
        self.call()
