"""Networks that run in int8: what the files compute, keep and refuse, and how fast they are."""

import json
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import nn
from torch.nn import functional as F

import widthwise as ww
from command_line import fails, works
from elastic_nets import made
from widthwise.app.runs import exports, measuring
from widthwise.app.tasks.mlp import MLP
from widthwise.app.tasks.resolve import resolve
from widthwise.benchmark import runtimes
from widthwise.benchmark.kernels import NothingFasterWarning
from widthwise.benchmark.runtimes import RUNTIMES, Timing, compare, gains
from widthwise.errors import ExportError
from widthwise.export import int8_onnx as int8
from widthwise.export.int8_onnx import Int8File, export_int8
from widthwise.quantization import Uniform, quantize_

EIGHT = Uniform(8, symmetric=True, per="channel")


@pytest.fixture(scope="module")
def digits():
    """The MLP of the task, trained for a moment, and the data."""
    torch.manual_seed(0)
    task = resolve("digits")
    data, model = task.splits(), task.model()
    train = [torch.stack(each) for each in zip(*data.train, strict=True)]
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(train[0]), train[1]).backward()
        optimizer.step()
    return model.eval(), task, data


def convnet():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10)).eval()


class Language(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 16)
        self.lstm = nn.LSTM(16, 24, 2, batch_first=True)
        self.out = nn.Linear(24, 20)

    def forward(self, x):
        return self.out(self.lstm(self.embedding(x))[0])


def language():
    torch.manual_seed(0)
    return Language().eval()


def operators(path):
    return {node.op_type for node in onnx.load(path).graph.node}


def served(path, x):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


CASES = {
    "mlp": (lambda: MLP(64, 64, 10), lambda n: torch.randn(n, 64), {"MatMulInteger"}),
    "cnn": (convnet, lambda n: torch.randn(n, 1, 8, 8), {"ConvInteger", "MatMulInteger"}),
    "lstm": (
        language,
        lambda n: torch.randint(0, 20, (n, 7)),
        {"DynamicQuantizeLSTM", "MatMulInteger"},
    ),
}


# Processors without VNNI add products of bytes in 16 bits, which saturate.
INFO = Path("/proc/cpuinfo")
SATURATING = 1 if not INFO.exists() or "vnni" in INFO.read_text() else 10


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", CASES)
def test_a_file_multiplies_integers_and_is_close(name, tmp_path, capfd):
    build, inputs, wanted = CASES[name]
    torch.manual_seed(0)
    module, x = build(), inputs(3)
    written = export_int8(module, (x,), tmp_path / "a.onnx")
    assert wanted <= operators(written.path)
    assert not {"Conv", "Gemm", "MatMul", "LSTM"} & operators(written.path)
    assert written.path == tmp_path / "a.onnx"
    assert written.bytes == written.path.stat().st_size < 0.75 * written.float32_bytes
    plain = ww.export_onnx(module, (x,), tmp_path / "b.onnx")
    assert written.float32_bytes == plain.stat().st_size
    with torch.no_grad():
        outputs = module(x)
    off = (served(written.path, x) - outputs).abs().max() / (outputs.max() - outputs.min())
    assert 0 < off <= written.difference + 1e-6
    assert written.difference < 0.03 * SATURATING
    for batch in (1, 9):
        x = inputs(batch)
        found, outputs = served(written.path, x), module(x).detach()
        assert float((found - outputs).abs().max()) < 0.05 * SATURATING * float(outputs.abs().max())
    assert capfd.readouterr() == ("", "")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.onnx", "b.onnx"]


def test_a_trained_network_is_as_good(digits, tmp_path):
    model, task, data = digits
    x = torch.stack([data.train[i][0] for i in range(64)])
    written = export_int8(model, (x,), tmp_path / "a.onnx")
    before = measuring.evaluation(task, data, "test")(model)
    assert before > 0.9
    assert exports.onnx_metric(written.path, task, data) == pytest.approx(before, abs=0.01)


def test_convolutions_may_stay(tmp_path):
    x = torch.randn(2, 1, 8, 8)
    written = export_int8(convnet(), (x,), tmp_path / "a.onnx", convolutions=False)
    assert {"Conv", "MatMulInteger"} <= operators(written.path)
    assert "ConvInteger" not in operators(written.path)


# ---------------------------------------------------------------- codes


def codes_in(path):
    """The codes of all weights in a file, by their initializer's name."""
    initializers = onnx.load(path).graph.initializer
    return {
        each.name: numpy_helper.to_array(each)
        for each in initializers
        if each.name.endswith("_quantized") and len(each.dims) > 1
    }


@pytest.mark.parametrize("calibration", ["minmax", "mse"])
def test_codes_of_eight_bits_are_kept(calibration, tmp_path):
    module = MLP(64, 32, 10)
    with torch.no_grad():  # a row of zeros, and one with an outlier
        module.fc1.weight[0] = 0
        module.fc1.weight[1, 0] = 5
    record = quantize_(module, EIGHT, calibration=calibration)
    found = codes_in(export_int8(module, (torch.randn(3, 64),), tmp_path / "a.onnx").path)
    assert len(record) == len(found) == 3
    for name, each in record.items():
        ours = each.codes.int().numpy() - 128
        np.testing.assert_array_equal(found[f"{name}_quantized"].T, ours)


def test_convolutions_have_one_scale(tmp_path):
    """So their codes are others; the docstring says so."""
    module = convnet()
    with torch.no_grad():
        module[0].weight[0] *= 0.1
    record = quantize_(module, EIGHT)["0.weight"]
    path = export_int8(module, (torch.randn(3, 1, 8, 8),), tmp_path / "a.onnx").path
    assert (codes_in(path)["0.weight_quantized"] != record.codes.int().numpy() - 128).any()


def test_codes_of_an_lstm_are_kept_in_another_order(tmp_path):
    module = nn.LSTM(5, 6, batch_first=True).eval()
    record = quantize_(module, EIGHT)
    found = codes_in(export_int8(module, (torch.randn(2, 4, 5),), tmp_path / "a.onnx").path)
    ours = [sorted((each.codes.int() - 128).flatten().tolist()) for each in record.values()]
    assert sorted(ours) == sorted(sorted(each.flatten().tolist()) for each in found.values())


def test_codes_that_leave_out_127_get_a_finer_scale(tmp_path):
    module = MLP(16, 8, 4)
    record = quantize_(module, EIGHT)["fc1.weight"]
    with torch.no_grad():
        module.fc1.weight.copy_(record.dense().clamp(-100 * record.scales, 100 * record.scales))
    path = export_int8(module, (torch.randn(3, 16),), tmp_path / "a.onnx").path
    found = codes_in(path)["fc1.weight_quantized"].T
    ours = (record.codes.int().numpy() - 128).clip(-100, 100)
    assert (np.abs(found).max(1) == 127).all()
    assert (found != ours).any()


# ---------------------------------------------------------------- what is refused


def test_what_cannot_run_in_int8_is_said_and_leaves_no_file(tmp_path):
    path, x = tmp_path / "a", torch.randn(3, 4)
    with pytest.raises(ExportError, match=r"no linear layer, convolution or LSTM.*export_onnx"):
        export_int8(nn.GRU(4, 5, batch_first=True), (torch.randn(3, 2, 4),), path)
    with pytest.raises(ExportError, match=r"no linear layer or LSTM"):
        export_int8(nn.Conv1d(4, 2, 1), (torch.randn(3, 4, 5),), path, convolutions=False)
    with pytest.raises(ExportError, match=r"float16.*\.float\(\)"):
        export_int8(nn.Linear(4, 2).half(), (x.half(),), path)
    with pytest.raises(ExportError, match="not finite in PyTorch"):
        export_int8(nn.Linear(4, 2), (torch.full((3, 4), torch.nan),), path)
    with pytest.raises(ExportError, match=r"net\.cut"):
        export_int8(made("mlp")[1], made("mlp")[2], path)

    class Decides(nn.Linear):
        def forward(self, x):
            return super().forward(x).argmax(-1)

    with pytest.raises(ExportError, match="no floating-point outputs"):
        export_int8(Decides(4, 2), (x,), path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("factor", "said"), [(30.0, "times their range"), (np.nan, "finite")])
def test_a_broken_file_is_found(factor, said, tmp_path, monkeypatch):
    right = int8.quantize

    def broken(module, source, path, convolutions):
        """As it is, but for the scales of one layer."""
        right(module, source, path, convolutions)
        model = onnx.load(path)
        scale = next(i for i in model.graph.initializer if i.name == "fc3.weight_scale")
        scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) * factor, scale.name))
        onnx.save(model, path)

    monkeypatch.setattr(int8, "quantize", broken)
    with pytest.raises(ExportError, match=said):
        export_int8(MLP(8, 8, 3), (torch.randn(4, 8),), tmp_path / "a")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("found", "wanted", "off"),
    [
        ([1.0, 3.0], [1.0, 3.0], 0.0),
        ([1.0, 3.3], [1.0, 3.0], 0.1),  # the range is 0 to 3
        ([-1.0, 1.5], [-1.0, 1.0], 0.25),
        ([0.0, 0.0], [0.0, 0.0], 0.0),
        ([0.0, 0.1], [0.0, 0.0], float("inf")),
    ],
)
def test_differences_are_shares_of_the_range(found, wanted, off):
    whole = torch.tensor([1, 2])
    values = int8.difference([torch.tensor(found), whole], [torch.tensor(wanted), whole], "Net")
    assert values == pytest.approx(off)


# ---------------------------------------------------------------- faster or not


def timed(monkeypatch, *milliseconds):
    """Have PyTorch, ONNX Runtime and int8 take so long."""
    monkeypatch.setattr(runtimes, "fastest", lambda *_: list(milliseconds))


def test_rows_say_how_fast_each_is(monkeypatch):
    timed(monkeypatch, 6.0, 4.0, 1.0)
    rows = compare(MLP(8, 8, 3), (torch.randn(2, 8),), threads=1)
    assert [(r.runtime, r.batch) for r in rows] == [(n, b) for b in (1, 32) for n in RUNTIMES]
    assert [r.speed for r in rows] == [1.0, 1.5, 6.0] * 2
    assert rows[2] == Timing("ONNX Runtime int8", 1, 1, 1.0, 6.0)
    assert gains(rows) == {1: 4.0, 32: 4.0}


def test_int8_that_is_no_faster_is_said(monkeypatch):
    timed(monkeypatch, 6.0, 4.0, 5.0)  # faster than PyTorch only
    with pytest.warns(NothingFasterWarning, match=r"0\.80 times as fast at batch 4;") as said:
        rows = compare(MLP(8, 8, 3), (torch.randn(2, 8),), batches=(4,))
    assert "\n" not in str(said[0].message)
    assert gains(rows) == {4: 0.8}
    with pytest.raises(ExportError, match="no batch"):
        compare(nn.Flatten(0), (torch.tensor(1.0),))


def test_times_are_real():
    """A batch 4,096 times as large takes longer, in every runtime, however busy the machine."""
    module = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 256)).train()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NothingFasterWarning)
        rows = compare(module, (torch.randn(2, 256),), batches=(1, 4096), threads=1, seconds=0.02)
    for few, many in zip(rows[:3], rows[3:], strict=True):
        assert (few.runtime, few.threads) == (many.runtime, 1)
        assert 0 < few.milliseconds < many.milliseconds
    assert module.training


# ---------------------------------------------------------------- command line


def test_the_command_says_size_metric_and_speed(digits, tmp_path, monkeypatch):
    model, task, data = digits
    file, out = tmp_path / "small.safetensors", tmp_path / "small.onnx"
    ww.save(model, file)
    timed(monkeypatch, 3.0, 2.0, 4.0)  # slower: the line says so, and nothing else does
    said = works("export", file, "--task", "digits", "--int8", "--out", out)
    assert said.count("\n") == 1
    before = measuring.evaluation(task, data, "test")(model)
    after = exports.onnx_metric(out, task, data)
    assert f"test accuracy {100 * after:.2f} %, {100 * before:.2f} % in float32" in said
    assert "float32 here: 0.50 at batch 1, 0.50 at batch 32" in said
    assert "gives what PyTorch gives" not in said
    assert "MatMulInteger" in operators(out)
    out.unlink()
    said = fails("export", file, "--task", "digits", "--int8", "--format", "torch", "--out", out)
    assert "--format onnx" in said
    assert not out.exists()


def test_the_result_is_data(tmp_path):
    written = export_int8(MLP(8, 8, 3), (torch.randn(2, 8),), tmp_path / "a")
    assert isinstance(written, Int8File)
    assert json.loads(json.dumps([written.bytes, written.float32_bytes, written.difference]))
    assert ww.export_int8 is export_int8
