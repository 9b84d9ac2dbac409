"""One ONNX file that runs at every width: the widths are inputs.

    export_elastic(net, "net.onnx")
    session = onnxruntime.InferenceSession("net.onnx")
    session.run(None, {"x": x, "width.fc1": np.array(16), "width.fc2": np.array(8)})

A device that must be quicker today and better tomorrow needs no other file. The file holds the
full-size weights; what a network is cut to for good is smaller with `export_onnx`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from widthwise.common.atomic import write_whole
from widthwise.elastic.network import Elastic
from widthwise.elastic.recalibration import caller, no_data
from widthwise.errors import ExportError
from widthwise.export.calls import Inputs, Run, example, opened, tensors
from widthwise.export.free_sizes import Traced, input_names
from widthwise.export.names import describe, output_names
from widthwise.export.settle import Subject, check, settled
from widthwise.graph.capture.recurrent import any_length

PREFIX = "width."  # of the names of the widths' inputs
_INSTEAD = "export the widths that you need, each with export_onnx(net.cut(widths), ...)"
CHECKED = 8  # random settings of the widths at which the file is compared with PyTorch


def export_elastic(
    net: Elastic, path: str | os.PathLike[str], *, dynamic_batch: bool = True
) -> Path:
    """Write an elastic network as one ONNX file with its widths as inputs; returns the path.

    Besides the model's inputs the file takes one number (int64, no dims) for every axis that can be
    cut, by the name of the axis after "width."; numbers outside 1..size count as the nearest one.
    It computes evaluation mode, is compared with the network at full, smallest and random widths in
    ONNX Runtime before it is written, and needs no widthwise.

    Running statistics (batch norms) are the full width's at every width, which a
    StatisticsWarning says.

    Args:
        net: the network, left as it is.
        path: of the file, which is replaced if it exists.
        dynamic_batch: take any batch size.

    Returns:
        The path.

    Raises:
        ExportError: When the network cannot be exported so (ONNX's recurrent operators, for
            example, hold their hidden size as a constant) or the file computes something else.
        FileError: When it cannot be written.
    """
    if not isinstance(net, Elastic):
        raise ExportError("Give the elastic network, or export a cut one with export_onnx.")
    if not net.free:
        raise ExportError("No axis of this network can be cut; export it with export_onnx.")
    if any(t.is_meta for t in net.engine.state().values()):
        raise ExportError("The network has no weights, only shapes; load them before exporting.")
    if norms := net.engine.statistics({name: axis.near(1) for name, axis in net.free.items()}):
        warnings.warn(no_data(norms, _INSTEAD), stacklevel=caller())
    args, kwargs = net.engine.example()
    name = type(net.model).__name__
    inputs = example(net.model, args, kwargs, dynamic_batch)
    empties = tuple(torch.empty(axis.size, 0) for axis in net.free.values())
    names = input_names(net.model, inputs)
    subject = Subject(
        _At(net, net.full()),
        name,
        inputs,
        dynamic_batch,
        "ONNX with its widths as inputs",
        instead=_INSTEAD,
        names=names,
        traced_as=_AtShapes(net),
        widths=empties,
    )
    data, traced = settled(subject, partial(_onnx, net))
    session = opened(data)
    for widths in _settings(net):
        other = replace(subject, module=_At(net, widths), what="ONNX")
        run = _runner(session, names, widths)
        for each in (inputs, *_other_batch(traced)):
            check(other, run, each)
    return write_whole(path, [data])


def _other_batch(traced: Traced) -> list[Inputs]:
    """The example with another batch, where the batch may vary."""
    batch = traced.batch
    return [] if batch is None else [traced.at({batch.expr: traced.others(batch)[0]})]


class _AtShapes(nn.Module):
    """The network at widths that are the lengths of empty tensors, the only symbols torch takes."""

    def __init__(self, net: Elastic) -> None:
        super().__init__()
        self.net = net

    def forward(self, widths: list[Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self.net.engine.at([w.shape[0] for w in widths], args, kwargs)


class _At(nn.Module):
    """The network at given widths, to compare with."""

    def __init__(self, net: Elastic, widths: Mapping[str, int]) -> None:
        super().__init__()
        self.net = net
        self.widths = widths

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.net(*args, widths=self.widths, **kwargs)


def _onnx(net: Elastic, traced: Traced) -> tuple[bytes, Run]:
    """The ONNX file's bytes, and a function that runs it at full width."""
    with any_length():
        made = torch.onnx.export(traced.program, dynamo=True, verbose=False)
    assert made is not None
    model = made.model_proto
    args, kwargs = traced.user_inputs
    shapes = [f"shape.{name}" for name in net.free]
    names = (*shapes, *input_names(net.model, (args, kwargs)))
    describe(model, replace(traced, names=names), output_names(net(*args, widths={}, **kwargs)))
    _numbers_for_shapes(model.graph, {name: axis.size for name, axis in net.free.items()})
    data: bytes = model.SerializeToString()
    return data, _runner(opened(data), names[len(shapes) :], net.full())


def _numbers_for_shapes(graph: Any, sizes: Mapping[str, int]) -> None:
    """Let the graph take each width as a number, and make the empty tensor of that length of it."""
    from onnx import TensorProto, helper

    constants = {"widths.one": [1], "widths.zero": [0]}
    made = [
        helper.make_node("Constant", [], [name], value_ints=value)
        for name, value in constants.items()
    ]
    numbers = []
    for name, size in sizes.items():
        number = PREFIX + name
        numbers.append(helper.make_tensor_value_info(number, TensorProto.INT64, []))
        steps = [f"{number}.{step}" for step in ("size", "clipped", "length", "shape")]
        made += [
            helper.make_node("Constant", [], [steps[0]], value_ints=[size]),
            helper.make_node("Max", [number, "widths.one"], [steps[1]]),
            helper.make_node("Min", [steps[1], steps[0]], [steps[2]]),
            helper.make_node("Concat", [steps[2], "widths.zero"], [steps[3]], axis=0),
            helper.make_node("ConstantOfShape", [steps[3]], [f"shape.{name}"]),
        ]
    others = [i for i in graph.input if i.name.removeprefix("shape.") not in sizes]
    nodes = [*made, *graph.node]
    del graph.input[:], graph.node[:]
    graph.input.extend([*others, *numbers])
    graph.node.extend(nodes)


def _settings(net: Elastic) -> list[dict[str, int]]:
    """Widths at which the file is tried: full, all one, and random ones."""
    g = torch.Generator().manual_seed(0)
    random = [
        {n: int(torch.randint(1, a.size + 1, (1,), generator=g)) for n, a in net.free.items()}
        for _ in range(CHECKED)
    ]
    return [dict(net.full()), dict.fromkeys(net.free, 1), *random]


def _runner(session: Any, names: Sequence[str], widths: Mapping[str, int]) -> Run:
    given = {PREFIX + name: torch.tensor(width).numpy() for name, width in widths.items()}

    def run(batch: Inputs) -> list[Any]:
        feed = {n: x.detach().cpu().numpy() for n, x in zip(names, tensors(batch), strict=True)}
        return [torch.from_numpy(out) for out in session.run(None, feed | given)]

    return run
