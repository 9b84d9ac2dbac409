"""Which operators a computation calls, on what.

Every tensor gets a number by how its memory was computed; equal numbers mean equal computations.
So two runs are compared operator by operator, whatever their order and by whichever views they
reach the same entries, with all arguments that are numbers, and whether gradients are taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch._export.utils import _compiling_state_context
from torch._subclasses import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten


def recorded(
    known: dict[Any, int], state: Mapping[str, Tensor], call: Any, run: Callable[[], Any]
) -> tuple[Any, Any]:
    """What `run` returns, and what stands for it and for the tensors of the model after it.

    The second is None where it cannot be told: the origin of a tensor is not known, or what comes
    depends on numbers that were read.

    known: shared by all runs that are to be compared. state: the model's tensors, with data or
    without, by names that mean the same in all runs. call: the inputs. Raises what `run` raises,
    and instead of writing to one of `state` that takes gradients.
    """
    learning = {_storage(t) for t in state.values() if t.requires_grad}
    recorder = _Recorder(known, learning)
    for name, tensor in state.items():
        recorder.name(tensor, ("state", name))
    for i, leaf in enumerate(pytree.tree_leaves(call)):
        if isinstance(leaf, Tensor):
            recorder.name(leaf, ("input", i))
    # Some models take another path while they are exported, which is the one that was captured.
    with _compiling_state_context(), recorder:
        outputs = run()
    return outputs, recorder.record([*pytree.tree_leaves(outputs), *state.values()])


_LARGE = 65_536  # numbers in a constant above which it is not looked at


class _UnknownError(Exception):
    """What is done cannot be told from the operators."""


class _WrittenError(Exception):
    """What must not be done: a parameter would change."""


class _Recorder(TorchDispatchMode):
    """Numbers every tensor by how it was computed; equal numbers mean equal computations.

    known: (operator, arguments) -> number, shared by all runs that are to be compared. learning:
    the memory of the parameters.
    """

    def __init__(self, known: dict[Any, int], learning: set[int]) -> None:
        super().__init__()
        self.known = known
        self.learning = learning
        self.held: list[Tensor] = []  # so that no id is used twice
        self.numbers: dict[int, int] = {}
        self.draws = 0  # two random numbers are never the same
        self.written: dict[int, int] = {}  # storage -> number of the last operator that wrote to it
        self.lost = False  # whether something happened that cannot be told

    def record(self, values: Sequence[Any]) -> Any:
        """What stands for these values in the end; None where it cannot be told."""
        try:
            return None if self.lost else [self.number(value) for value in values]
        except Exception:  # noqa: BLE001 - as below
            return None

    def name(self, tensor: Tensor, key: Any) -> None:
        """Say where a tensor came from."""
        self.held.append(tensor)
        self.numbers.setdefault(id(tensor), self._known(key))

    def number(self, value: Any) -> Any:
        """What stands for an argument or a result."""
        if isinstance(value, Tensor):
            if id(value) not in self.numbers:
                self.name(value, _content(value))
            where = _where(value)
            written = self.written.get(_storage(value))
            learns = value.requires_grad and torch.is_grad_enabled()
            return "tensor", self.numbers[id(value)], written, where, learns
        if isinstance(value, (list, tuple)):
            return tuple(map(self.number, value))
        return value, type(value)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        given = _by_name(func, args, kwargs)
        changed = [_storage(tensor) for tensor in _written(func, given)]
        if self.learning.intersection(changed):
            raise _WrittenError
        self.lost = self.lost or _reads_data(func, given)
        out = func(*args, **kwargs)
        if not self.lost:
            try:
                self._note(func, given, changed, out)
            except Exception:  # noqa: BLE001 - nested tensors, say, have no strides
                self.lost = True
                self.held.clear()
        return out

    def _note(self, func: Any, given: dict[str, Any], changed: Sequence[int], out: Any) -> None:
        """Number what an operator gave."""
        if _draws(func, given):
            self.draws += 1
            given["draw"] = self.draws
        results = [x for x in pytree.tree_leaves(out) if isinstance(x, Tensor)]
        if not results or _changes_nothing(func, given):
            return
        if _is_view(func):
            first = next(iter(given.values()))
            for result in results:
                self.held.append(result)
                self.numbers[id(result)] = self.number(first)[1]
            return
        number = self._known((_plain(func), self.number(list(given.items()))))
        self.written |= dict.fromkeys(changed, number)
        for at, result in enumerate(results):
            self.name(result, (number, at))

    def _known(self, key: Any) -> int:
        return self.known.setdefault(key, len(self.known))


def _content(tensor: Tensor) -> Any:
    """What a constant is known by: its values."""
    without = isinstance(tensor, FakeTensor) or tensor.is_meta or not _strided(tensor)
    if without or tensor.numel() > _LARGE:
        raise _UnknownError
    return "constant", tensor.dtype, tuple(tensor.shape), tuple(tensor.flatten().tolist())


def _draws(func: Any, given: Mapping[str, Any]) -> bool:
    """Whether an operator uses random numbers; attention without dropout does not."""
    rated = any(a.name == "dropout_p" for a in func._schema.arguments)
    return torch.Tag.nondeterministic_seeded in func.tags and (not rated or "dropout_p" in given)


_READS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
_MASKS = (torch.bool, torch.uint8)


def _reads_data(func: Any, given: Mapping[str, Any]) -> bool:
    """Whether what comes out, or its size, tells the model's code numbers of the example.

    Without data such operators raise by themselves, where the numbers are not known.
    """
    if not _READS.intersection(func.tags):
        return False
    tensors = [x for x in pytree.tree_leaves(list(given.values())) if isinstance(x, Tensor)]
    if any(isinstance(x, FakeTensor) for x in tensors):
        return False
    # An index is a mask or holds positions, which have the same shape whatever they are.
    return func is not aten.index.Tensor or any(x.dtype in _MASKS for x in tensors[1:])


def _written(func: Any, given: Mapping[str, Any]) -> list[Tensor]:
    """The tensors that an operator writes to."""
    names = [a.name for a in func._schema.arguments if a.alias_info and a.alias_info.is_write]
    return [x for x in pytree.tree_leaves([given.get(n) for n in names]) if isinstance(x, Tensor)]


def _changes_nothing(func: Any, given: Mapping[str, Any]) -> bool:
    """A batch counter that evaluation does not advance."""
    return func is aten.add_.Tensor and given.get("other") is False


_ARANGES = {aten.arange.default, aten.arange.start, aten.arange.start_step}


def _plain(func: Any) -> Any:
    """One name for operators that differ in the arguments they leave out."""
    return aten.arange if func in _ARANGES else func


def _is_view(func: Any) -> bool:
    """Whether the result shares the memory of the first argument."""
    aliases = [r.alias_info for r in func._schema.returns]
    return bool(aliases) and all(a is not None and not a.is_write for a in aliases)


# Arguments that do not change what is computed.
_SILENT = {"device", "layout", "pin_memory", "non_blocking"}


def _storage(tensor: Tensor) -> int:
    """What tells the memory of a tensor from other memory."""
    return int(tensor.untyped_storage()._cdata) if _strided(tensor) else id(tensor)


def _where(tensor: Tensor) -> tuple[Any, ...]:
    """The entries of its memory that a tensor shows."""
    entries = (tensor.stride(), tensor.storage_offset()) if _strided(tensor) else tensor.layout
    return tuple(tensor.shape), entries, tensor.dtype


def _strided(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided


def _by_name(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by the names of the schema, defaults left out."""
    given: dict[str, Any] = {}
    for i, argument in enumerate(func._schema.arguments):
        value = args[i] if i < len(args) else kwargs.get(argument.name, argument.default_value)
        if argument.name == "scale" and value is None and "query" in given:
            value = 1.0 / math.sqrt(given["query"].shape[-1])
        default = 0 if argument.name == "start" else argument.default_value
        if argument.name in _SILENT or (not isinstance(value, Tensor) and value == default):
            continue
        given[argument.name] = value
    return given
