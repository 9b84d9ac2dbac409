"""Which runtime is fastest here: PyTorch, ONNX Runtime, ONNX Runtime in int8.

    for row in compare(small, (x,)):
        print(row.runtime, row.batch, row.milliseconds, row.speed)

Fewer bits are not fewer milliseconds: activations have to be quantized in every call, and int8
kernels are not there for every operator. So nothing is assumed: all are timed on this machine.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import torch
from torch import nn

from widthwise.benchmark.kernels import NothingFasterWarning
from widthwise.benchmark.timing import fastest, using_threads
from widthwise.common.calling import batch_size
from widthwise.common.modes import evaluating
from widthwise.errors import ExportError
from widthwise.export import int8_onnx
from widthwise.export.calls import example, feed, opened, resized
from widthwise.export.onnx import export_onnx

Runtime = Literal["PyTorch", "ONNX Runtime", "ONNX Runtime int8"]
RUNTIMES: Final[tuple[Runtime, ...]] = ("PyTorch", "ONNX Runtime", "ONNX Runtime int8")


@dataclass(frozen=True)
class Timing:
    """One runtime at one batch size.

    batch: examples in a call. threads: that it may use. milliseconds: the shortest time of a call.
    speed: PyTorch's milliseconds ÷ these; above 1 it is faster.
    """

    runtime: Runtime
    batch: int
    threads: int
    milliseconds: float
    speed: float


def compare(
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    batches: Sequence[int] = (1, 32),
    threads: int | None = None,
    convolutions: bool = True,
    seconds: float = 0.2,
) -> tuple[Timing, ...]:
    """Time a network in PyTorch and as the files of `export_onnx` and `export_int8`, on the CPU.

    module: a cut network, in float32. args, kwargs: example inputs, whose examples are repeated or
    left out for each of `batches`. threads: as many as torch uses by default. convolutions: as for
    `export_int8`. seconds: of timing each runtime at each batch.

    Returns a row for each batch and runtime. Where int8 is not faster than the faster of the other
    two, a NothingFasterWarning says so. Raises ExportError as the two exports do.
    """
    count = threads or torch.get_num_threads()
    inputs = example(module, args, kwargs, True)
    if not batch_size(inputs):
        raise ExportError("The example has no batch whose size could vary; give tensors with one.")
    with tempfile.TemporaryDirectory() as folder:
        plain, small = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        export_onnx(module, args, plain, kwargs=kwargs)
        int8_onnx.quantize(module, plain, small, convolutions)
        sessions = (opened(plain, count), opened(small, count))
    rows: list[Timing] = []
    for batch in batches:
        given = resized(inputs, batch)
        runs = [partial(module, *given[0], **given[1])]
        runs += [partial(session.run, None, feed(session, given)) for session in sessions]
        with evaluating(module), using_threads(count):
            each = fastest(runs, seconds)
        rows += [
            Timing(name, batch, count, ms, each[0] / ms)
            for name, ms in zip(RUNTIMES, each, strict=True)
        ]
    slow = {batch: gain for batch, gain in gains(rows).items() if gain <= 1}
    if slow:
        how = " and ".join(f"{gain:.2f} times as fast at batch {b}" for b, gain in slow.items())
        rather = ", or leave convolutions as they are, convolutions=False" if convolutions else ""
        warnings.warn(
            f"Int8 is not faster than float32 here: {how}; run the float32 file there{rather}.",
            NothingFasterWarning,
            stacklevel=2,
        )
    return tuple(rows)


def gains(rows: Sequence[Timing]) -> dict[int, float]:
    """By batch: the milliseconds of the faster float32 runtime ÷ int8's."""
    found = {}
    for batch in dict.fromkeys(row.batch for row in rows):
        ms = {row.runtime: row.milliseconds for row in rows if row.batch == batch}
        found[batch] = min(ms["PyTorch"], ms["ONNX Runtime"]) / ms["ONNX Runtime int8"]
    return found
