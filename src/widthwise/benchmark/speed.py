"""Will it be faster here? Networks beside the full one, in PyTorch and in ONNX Runtime.

    measured = speeds({"full": model, "small": small}, (x,))
    for row in measured.rows:
        print(row.network, row.runtime, row.batch, row.milliseconds.median, row.ratio, row.verdict)

A network with a tenth of the multiply-accumulates is not ten times as fast: a call has costs that
no width changes, and kernels work in blocks. So nothing is assumed: all are timed on this machine.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from widthwise.benchmark.runtimes import Runtime
from widthwise.benchmark.timing import Spread, Verdict, bar, in_turns, judged, spread, using_threads
from widthwise.common.calling import batch_size
from widthwise.common.messages import first_line, lacking
from widthwise.common.modes import evaluating
from widthwise.errors import CaptureError, ExportError
from widthwise.export.calls import Inputs, example, feed, opened, resized
from widthwise.export.onnx import export_onnx

FASTER: Final = 0.1  # the least gain that is called one; from run to run, a few per cent differ
BOTH: Final[tuple[Runtime, ...]] = ("PyTorch", "ONNX Runtime")
REPEATS: Final = 15


@dataclass(frozen=True)
class Conditions:
    """What networks are timed on.

    inputs: example inputs (args, kwargs) by batch size. threads: that a call may use. repeats:
    rounds. progress: show bars on standard error.
    """

    inputs: Mapping[int, Inputs]
    threads: int
    repeats: int
    progress: bool


@dataclass(frozen=True)
class Speed:
    """One network in one runtime at one batch size.

    batch: examples in a call. threads: that it may use. milliseconds: of one call. ratio: the full
    network's milliseconds ÷ these, round by round; above 1 it is faster than the full one. noise:
    the same ratio of the full network timed twice, which is 1 where the machine lets it be.
    """

    network: str
    runtime: Runtime
    batch: int
    threads: int
    milliseconds: Spread
    ratio: Spread
    noise: Spread

    @property
    def samples_per_second(self) -> Spread:
        """Examples that go through in a second."""
        ms, per = self.milliseconds, 1e3 * self.batch
        return Spread(per / ms.median, per / ms.high, per / ms.low)

    @property
    def verdict(self) -> Verdict:
        """By the rule of `judged`, "above": faster than the full network; "below": slower.

        "unclear" also where the full network seems to be faster or slower than itself.
        """
        still = judged(self.noise, FASTER) == "alike"
        return judged(self.ratio, FASTER) if still else "unclear"


@dataclass(frozen=True)
class Speeds:
    """What was timed. notes: what was not, and why, each a sentence."""

    rows: tuple[Speed, ...]
    notes: tuple[str, ...] = ()


def speeds(
    networks: Mapping[str, nn.Module],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    batches: Sequence[int] = (1, 32),
    threads: int | None = None,
    repeats: int = REPEATS,
    progress: bool = False,
) -> Speeds:
    """Time networks in PyTorch and as ONNX files, on the CPU, in evaluation mode.

    networks: by name, the full one first, which all are compared with. args, kwargs: example
    inputs, whose examples (the first dim of tensors) are repeated or left out for each of
    `batches`. threads: as many as torch uses by default. repeats: rounds, at least 6 for intervals.

    All networks take turns in every round (`in_turns`), so that ratios are of calls made within
    moments of each other; each runtime is timed by itself at each batch size. Where ONNX Runtime
    is missing or a network cannot be exported, there are rows of PyTorch only.

    Raises CaptureError when the networks do not run on the example.
    """
    how, notes = conditions(networks, args, kwargs, batches, threads, repeats, progress)
    rows: list[Speed] = []
    for runtime in BOTH:
        try:
            for batch, times, noise in timed(list(networks.values()), how, runtime):
                for name, ms in zip(networks, times, strict=True):
                    made = spread(ms), ratio(times[0], ms), noise
                    rows.append(Speed(name, runtime, batch, how.threads, *made))
        except ExportError as error:
            notes.append(f"{runtime} was not timed: {error}")
    return Speeds(tuple(rows), tuple(notes))


def ratio(of: Sequence[float], to: Sequence[float]) -> Spread:
    """Milliseconds of one network ÷ another's, round by round."""
    return spread(a / b for a, b in zip(of, to, strict=True))


def conditions(
    networks: Mapping[str, nn.Module],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None,
    batches: Sequence[int],
    threads: int | None,
    repeats: int,
    progress: bool,
) -> tuple[Conditions, list[str]]:
    """Inputs of each batch size at which all the networks run, and a sentence for each other.

    Where there is none, the example's own. Raises CaptureError when they fail as well.
    """
    inputs: Inputs = (tuple(args), dict(kwargs or {}))
    own = batch_size(inputs)
    if not own:
        raise CaptureError("The example has no batch whose size could vary; give tensors with one.")
    found: dict[int, Inputs] = {}
    notes: list[str] = []
    for batch in batches:
        given = resized(inputs, batch)
        problem = _problem(networks, given)
        if problem is None:
            found[batch] = given
        else:
            notes.append(f"Batch {batch} was not timed, for the network fails there ({problem}).")
    if not found:
        problem = _problem(networks, inputs)
        if problem is not None:
            raise CaptureError(f"The network fails on the example ({problem}); give another.")
        found[own] = inputs
    return Conditions(found, threads or torch.get_num_threads(), repeats, progress), notes


def _problem(networks: Mapping[str, nn.Module], inputs: Inputs) -> str | None:
    """Why one of the networks does not run on these inputs; None where all do."""
    for module in networks.values():
        try:
            with evaluating(module):
                module(*inputs[0], **inputs[1])
        except Exception as error:  # noqa: BLE001  a module may fail in any way
            return first_line(error)
    return None


def timed(
    modules: Sequence[nn.Module], how: Conditions, runtime: Runtime
) -> Iterator[tuple[int, list[list[float]], Spread]]:
    """For each batch size, the milliseconds of each network in each round, and the noise.

    The noise is the ratio of two times of the first network, which takes part twice. Raises
    ExportError where there is no ONNX Runtime or a network is nothing for it.
    """
    calls = _in_onnx_runtime(modules, how) if runtime == "ONNX Runtime" else _in_pytorch(modules)
    with ExitStack() as stack:
        stack.enter_context(using_threads(how.threads))
        for module in modules:
            stack.enter_context(evaluating(module))
        for batch, inputs in how.inputs.items():
            shown = f"{runtime}, batch {batch}" if how.progress else ""
            made = [call(inputs) for call in calls]
            *times, again = in_turns([*made, made[0]], how.repeats, shown)
            yield batch, times, ratio(times[0], again)


Caller = Callable[[Inputs], Callable[[], object]]  # inputs -> a call with them


def _in_pytorch(modules: Sequence[nn.Module]) -> list[Caller]:
    return [partial(_module_call, module) for module in modules]


def _module_call(module: nn.Module, inputs: Inputs) -> Callable[[], object]:
    return partial(module, *inputs[0], **inputs[1])


def _in_onnx_runtime(modules: Sequence[nn.Module], how: Conditions) -> list[Caller]:
    for package in ("onnxruntime", "onnx", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise ExportError(lacking(package, "it"))
    args, kwargs = next(iter(how.inputs.values()))
    callers: list[Caller] = []
    with tempfile.TemporaryDirectory() as folder, bar(how.progress) as progress:
        path = Path(folder) / "network.onnx"
        for module in progress.track(modules, description="Exporting to ONNX"):
            try:
                export_onnx(module, args, path, kwargs=kwargs)
            except ExportError as error:  # without its advice, for those who want the file
                raise ExportError(f"{str(error).partition('; ')[0]}.") from error
            callers.append(partial(_session_call, opened(path.read_bytes(), how.threads), module))
    return callers


def _session_call(session: Any, module: nn.Module, inputs: Inputs) -> Callable[[], object]:
    ordered = example(module, *inputs, False)  # as the file takes them
    return partial(session.run, None, feed(session, ordered))
