"""Networks for other runtimes: ONNX files and torch.export programs.

    export_onnx(small, (x,), "small.onnx")          # runs in ONNX Runtime, browsers, phones
    export_program(small, (x,), "small.pt2")        # runs in PyTorch, ExecuTorch, AOTInductor

Every size that the network leaves free is free in the file: the batch, the length of a sequence,
height and width of an image. Inputs are named by the arguments of forward, outputs by the keys or
fields of what the network returns. Both files are run on the example and on other sizes before
anything is written: what differs from PyTorch is refused. The files need no widthwise.

`torch.export.load` unpickles parts of a .pt2 file, so load only files of your own; widthwise itself
never does, and checks the program before it is saved.
"""

from __future__ import annotations

import inspect
import io
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from widthwise.common.atomic import write_whole
from widthwise.errors import ExportError
from widthwise.export.calls import Run, example, served, tensors
from widthwise.export.free_sizes import Traced, input_names
from widthwise.export.names import describe, output_names
from widthwise.export.settle import Subject, settled
from widthwise.graph.capture.recurrent import any_length


def export_onnx(
    module: nn.Module,
    args: tuple[Any, ...],
    path: str | os.PathLike[str],
    *,
    kwargs: Mapping[str, Any] | None = None,
    dynamic_batch: bool = True,
) -> Path:
    """Write a network as an ONNX file, checked in ONNX Runtime against PyTorch; returns the path.

    Args:
        module: A network, cut or not, in float32, float16 or float64.
        args: Example inputs, nested in any way that torch.export takes.
        path: Of the file.
        kwargs: Example inputs by keyword.
        dynamic_batch: Let every size vary that the network leaves free; the batch must be one of
            them. False fixes all sizes to the example's.

    Inputs have the names of forward's arguments ("ids"; "batch_mask" for a key or position inside
    one), outputs the keys or fields of what the network returns ("logits"), "output_0" for
    positions, "output" for a single tensor. A size that a condition of the network rules out, such
    as a height that is no multiple of 4, makes the file fail. Outputs may differ by TOLERANCE times
    the largest one.

    Raises:
        ExportError: The network cannot be exported, or the file computes something else.
        FileError: It cannot be written.

    Example:
        >>> ww.export_onnx(tagger, (ids,), "tagger.onnx")
        >>> session = onnxruntime.InferenceSession("tagger.onnx")
        >>> session.get_inputs()[0].shape
        ['batch', 'ids_dim_1']
    """
    inputs = example(module, args, kwargs, dynamic_batch)
    subject = Subject(
        module,
        type(module).__name__,
        inputs,
        dynamic_batch,
        "ONNX",
        instead=_instead(module),
        names=input_names(module, inputs),
        traced_as=_Spread(module) if _any_keywords(module) else None,
    )
    data, _ = settled(subject, partial(_onnx_bytes, module))
    return write_whole(path, [data])


def _onnx_bytes(module: nn.Module, traced: Traced) -> tuple[bytes, Run]:
    """The ONNX file of an exported network, and a function that runs it in ONNX Runtime."""
    with any_length():
        program = torch.onnx.export(traced.program, dynamo=True, verbose=False)
    assert program is not None
    model = program.model_proto
    args, kwargs = traced.user_inputs
    describe(model, traced, output_names(module(*args, **kwargs)))
    data: bytes = model.SerializeToString()
    return data, served(data)


class _Spread(nn.Module):
    """A network whose forward takes any keywords, for torch.export, which frees no size of them."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, widths: list[Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self.module(*args, **kwargs)


def _any_keywords(module: nn.Module) -> bool:
    parameters = inspect.signature(module.forward).parameters.values()
    return any(p.kind is p.VAR_KEYWORD for p in parameters)


def export_program(
    module: nn.Module,
    args: tuple[Any, ...],
    path: str | os.PathLike[str],
    *,
    kwargs: Mapping[str, Any] | None = None,
    dynamic_batch: bool = True,
) -> Path:
    """Write a network as a torch.export program (.pt2), checked against it; returns the path.

    Free sizes and tolerance are as for `export_onnx`.

    Args:
        module: as for `export_onnx`.
        args: as for `export_onnx`.
        path: as for `export_onnx`.
        kwargs: as for `export_onnx`.
        dynamic_batch: as for `export_onnx`.

    Returns:
        The path.

    Raises:
        ExportError: As `export_onnx` does.
        FileError: When it cannot be written.
    """
    inputs = example(module, args, kwargs, dynamic_batch)
    subject = Subject(module, type(module).__name__, inputs, dynamic_batch, "torch.export")
    data, _ = settled(subject, _program_bytes)
    return write_whole(path, [data])


def _program_bytes(traced: Traced) -> tuple[bytes, Run]:
    file = io.BytesIO()
    torch.export.save(traced.program, file)
    exported = traced.program.module()
    return file.getvalue(), lambda batch: tensors(exported(*batch[0], **batch[1]))


def _instead(module: nn.Module) -> str:
    """What to do where ONNX cannot hold the network. Raises ExportError for bfloat16."""
    dtypes = {t.dtype for t in (*module.parameters(), *module.buffers())}
    if torch.bfloat16 in dtypes:
        raise ExportError(
            f"{type(module).__name__} has weights in bfloat16, in which ONNX Runtime computes on "
            "no CPU; export it in float32, module.float(), or in float16, module.half()."
        )
    odd = [str(d) for d in (torch.float64, torch.float16) if d in dtypes]
    if odd:
        return f"export it in float32, module.float(), rather than in {odd[0]}"
    return "try the other format, or save it with widthwise.save"
