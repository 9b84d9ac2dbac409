"""Exported files take every size that the network takes, under the model's own names."""

from collections import namedtuple
from dataclasses import dataclass

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import widthwise as ww
from widthwise.errors import ExportError
from widthwise.export import onnx, settle
from widthwise.export.names import output_names

Gaussian = namedtuple("Gaussian", ["mean", "logvar"])


class Tagger(nn.Module):
    """A label for each word."""

    def __init__(self, recurrent=nn.LSTM):
        super().__init__()
        self.embed = nn.Embedding(20, 6)
        self.recurrent = recurrent(6, 8, batch_first=True, bidirectional=True)
        self.head = nn.Linear(16, 3)

    def forward(self, ids):
        return {"tags": self.head(self.recurrent(self.embed(ids))[0])}


class LastStep(nn.Module):
    """The state at each sequence's own length."""

    def __init__(self):
        super().__init__()
        self.recurrent = nn.LSTM(4, 8, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x, lengths):
        y = self.recurrent(x)[0]
        return self.head(y[torch.arange(x.shape[0]), lengths - 1])


class Masked(nn.Module):
    """A transformer encoder with a padding mask."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

    def forward(self, tokens, mask):
        return self.encoder(tokens, src_key_padding_mask=mask)


class UNet(nn.Module):
    """Halves and doubles an image; its sides must be even."""

    def __init__(self):
        super().__init__()
        self.down, self.inner = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
        self.up, self.out = nn.ConvTranspose2d(6, 4, 2, stride=2), nn.Conv2d(8, 2, 1)

    def forward(self, image):
        wide = self.down(image).relu()
        deep = self.inner(nn.functional.max_pool2d(wide, 2)).relu()
        return self.out(torch.cat([wide, self.up(deep)], 1))


class Detector(nn.Module):
    """Two heads, by name, and the input besides."""

    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.box, self.score = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 5, 1)

    def forward(self, image):
        h = self.body(image).relu()
        return {"boxes": self.box(h).flatten(2), "scores": self.score(h), "image": image}


class Encoder(nn.Module):
    """A named tuple, and an argument by keyword."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(5, 8), nn.Linear(8, 4)

    def forward(self, x, *, scale=None):
        h = self.body(x).relu()
        return Gaussian(self.head(h if scale is None else h * scale), self.head(h))


class Nested(nn.Module):
    """Arguments in dicts and lists, and any keywords."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, batch, **extra):
        y = self.head(self.body(batch["x"] + batch["more"][0]).relu())
        return {"out": {"y": y, "z": (extra["w"].sum(1),)}}


class Recent(nn.Module):
    """Looks at the last eight steps only, where there are more."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x):
        if x.size(1) > 8:
            x = x[:, -8:] * 2
        return self.head(self.body(x).relu()).mean(1)


class Flat(nn.Module):
    """Whose image must keep its size."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4 * 6 * 6, 3)

    def forward(self, x):
        return self.head(self.body(x).relu().flatten(1))


def session_of(path):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def described(session):
    return [
        {value.name: value.shape for value in values}
        for values in (session.get_inputs(), session.get_outputs())
    ]


def agree(session, module, *args, **kwargs):
    """Whether ONNX Runtime computes what the module does."""
    tensors = [x for x in torch.utils._pytree.tree_leaves((args, kwargs)) if torch.is_tensor(x)]
    names = [value.name for value in session.get_inputs()]
    found = session.run(None, {n: x.numpy() for n, x in zip(names, tensors, strict=True)})
    with torch.no_grad():
        wanted = torch.utils._pytree.tree_leaves(module(*args, **kwargs))
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(torch.from_numpy(a), b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("recurrent", [nn.LSTM, nn.GRU])
def test_sequences_take_any_length(recurrent, tmp_path):
    ids = torch.randint(20, (2, 7))
    net = ww.Elastic(Tagger(recurrent), ids)
    small = net.cut(net.widths(0.5)).eval()
    session = session_of(ww.export_onnx(small, (ids,), tmp_path / "a.onnx"))
    assert described(session) == [
        {"ids": ["batch", "ids_dim_1"]},
        {"tags": ["batch", "ids_dim_1", 3]},
    ]
    for shape in ((1, 1), (3, 17)):
        agree(session, small, torch.randint(20, shape))
    program = torch.export.load(ww.export_program(small, (ids,), tmp_path / "a.pt2")).module()
    other = torch.randint(20, (3, 17))
    torch.testing.assert_close(program(other)["tags"], small(other)["tags"])


def test_sizes_that_are_equal_share_a_name(tmp_path):
    tokens, mask = torch.randn(2, 5, 8), torch.arange(5) > torch.tensor([[2], [4]])
    net = ww.Elastic(Masked().eval(), (tokens, mask))
    small = net.cut(net.full())
    session = session_of(ww.export_onnx(small, (tokens, mask), tmp_path / "a.onnx"))
    inputs, outputs = described(session)
    assert inputs == {"tokens": ["batch", "tokens_dim_1", 8], "mask": ["batch", "tokens_dim_1"]}
    assert outputs == {"output": ["batch", "tokens_dim_1", 8]}
    agree(session, small, torch.randn(3, 9, 8), torch.arange(9) > torch.tensor([[2], [8], [4]]))


def test_lengths_besides_a_sequence(tmp_path):
    module = LastStep().eval()
    inputs = (torch.randn(2, 5, 4), torch.tensor([5, 2]))
    session = session_of(ww.export_onnx(module, inputs, tmp_path / "a.onnx"))
    agree(session, module, torch.randn(3, 9, 4), torch.tensor([9, 1, 4]))


def test_an_image_takes_the_sizes_that_the_network_takes(tmp_path):
    module = UNet().eval()
    session = session_of(ww.export_onnx(module, (torch.randn(2, 1, 8, 8),), tmp_path / "a.onnx"))
    assert described(session)[0] == {"image": ["batch", 1, "image_dim_2", "image_dim_3"]}
    agree(session, module, torch.randn(3, 1, 12, 20))
    with pytest.raises(Exception, match="This file needs"):
        agree(session, module, torch.randn(3, 1, 12, 21))
    flat = Flat().eval()
    session = session_of(ww.export_onnx(flat, (torch.randn(2, 1, 6, 6),), tmp_path / "b.onnx"))
    assert described(session)[0] == {"x": ["batch", 1, 6, 6]}


@pytest.mark.sample(1)
@pytest.mark.parametrize(("length", "other"), [(12, 5), (5, 12)])
def test_a_branch_on_a_size_is_not_taken_silently(length, other, tmp_path):
    module = Recent().eval()
    session = session_of(ww.export_onnx(module, (torch.randn(2, length, 4),), tmp_path / "a.onnx"))
    agree(session, module, torch.randn(3, length + (1 if length > 8 else -1), 4))
    with pytest.raises(Exception, match=r"This file needs x_dim_1 (>|<=) 8"):
        session.run(None, {"x": np.zeros((3, other, 4), np.float32)})


def test_outputs_are_named_as_the_model_names_them(tmp_path):
    module = Detector().eval()
    net = ww.Elastic(module, torch.randn(2, 3, 8, 8))
    small = net.cut(net.widths(0.5)).eval()
    session = session_of(ww.export_onnx(small, (torch.randn(2, 3, 8, 8),), tmp_path / "a.onnx"))
    # An output cannot be called like an input.
    assert list(described(session)[1]) == ["boxes", "scores", "output_image"]
    agree(session, small, torch.randn(3, 3, 16, 12))
    inputs = torch.randn(2, 5)
    scale = {"scale": torch.rand(2, 1)}
    path = ww.export_onnx(Encoder().eval(), (inputs,), tmp_path / "b.onnx", kwargs=scale)
    names = [[*each] for each in described(session_of(path))]
    assert names == [["x", "scale"], ["mean", "logvar"]]


def test_nested_inputs_and_any_keywords(tmp_path):
    module = Nested().eval()
    batch = {"x": torch.randn(2, 5, 4), "more": [torch.randn(2, 5, 4)]}
    path = ww.export_onnx(module, (batch,), tmp_path / "a.onnx", kwargs={"w": torch.rand(2, 5)})
    session = session_of(path)
    inputs, outputs = described(session)
    assert list(inputs) == ["batch_x", "batch_more_0", "w"]
    assert inputs["batch_x"] == inputs["batch_more_0"] == ["batch", "batch_x_dim_1", 4]
    assert list(outputs) == ["out_y", "out_z_0"]
    batch = {"x": torch.randn(3, 7, 4), "more": [torch.randn(3, 7, 4)]}
    agree(session, module, batch, w=torch.rand(2, 3))


def test_an_elastic_file_takes_any_length(tmp_path):
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    net = ww.Elastic(model, torch.randn(2, 5, 4))
    session = session_of(ww.export_elastic(net, tmp_path / "a.onnx"))
    (name, *_), (output,) = described(session)
    assert described(session)[0][name][:2] == ["batch", f"{name}_dim_1"]
    x = torch.randn(3, 11, 4)
    (found,) = session.run([output], {name: x.numpy(), "width.0": np.array(3)})
    torch.testing.assert_close(
        torch.from_numpy(found), net(x, widths={"0": 3}).detach(), rtol=1e-4, atol=1e-5
    )


def test_names_of_outputs():
    @dataclass
    class Scores:
        logits: torch.Tensor
        hidden: tuple

    torch.export.register_dataclass(Scores)
    x = torch.zeros(1)
    assert output_names(x) == ("output",)
    assert output_names((x, [x, None, x])) == ("output_0", "output_1_0", "output_1_2")
    assert output_names({"a": x, "b": {"c": x}, "n": 3}) == ("a", "b_c")
    assert output_names(Scores(x, (x, x))) == ("logits", "hidden_0", "hidden_1")


@pytest.mark.parametrize(
    ("dtype", "module"),
    [(torch.bfloat16, nn.Linear(4, 2)), (torch.float64, nn.Conv1d(4, 2, 1))],
)
def test_precisions_that_onnx_runtime_lacks_are_refused(dtype, module, tmp_path):
    shape = (2, 4) if isinstance(module, nn.Linear) else (2, 4, 6)
    with pytest.raises(ExportError, match=r"module\.float\(\)"):
        ww.export_onnx(module.to(dtype), (torch.zeros(shape, dtype=dtype),), tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_precisions_that_onnx_runtime_has(dtype, tmp_path):
    x = torch.randn(2, 4, dtype=dtype)
    path = ww.export_onnx(nn.Linear(4, 2).to(dtype), (x,), tmp_path / "a.onnx")
    assert session_of(path).run(None, {"input": x.numpy()})[0].dtype == x.numpy().dtype


def test_a_size_at_which_the_file_differs_is_fixed(tmp_path, monkeypatch):
    """A broken file: the length is declared free, and computes something else."""
    compared = settle._disagreement

    def longer(run, inputs, wanted):
        return "broken" if inputs[0][0].shape[1] != 5 else compared(run, inputs, wanted)

    monkeypatch.setattr(settle, "_disagreement", longer)
    model, x = nn.Linear(4, 2).eval(), torch.randn(2, 5, 4)
    session = session_of(ww.export_onnx(model, (x,), tmp_path / "a.onnx"))
    assert described(session)[0] == {"input": ["batch", 5, 4]}

    monkeypatch.setattr(settle, "_disagreement", lambda run, inputs, wanted: "broken")
    with pytest.raises(ExportError, match=r"broken.*dynamic_batch=False"):
        ww.export_onnx(model, (x,), tmp_path / "b.onnx")


def test_a_file_with_other_outputs_than_the_network_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx, "output_names", lambda outputs: ("a", "b"))
    with pytest.raises(ExportError, match="1 outputs"):
        ww.export_onnx(nn.Linear(3, 2), (torch.zeros(2, 3),), tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())
