"""Exported networks run elsewhere, at any batch size, and compute the same."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import widthwise as ww
from elastic_nets import made, random_widths
from widthwise.errors import ExportError
from widthwise.export import settle
from widthwise.export.elastic_onnx import export_elastic
from widthwise.export.onnx import export_onnx, export_program


@pytest.mark.sample(2)
@pytest.mark.parametrize("same_class", [True, False])
@pytest.mark.parametrize("name", ["cnn", "lstm"])
def test_onnx_runs_any_batch(name, same_class, tmp_path, capfd):
    _, net, args, kwargs = made(name)
    small = net.engine.cut(net.widths(0.5), same_class=same_class)[0].eval()
    path = export_onnx(small, args, tmp_path / "a.onnx", kwargs=kwargs)
    onnx.checker.check_model(onnx.load(path))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch in (1, 2, 9):
        inputs = [torch.randn(batch, *x.shape[1:]) for x in args]
        feed = dict(zip((i.name for i in session.get_inputs()), inputs, strict=True))
        found = session.run(None, {n: x.numpy() for n, x in feed.items()})[0]
        with torch.no_grad():
            torch.testing.assert_close(
                torch.from_numpy(found), small(*inputs), rtol=1e-4, atol=1e-5
            )
    assert capfd.readouterr() == ("", "")
    assert [p.name for p in tmp_path.iterdir()] == ["a.onnx"]


@pytest.mark.parametrize("same_class", [True, False])
@pytest.mark.parametrize("name", ["cnn", "lstm", "mha"])
def test_programs_run_any_batch(name, same_class, tmp_path, capfd):
    _, net, args, kwargs = made(name)
    widths = net.widths(0.5) if not same_class else net.full()
    small = net.engine.cut(widths, same_class=same_class)[0].eval()
    path = export_program(small, args, tmp_path / "a.pt2", kwargs=kwargs)
    loaded = torch.export.load(path).module()  # a file of our own, just written
    inputs = [torch.randn(9, *x.shape[1:]) for x in args]
    with torch.no_grad():
        torch.testing.assert_close(loaded(*inputs), small(*inputs), rtol=1e-4, atol=1e-5)
    assert capfd.readouterr() == ("", "")


def test_keywords_nested_inputs_and_an_example_of_one(tmp_path):
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, pair, *, scale=None, flag=True):
            y = self.fc(pair["a"] + pair["b"])
            return {"y": y if scale is None else y * scale, "n": y.argmax(1)}

    pair = {"a": torch.randn(1, 4), "b": torch.randn(1, 4)}
    keywords = {"flag": False, "scale": torch.rand(1, 1)}
    for function in (export_onnx, export_program):
        path = function(Named(), (pair,), tmp_path / function.__name__, kwargs=keywords)
        assert path.stat().st_size > 0


class TwoAtATime(nn.Module):
    """Runs for one batch size only."""

    def forward(self, x):
        return x.reshape(2, 2, 3).sum(1)


class Random(nn.Module):
    def forward(self, x):
        return x + torch.randn_like(x)


class Branches(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize("function", [export_onnx, export_program])
def test_what_cannot_be_exported_is_said_and_leaves_no_file(function, tmp_path):
    x = torch.randn(4, 3)
    path = tmp_path / "a"
    with pytest.raises(ExportError, match="dynamic_batch=False"):
        function(TwoAtATime(), (x,), path)
    with pytest.raises(ExportError, match="random"):
        function(Random(), (x,), path)
    with pytest.raises(ExportError, match="Branches"):
        function(Branches(), (x,), path)
    with pytest.raises(ExportError, match="do not fit"):
        function(Random(), (x, x), path)
    with pytest.raises(ExportError, match="args"):
        function(Random(), (), path)
    with pytest.raises(ExportError, match=r"net\.cut"):
        function(made("mlp")[1], made("mlp")[2], path)
    assert issubclass(ExportError, ww.WidthwiseError)
    assert not list(tmp_path.iterdir())
    function(TwoAtATime(), (x,), path, dynamic_batch=False)
    assert path.stat().st_size > 0


def test_an_export_that_computes_something_else_is_refused(tmp_path, monkeypatch):
    _, net, args, _ = made("mlp")
    small = net.cut(net.widths(0.5))
    compared = settle.difference

    def altered(found, wanted):
        return compared([f * (1 + 1e-3) for f in found], wanted)

    monkeypatch.setattr(settle, "difference", altered)
    with pytest.raises(ExportError, match="something else"):
        export_onnx(small, args, tmp_path / "a")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("found", "wanted", "refused"),
    [
        ([1.0, 2.0], [1.0, 2.0], False),
        ([1.0, 2.0 + 1e-5], [1.0, 2.0], False),
        ([1.0, 2.001], [1.0, 2.0], True),
        ([1.0, float("nan")], [1.0, float("nan")], False),
        ([1.0, float("nan")], [1.0, 2.0], True),
        ([1.0, float("inf")], [1.0, float("inf")], False),
        ([1.0, float("inf")], [1.0, 2.0], True),
        ([1.0], [1.0, 2.0], True),
        ([0.0, 0.0], [0.0, 0.0], False),
    ],
)
def test_differences(found, wanted, refused):
    assert (settle.difference([torch.tensor(found)], [torch.tensor(wanted)]) > 1) == refused


def test_modes_and_settings_are_given_back(tmp_path):
    _, net, args, _ = made("cnn")
    small = net.cut(net.widths(0.5)).train()
    fused = torch.backends.mha.get_fastpath_enabled()
    export_program(small, args, tmp_path / "a")
    assert small.training
    assert all(m.training for m in small.modules())
    assert torch.backends.mha.get_fastpath_enabled() == fused
    assert torch.is_grad_enabled()


# ---------------------------------------------------------------- all widths in one file


def at_widths(session, widths, args):
    """What ONNX Runtime computes at these widths."""
    names = [i.name for i in session.get_inputs()]
    given = dict(zip(names, (x.numpy() for x in args), strict=False))
    numbers = {f"width.{axis}": np.array(width) for axis, width in widths.items()}
    assert set(names[len(args) :]) == set(numbers)
    return torch.from_numpy(session.run(None, given | numbers)[0])


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", ["mlp", "resnet", "vit"])
def test_one_file_runs_every_width_and_any_batch(name, tmp_path, capfd):
    _, net, args, _ = made(name)
    path = export_elastic(net, tmp_path / "a.onnx")
    onnx.checker.check_model(onnx.load(path))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch in (1, 2, 7):
        inputs = [torch.randn(batch, *x.shape[1:]) for x in args]
        for seed in range(100, 105):
            widths = net.complete(random_widths(net, seed))
            with torch.no_grad():
                wanted = net(*inputs, widths=widths)
            found = at_widths(session, widths, inputs)
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert capfd.readouterr() == ("", "")
    assert [p.name for p in tmp_path.iterdir()] == ["a.onnx"]


def test_widths_outside_count_as_the_nearest_ones(tmp_path):
    _, net, args, _ = made("mlp")
    session = onnxruntime.InferenceSession(export_elastic(net, tmp_path / "a"))
    wanted = [net(*args), net(*args, widths=dict.fromkeys(net.free, 1))]
    for width, outputs in zip((10**6, -3), wanted, strict=True):
        found = at_widths(session, dict.fromkeys(net.free, width), args)
        torch.testing.assert_close(found, outputs.detach(), rtol=1e-4, atol=1e-5)


def test_keyword_inputs_of_an_elastic_file_are_named(tmp_path):
    _, net, _, _ = made("dict_kwargs")
    session = onnxruntime.InferenceSession(export_elastic(net, tmp_path / "a"))
    names = [i.name for i in session.get_inputs() if not i.name.startswith("width.")]
    assert sorted(names) == ["batch_category", "batch_x", "weight"]


def test_what_cannot_be_elastic_elsewhere_is_said(tmp_path, monkeypatch):
    path = tmp_path / "a"
    with pytest.raises(ExportError, match=r"lstm.*net\.cut\(widths\)"):
        export_elastic(made("lstm")[1], path)
    with pytest.raises(ExportError, match="elastic network"):
        export_elastic(nn.Linear(3, 2), path)
    with torch.device("meta"):
        empty = ww.Elastic(nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 2)), torch.randn(2, 3))
    with pytest.raises(ExportError, match="no weights"):
        export_elastic(empty, path)
    monkeypatch.setattr(settle, "difference", lambda found, wanted: 2.0)
    with pytest.raises(ExportError, match="something else"):
        export_elastic(made("mlp")[1], path)
    assert not list(tmp_path.iterdir())
