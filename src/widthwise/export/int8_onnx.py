"""Networks that run in int8: an ONNX file whose products are of 8-bit integers.

    written = export_int8(small, (x,), "small.int8.onnx")
    written.bytes, written.float32_bytes     # 278264, 1083221
    written.difference                       # 0.01: of the range of the outputs, at most

Weights are quantized once, activations in every call, to the range that they have there
("dynamic"), so that no calibration data is needed. Whether that is faster depends on the processor,
the layers and the batch: `benchmark.runtimes.compare` says what it is here. Wide linear layers gain
most; convolutions usually lose.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from widthwise.common.atomic import write_whole
from widthwise.common.calling import batch_size
from widthwise.errors import ExportError
from widthwise.export.calls import (
    Inputs,
    example,
    ready,
    refusing,
    resized,
    served,
    tensors,
)
from widthwise.export.onnx import export_onnx

LIMIT: Final = 1.0  # of the range of the outputs; a file that is further off is of no use
_FLOAT = "keep it in float32, with export_onnx"
# What ONNX Runtime multiplies in int8, and the operators that do so in a file.
_OPERATORS = ("MatMul", "Gemm", "LSTM", "Gather")
_INTEGER = {"MatMulInteger", "ConvInteger", "DynamicQuantizeLSTM"}
_FOLDED = 2**31 - 1  # bytes of a tensor that may be computed beforehand: all that a file can hold


@dataclass(frozen=True)
class Int8File:
    """What was written.

    path: of the file. bytes: its size. float32_bytes: what `export_onnx` gives. difference: the
    largest one to PyTorch's outputs in float32 on the example, as a share of the range of that
    output, zero included.
    """

    path: Path
    bytes: int
    float32_bytes: int
    difference: float


def export_int8(
    module: nn.Module,
    args: tuple[Any, ...],
    path: str | os.PathLike[str],
    *,
    kwargs: Mapping[str, Any] | None = None,
    dynamic_batch: bool = True,
    convolutions: bool = True,
) -> Int8File:
    """Write a network as an ONNX file that runs in int8, run and compared before it is written.

    Quantized by ONNX Runtime (`quantize_dynamic`) are the weights of linear layers and LSTMs, with
    a scale for each output, and of convolutions and embeddings, with one for the tensor; products
    of two activations (attention) and other recurrent layers stay float32. Weights of linear layers
    and LSTMs that `quantization.quantize_` has put on `Uniform(8, symmetric=True, per="channel")`
    keep exactly these codes. Trained straight-through they may not: a row whose largest code is not
    127 gets a finer scale. Convolutions are rounded again. Activations have one range for the whole
    batch, so that the outputs of an example depend a little on its neighbours. On processors
    without 8-bit dot products (VNNI) sums may saturate.

    Args:
        module: a cut network, in float32.
        args: example inputs, real ones for a difference that means something.
        kwargs: example inputs by name.
        dynamic_batch: take any batch size.
        convolutions: quantize these too; without, the file is larger, and often faster.

    Raises:
        ExportError: Where the network cannot be exported or quantized, its outputs are not finite,
            or are off by their whole range.
        FileError: When it cannot be written.
    """
    with tempfile.TemporaryDirectory() as folder:
        plain, small = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        export_onnx(module, args, plain, kwargs=kwargs, dynamic_batch=dynamic_batch)
        quantize(module, plain, small, convolutions)
        inputs = example(module, args, kwargs, dynamic_batch)
        off = _checked(module, small, inputs, dynamic_batch)
        data = small.read_bytes()
        written = write_whole(path, [data])
        return Int8File(written, len(data), plain.stat().st_size, off)


def quantize(module: nn.Module, source: Path, path: Path, convolutions: bool = True) -> None:
    """Write the ONNX file of a module, `source`, again, in int8. Raises ExportError."""
    name = type(module).__name__
    others = {p.dtype for p in module.parameters() if p.is_floating_point()} - {torch.float32}
    if others:
        raise ExportError(f"{name} has weights of {others.pop()}; give it in float32, .float().")
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxscript import optimizer

    with refusing(type(module).__name__, "int8", _FLOAT):
        # Weights that the graph computes of others (an LSTM's gates in ONNX's order) are none that
        # quantize_dynamic sees, so they are computed now.
        model = optimizer.optimize(
            onnx.load(source), input_size_limit=_FOLDED, output_size_limit=_FOLDED
        )
        # It transposes weights, after which the shapes noted for them are wrong.
        del model.graph.value_info[:]
        quantize_dynamic(
            model,
            path,
            op_types_to_quantize=[*_OPERATORS, *(["Conv"] if convolutions else [])],
            per_channel=True,
            weight_type=QuantType.QInt8,
        )
        operators = {node.op_type for node in onnx.load(path).graph.node}
    if not operators & _INTEGER:
        raise ExportError(
            f"{name} has no linear layer{', convolution' if convolutions else ''} "
            f"or LSTM that could run in int8; {_FLOAT}."
        )


def _checked(module: nn.Module, path: Path, inputs: Inputs, dynamic: bool) -> float:
    """The largest difference on the example and on another batch size. Raises ExportError."""
    name = type(module).__name__
    batches = [inputs]
    if dynamic and batch_size(inputs):
        batches.append(resized(inputs, batch_size(inputs) + 3))
    with ready(module), refusing(type(module).__name__, "int8", _FLOAT):
        run = served(path)
        pairs = [(run(each), tensors(module(*each[0], **each[1]))) for each in batches]
    worst = max(difference(found, wanted, name) for found, wanted in pairs)
    if worst > LIMIT:
        raise ExportError(
            f"In int8 the outputs of {name} are off by {worst:.1f} times their range on the "
            f"example, so nothing was written; give real inputs as the example, or {_FLOAT}."
        )
    return worst


def difference(found: list[Any], wanted: list[Tensor], name: str) -> float:
    """The largest difference of floating-point outputs, as a share of each one's range with zero.

    name: of the network. Raises ExportError for outputs that are not finite, and where there is
    none to compare.
    """
    worst = None
    for a, b in zip(found, wanted, strict=True):
        if not b.is_floating_point() or not b.numel():
            continue
        a, b = a.double(), b.cpu().double()
        for each, where in ((b, "PyTorch"), (a, "int8")):
            if not each.isfinite().all():
                raise ExportError(
                    f"{name} gives outputs that are not finite in {where} on the example, so "
                    "nothing can be compared; give other inputs, or train it again."
                )
        reach = float(b.max().clamp(min=0) - b.min().clamp(max=0))
        off = float((a - b).abs().max())
        worst = max(worst or 0.0, off / reach if reach else float("inf") if off else 0.0)
    if worst is None:
        raise ExportError(
            f"{name} gives no floating-point outputs, in which int8 could be compared with "
            "float32; export a network that gives them."
        )
    return worst
