"""Networks for other runtimes: ONNX files and torch.export programs.

    export_onnx(small, (x,), "small.onnx")          # runs in ONNX Runtime, browsers, phones
    export_program(small, (x,), "small.pt2")        # runs in PyTorch, ExecuTorch, AOTInductor

Both take any batch size (the first dim of every input that has the batch's size there), and both
are run on the example and on another batch before anything is written: what differs from PyTorch
is refused. The files need no widthwise.

`torch.export.load` unpickles parts of a .pt2 file, so load only files of your own; widthwise itself
never does, and checks the program before it is saved.
"""

from __future__ import annotations

import inspect
import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from widthwise.elastic import Elastic
from widthwise.errors import ExportError, WidthwiseError
from widthwise.store.atomic import write_whole

TOLERANCE = 1e-4  # of the largest output; float32 kernels of two runtimes differ by some 1e-6
HALF_TOLERANCE = 2e-2

_OTHER = "try the other format, or save it with widthwise.save"

Inputs = tuple[tuple[Any, ...], dict[str, Any]]


def export_onnx(
    module: nn.Module,
    args: tuple[Any, ...],
    path: str | os.PathLike[str],
    *,
    kwargs: Mapping[str, Any] | None = None,
    dynamic_batch: bool = True,
) -> Path:
    """Write a network as an ONNX file, checked in ONNX Runtime against PyTorch; returns the path.

    module: a cut network. args, kwargs: example inputs. dynamic_batch: take any batch size.
    Outputs may differ by TOLERANCE times the largest one.

    Raises ExportError when the network cannot be exported or the file computes something else, and
    FileError when it cannot be written.
    """
    inputs, shapes = example(module, args, kwargs, dynamic_batch)
    with ready(module), refusing(module, "ONNX", _OTHER):
        program = torch.onnx.export(
            module, inputs[0], kwargs=inputs[1], dynamo=True, dynamic_shapes=shapes, verbose=False
        )
        assert program is not None
        data = program.model_proto.SerializeToString()
        run = served(data)
    check(module, type(module).__name__, run, inputs, dynamic_batch, "ONNX")
    return write_whole(path, [data])


def served(data: bytes | Path) -> Callable[[Inputs], list[Any]]:
    """An ONNX file, or its bytes, as a function that calls it in ONNX Runtime."""
    session = opened(data)
    return lambda batch: [torch.from_numpy(x) for x in session.run(None, feed(session, batch))]


def opened(data: bytes | Path, threads: int = 0) -> Any:
    """An ONNX file, or its bytes, as a session of ONNX Runtime; 0 threads are all cores."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised; they need not be printed as well
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def feed(session: Any, inputs: Inputs) -> dict[str, Any]:
    """The inputs of a network as those of its session, by name."""
    names = [each.name for each in session.get_inputs()]
    return {n: x.detach().cpu().numpy() for n, x in zip(names, tensors(inputs), strict=True)}


def export_program(
    module: nn.Module,
    args: tuple[Any, ...],
    path: str | os.PathLike[str],
    *,
    kwargs: Mapping[str, Any] | None = None,
    dynamic_batch: bool = True,
) -> Path:
    """Write a network as a torch.export program (.pt2), checked against it; returns the path.

    Arguments, tolerance and errors as for `export_onnx`.
    """
    inputs, shapes = example(module, args, kwargs, dynamic_batch)
    file = io.BytesIO()
    with ready(module), refusing(module, "torch.export", _OTHER):
        program: ExportedProgram = torch.export.export(
            module, inputs[0], inputs[1] or None, dynamic_shapes=shapes, strict=False
        )
        torch.export.save(program, file)
    exported = program.module()

    def run(batch: Inputs) -> list[Any]:
        return tensors(exported(*batch[0], **batch[1]))

    check(module, type(module).__name__, run, inputs, dynamic_batch, "torch.export")
    return write_whole(path, [file.getbuffer()])


def example(
    module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None, dynamic: bool
) -> tuple[Inputs, Any]:
    """The inputs in the order of forward's signature, and which of their sizes may vary."""
    if isinstance(module, Elastic):
        raise ExportError(
            "Export a cut network, module = net.cut(widths), or all widths in one file with "
            "export_elastic(net, path)."
        )
    if not args and not kwargs:
        raise ExportError("Give example inputs: args=(x,).")
    try:
        bound = inspect.signature(module.forward).bind(*args, **(kwargs or {}))
    except TypeError as error:
        raise ExportError(f"The example inputs do not fit the network: {error}.") from error
    inputs: Inputs = (bound.args, bound.kwargs)
    if not dynamic:
        return inputs, None
    batch = batch_size(inputs)
    if batch == 1:
        inputs = resized(inputs, 2)  # a size of 1 is taken for a constant
        bound = inspect.signature(module.forward).bind(*inputs[0], **inputs[1])
        batch = 2
    shapes = pytree.tree_map(
        lambda x: {0: Dim.AUTO} if batched(x, batch) else None, dict(bound.arguments)
    )
    return inputs, shapes


def batch_size(inputs: Inputs) -> int:
    sizes = [x.shape[0] for x in pytree.tree_leaves(inputs) if isinstance(x, Tensor) and x.dim()]
    return sizes[0] if sizes else 0


def batched(value: Any, batch: int) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == batch


def resized(inputs: Inputs, batch: int) -> Inputs:
    """The inputs with their examples repeated, or left out, to make another batch size."""
    old = batch_size(inputs)
    resized: Inputs = pytree.tree_map(
        lambda x: x[torch.arange(batch, device=x.device) % old] if batched(x, old) else x, inputs
    )
    return resized


def check(
    module: nn.Module,
    name: str,
    run: Callable[[Inputs], list[Any]],
    inputs: Inputs,
    dynamic: bool,
    what: str,
) -> None:
    """Compare with PyTorch on the example and on another batch size. Raises ExportError."""
    batches = [inputs]
    if dynamic and batch_size(inputs):
        batches.append(resized(inputs, batch_size(inputs) + 3))
    for number, batch in enumerate(batches):
        with ready(module):
            try:
                wanted = tensors(module(*batch[0], **batch[1]))
                found = run(batch)
            except Exception as error:
                if number:
                    raise ExportError(
                        f"{name} exports to {what} for a batch of {batch_size(inputs)} only "
                        f"({_line(error)}); pass dynamic_batch=False to have it for that size."
                    ) from error
                raise ExportError(
                    f"The {what} file of {name} fails ({_line(error)}); try the other format."
                ) from error
        worst = _difference(found, wanted)
        if worst > 1:
            raise ExportError(
                f"The {what} file of {name} would compute something else than PyTorch ({worst:.1e} "
                "times the tolerance), so it was not written; try the other format, and remove "
                "random numbers from the network's evaluation mode if it draws any."
            )


def _difference(found: list[Any], wanted: list[Tensor]) -> float:
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


def tensors(values: Any) -> list[Tensor]:
    """The tensors among nested inputs or outputs, in order."""
    return [x for x in pytree.tree_leaves(values) if isinstance(x, Tensor)]


def _line(error: BaseException) -> str:
    if isinstance(error, torch.onnx.OnnxExporterError) and error.__cause__ is not None:
        # torch.onnx speaks of its own steps; which operator it was stands one level below.
        error = RuntimeError(str(error.__cause__).split(". ")[0].split(" : ")[0])
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".")


@contextmanager
def refusing(module: nn.Module, what: str, instead: str) -> Iterator[None]:
    """Turn whatever an exporter raises into an ExportError that says what to do instead."""
    try:
        with _quiet():
            yield
    except WidthwiseError:
        raise
    except Exception as error:  # exporters raise errors of many unrelated classes
        raise ExportError(
            f"{type(module).__name__} cannot be exported to {what} ({_line(error)}); {instead}."
        ) from error


@contextmanager
def ready(module: nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradients, and plain operators instead of torch's fused ones."""
    modes = [(m, m.training) for m in module.modules()]
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for each, training in modes:
            each.training = training


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporters' progress, hints and warnings say nothing that a user could act on."""
    sink = io.StringIO()
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(sink), redirect_stderr(sink):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
