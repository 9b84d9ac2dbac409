"""What exports share: how a network is run for them, its inputs, and errors of exporters."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from widthwise.common import messages
from widthwise.common.calling import batch_size
from widthwise.common.modes import evaluating, unfused
from widthwise.elastic.network import Elastic
from widthwise.errors import ExportError, WidthwiseError
from widthwise.graph.capture.program import quietly

Inputs: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]  # args and kwargs
Run: TypeAlias = Callable[[Inputs], list[Any]]  # inputs -> the tensors of the outputs


def example(
    module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None, dynamic: bool
) -> Inputs:
    """The inputs in the order of forward's signature; a batch of one repeated if it may vary."""
    if isinstance(module, Elastic):
        raise ExportError(
            "Export a cut network, module = net.cut(widths), or all widths in one file with "
            "export_elastic(net, path)."
        )
    if not args and not kwargs:
        raise ExportError("Give example inputs: args=(x,).")
    args = (args,) if isinstance(args, Tensor) else args
    try:
        bound = inspect.signature(module.forward).bind(*args, **(kwargs or {}))
    except TypeError as error:
        raise ExportError(f"The example inputs do not fit the network: {error}.") from error
    inputs: Inputs = (bound.args, bound.kwargs)
    if dynamic and batch_size(inputs) == 1:
        inputs = resized(inputs, 2)  # a size of 1 is taken for a constant
    return inputs


def batched(value: Any, batch: int) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == batch


def resized(inputs: Inputs, batch: int) -> Inputs:
    """The inputs with their examples repeated, or left out, to make another batch size."""
    old = batch_size(inputs)
    resized: Inputs = pytree.tree_map(
        lambda x: x[torch.arange(batch, device=x.device) % old] if batched(x, old) else x, inputs
    )
    return resized


def tensors(values: Any) -> list[Tensor]:
    """The tensors among nested inputs or outputs, in order."""
    return [x for x in pytree.tree_leaves(values) if isinstance(x, Tensor)]


def served(data: bytes | Path) -> Run:
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
    """The inputs of a network as its session takes them, by name."""
    names = [each.name for each in session.get_inputs()]
    return {n: x.detach().cpu().numpy() for n, x in zip(names, tensors(inputs), strict=True)}


def first_line(error: BaseException) -> str:
    if isinstance(error, torch.onnx.OnnxExporterError) and error.__cause__ is not None:
        # torch.onnx speaks of its own steps; which operator it was stands one level below.
        error = RuntimeError(str(error.__cause__).split(". ")[0].split(" : ")[0])
    return messages.first_line(error)


@contextmanager
def refusing(name: str, what: str, instead: str) -> Iterator[None]:
    """Turn whatever an exporter raises into an ExportError that says what to do instead."""
    try:
        with quietly():
            yield
    except WidthwiseError:
        raise
    except Exception as error:  # exporters raise errors of many unrelated classes
        raise ExportError(
            f"{name} cannot be exported to {what} ({first_line(error)}); {instead}."
        ) from error


@contextmanager
def ready(module: nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradients, and plain operators instead of torch's fused ones."""
    with evaluating(module), unfused():
        yield
