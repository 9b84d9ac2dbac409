"""Which sizes are free in an exported file: settled by running it beside the network.

    data, traced = settled(Subject(module, "Net", inputs, True, "ONNX"), make)

Every size that torch.export leaves free is tried at another value and at 1. Where the file differs
from the network there, the size is fixed, or 1 is ruled out; where that is the batch, the file is
refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from widthwise.common.calling import batch_size
from widthwise.errors import ExportError
from widthwise.export.calls import Inputs, Run, first_line, ready, refusing, tensors
from widthwise.export.free_sizes import Place, Symbol, Traced, trace
from widthwise.export.names import UnsaidError

TOLERANCE = 1e-4  # of the largest output; float32 kernels of two runtimes differ by some 1e-6
HALF_TOLERANCE = 2e-2

Make: TypeAlias = Callable[[Traced], tuple[bytes, Run]]


@dataclass(frozen=True)
class Subject:
    """What is exported.

    module: the network, which the file is compared with. name: in messages. inputs: the example.
    dynamic: whether sizes may vary. what: the format. instead: what to do where it cannot be.
    names: of the input tensors. traced_as: what torch.export is given, if not the module; its
    inputs are (widths, args, kwargs).
    """

    module: nn.Module
    name: str
    inputs: Inputs
    dynamic: bool
    what: str
    instead: str = "try the other format, or save it with widthwise.save"
    names: tuple[str, ...] = ()
    traced_as: nn.Module | None = None
    widths: tuple[Tensor, ...] = ()

    def trace(self, fixed: frozenset[Place]) -> Traced:
        """Export it with these input dims fixed."""
        if self.traced_as is None:
            return trace(self.module, self.inputs, fixed, dynamic=self.dynamic, names=self.names)
        inputs: Inputs = ((list(self.widths), *self.inputs), {})
        count = len(self.widths)
        names = (*(f"width_{i}" for i in range(count)), *self.names)
        traced = trace(
            self.traced_as, inputs, fixed, dynamic=self.dynamic, widths=count, names=names
        )
        return replace(traced, inside=True)

    def outputs(self, inputs: Inputs) -> list[Tensor] | str:
        """What the network computes, or why it does not."""
        try:
            with ready(self.module):
                return tensors(self.module(*inputs[0], **inputs[1]))
        except Exception as error:  # noqa: BLE001 - a network may fail in any way
            return first_line(error)


def settled(subject: Subject, make: Make) -> tuple[bytes, Traced]:
    """The file in which every size is free at which it computes what the network does.

    make: an exported network -> the bytes of its file, and a function that runs it.

    Raises ExportError where the network cannot be exported, the example's outputs differ, or the
    batch cannot vary.
    """
    fixed: frozenset[Place] = frozenset()
    two: frozenset[Any] = frozenset()  # symbols that cannot be 1
    while True:
        with ready(subject.module), refusing(subject.name, subject.what, subject.instead):
            traced = subject.trace(fixed)
            traced = replace(traced, guards=(*traced.guards, *(symbol >= 2 for symbol in two)))
            _need_batch(subject, traced)
            try:
                data, run = make(traced)
            except UnsaidError as error:
                symbols = [s for s in traced.symbols if s.expr in error.guard.free_symbols]
                fixed |= {place for s in symbols for place in s.places}
                continue
        check(subject, run, subject.inputs)
        tried = [_tried(subject, traced, symbol, run) for symbol in traced.symbols]
        wrong = {each.symbol: each.wrong for each in tried if each.wrong}
        found = {each.symbol.expr for each in tried if each.needs_two} if not wrong else set()
        if not wrong and found <= two:
            return data, traced
        if traced.batch in wrong:
            raise _only(subject, wrong[traced.batch])
        fixed |= {place for symbol in wrong for place in symbol.places}
        two |= found


def _need_batch(subject: Subject, traced: Traced) -> None:
    """Raise ExportError where the batch should vary and does not."""
    if subject.dynamic and batch_size(subject.inputs) and traced.batch is None:
        raise _only(subject, "its operations fix it")


def _only(subject: Subject, reason: str) -> ExportError:
    return ExportError(
        f"{subject.name} exports to {subject.what} for a batch of {batch_size(subject.inputs)} "
        f"only ({reason}); pass dynamic_batch=False to have it for that size."
    )


@dataclass(frozen=True)
class _Tried:
    """One size at other values. wrong: what fails there, "" for nothing. needs_two: not at 1."""

    symbol: Symbol
    wrong: str = ""
    needs_two: bool = False


def _tried(subject: Subject, traced: Traced, symbol: Symbol, run: Run) -> _Tried:
    """Run the file and the network at another value of one size, and at 1."""
    wrong = "the network takes no other size"
    for size in traced.others(symbol):
        inputs = traced.at({symbol.expr: size})
        wanted = subject.outputs(inputs)
        if not isinstance(wanted, str):
            wrong = _disagreement(run, inputs, wanted)
            break
        wrong = wanted
    if wrong or not traced.allows({symbol.expr: 1}):
        return _Tried(symbol, wrong)
    inputs = traced.at({symbol.expr: 1})
    wanted = subject.outputs(inputs)
    differs = isinstance(wanted, str) or bool(_disagreement(run, inputs, wanted))
    return _Tried(symbol, "", differs)


def _disagreement(run: Run, inputs: Inputs, wanted: list[Tensor]) -> str:
    """In what the file differs from the network on these inputs; "" for nothing."""
    try:
        with torch.no_grad():
            worst = difference(run(inputs), wanted)
    except Exception as error:  # noqa: BLE001 - runtimes raise errors of many classes
        return first_line(error)
    return "" if worst <= 1 else "another size gives something else"


def check(subject: Subject, run: Run, inputs: Inputs) -> None:
    """Compare the file with PyTorch on these inputs. Raises ExportError."""
    name, what = subject.name, subject.what
    wanted = subject.outputs(inputs)
    if isinstance(wanted, str):
        raise ExportError(f"{name} fails on the example ({wanted}); give inputs that it takes.")
    try:
        with torch.no_grad():
            found = run(inputs)
    except Exception as error:
        raise ExportError(
            f"The {what} file of {name} fails ({first_line(error)}); {subject.instead}."
        ) from error
    worst = difference(found, wanted)
    if worst > 1:
        raise ExportError(
            f"The {what} file of {name} would compute something else than PyTorch ({worst:.1e} "
            "times the tolerance), so it was not written; try the other format, and remove "
            "random numbers from the network's evaluation mode if it draws any."
        )


def difference(found: list[Any], wanted: list[Tensor]) -> float:
    """The largest difference in units of the tolerance; infinite where shapes or NaNs differ."""
    if len(found) != len(wanted):
        return float("inf")
    worst = 0.0
    for a, b in zip(found, wanted, strict=True):
        b = b.cpu()
        if a.shape != b.shape:
            return float("inf")
        if not b.is_floating_point():
            worst = max(worst, 0.0 if torch.equal(a.to(b.dtype), b) else float("inf"))
            continue
        tolerance = HALF_TOLERANCE if b.dtype.itemsize < 4 else TOLERANCE
        a, b = a.double(), b.double()
        same = (a == b) | (a.isnan() & b.isnan())
        largest = float(b[b.isfinite()].abs().max()) if bool(b.isfinite().any()) else 1.0
        excess = (a - b).abs().masked_fill(same, 0.0) / (tolerance * max(largest, 1e-30))
        excess = excess.nan_to_num(nan=float("inf"), posinf=float("inf"))
        worst = max(worst, float(excess.max()) if excess.numel() else 0.0)
    return worst
