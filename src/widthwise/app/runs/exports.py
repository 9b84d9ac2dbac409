"""Networks of a run for other runtimes, and what they are there."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from widthwise.app.runs.measuring import evaluation
from widthwise.app.runs.opening import Opened
from widthwise.export.calls import served
from widthwise.export.int8_onnx import export_int8
from widthwise.export.onnx import export_onnx, export_program
from widthwise.measure.frontier import Point
from widthwise.task import Splits, Task
from widthwise.variant import Widths

Format = Literal["onnx", "torch"]


def export(module: nn.Module, task: Task, path: Path, form: Format) -> None:
    """Write a network for another runtime, where it has been run and compared.

    Raises ExportError, FileError.
    """
    write = export_onnx if form == "onnx" else export_program
    write(module, task.example(), path)


def shipped_size(opened: Opened, form: Format, *, int8: bool = False) -> Callable[[Point], int]:
    """For `Frontier.pick`: the bytes of a point's file in another format, exported to see.

    int8: of `export_int8`, with form "onnx". What is returned remembers, and raises ExportError.
    """
    known: dict[Widths, int] = {}

    def size(point: Point) -> int:
        if point.widths not in known:
            module = opened.net.engine.cut(point.widths)[0]
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "network"
                if int8:
                    export_int8(module, opened.task.example(), path)
                else:
                    export(module, opened.task, path, form)
                known[point.widths] = path.stat().st_size
        return known[point.widths]

    return size


def onnx_metric(path: Path, task: Task, data: Splits) -> float:
    """The metric on the test split of an ONNX file, run by ONNX Runtime."""
    return evaluation(task, data, "test")(_Served(path))


class _Served(nn.Module):
    """An ONNX file as a module; its inputs are tensors by position."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.run = served(path)

    def forward(self, *inputs: Tensor) -> Any:
        outputs = self.run((inputs, {}))
        return outputs[0] if len(outputs) == 1 else tuple(outputs)
