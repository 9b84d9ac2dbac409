"""Progressive files of quantized weights: bits for each level, and every prefix still a network."""

import hashlib
import json
import re
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import widthwise as ww
from command_line import fails, works
from elastic_nets import identical, made
from progressive_files import (
    CNN,
    FORMAT,
    JSON,
    MLP,
    RELAXED,
    TENSORS,
    again,
    build_tiny,
    elastic,
    layouts,
    levels_of,
    refuses,
    terms_layout,
)  # fmt: skip
from web_server import serving
from widthwise import quantization
from widthwise.common.jsonfile import unsealed
from widthwise.errors import FileError, QuantizationError, WidthError
from widthwise.graph.slicing import part
from widthwise.store.file import prepare, save
from widthwise.store.progressive import coded_deltas, deltas
from widthwise.store.progressive.reader import Progressive


@pytest.fixture(scope="module")
def mlp():
    return elastic(MLP, torch.randn(2, 784))


@pytest.fixture(scope="module")
def cnn():
    return elastic(CNN, torch.randn(2, 3, 8, 8))


# ---------------------------------------------------------------- shells


@settings(RELAXED, max_examples=150)
@given(layouts(), st.integers(2, 8))
def test_what_a_rung_adds_is_near_and_in_its_order(drawn, count):
    axes, widths, dims = drawn
    levels = [
        tuple(terms_layout(d, [(n, w[k]) for n, w in zip(axes, widths, strict=True)]) for d in dims)
        for k in range(3)
    ]
    full = torch.randn(deltas.full_shape(levels[0]), generator=torch.Generator().manual_seed(0))
    if len(dims) < 2 or not full.numel():
        return
    plain = deltas.shells(full, levels)
    for k, (wide, below) in enumerate(zip(levels, [None, *levels], strict=False)):
        kept = part(full, tuple(enumerate(wide)))
        data = coded_deltas.encode(kept, wide, below, count)
        assert len(data) == coded_deltas.size(wide, below, count, torch.float32)
        found = coded_deltas.decode(data, wide, below, count, torch.float32)
        assert found.shape == plain[k].shape
        # Half a step of a range that reaches from the least to the largest weight, and to zero; a
        # range that is cut shorter has a smaller squared error.
        step = 2 * float(full.abs().amax()) / (2**count - 1)
        assert (found - plain[k]).square().sum() <= plain[k].numel() * (step / 2) ** 2 + 1e-9


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_weights_keep_their_type(dtype):
    wide, below = (((4, 4),), ((6, 6),)), (((4, 2),), ((6, 3),))
    data = coded_deltas.encode(torch.randn(4, 6).to(dtype), wide, below, 8)
    found = coded_deltas.decode(data, wide, below, 8, dtype)
    assert (found.dtype, found.shape) == (dtype, (24 - 6,))


# ---------------------------------------------------------------- networks


def check(net, build, path, levels):
    """Every level is the cut of the network that the whole file holds, bit by bit."""
    with serving(path.read_bytes()) as web, Progressive.open(web.url) as file:
        assert web.sent <= 2048 + file.levels[0].bytes
        loaded = [file.load(build, level=number) for number in range(len(levels))]
        assert web.sent <= max(path.stat().st_size, 2048)  # nothing twice
    full = build().eval()
    full.load_state_dict(loaded[-1].state_dict())
    whole = ww.Elastic(full, *net.engine.example())
    for widths, module in zip(levels, loaded, strict=True):
        assert identical(module, prepare(whole, widths).module)
    return loaded


@pytest.mark.parametrize("count", [8, 4, 2])
def test_an_mlp(count, mlp, tmp_path):
    levels = levels_of(mlp)
    path = ww.save_progressive(mlp, tmp_path / "p", levels, bits=count)
    loaded = check(mlp, MLP, path, levels)
    first = mlp.cut(levels[0])
    quantization.quantize_(first, quantization.Uniform(count))
    assert identical(loaded[0], first)
    plain = save(mlp, tmp_path / "plain").stat().st_size
    # A code for each weight; for eight levels 9 bytes at most for each row and level, and biases.
    rows = sum(p.shape[0] for p in mlp.parameters() if p.dim() > 1)
    assert path.stat().st_size <= plain * count / 32 + 8 * 9 * rows + 4_000


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", ["lstm_2", "mha", "tied_autoencoder", "densenet"])
def test_other_networks(name, tmp_path):
    described, net, _, _ = made(name)
    levels = levels_of(net)
    path = ww.save_progressive(net, tmp_path / "p", levels, bits=8)
    plain = ww.save_progressive(net, tmp_path / "plain", levels)
    assert path.stat().st_size < plain.stat().st_size
    check(net, described.build, path, levels)


def test_each_rung_has_its_bits(mlp, tmp_path):
    levels = levels_of(mlp, 4)
    path = ww.save_progressive(mlp, tmp_path / "p", levels, bits=[8, None, 4, 2])
    loaded = check(mlp, MLP, path, levels)
    with Progressive.open(path) as file:
        assert [level.bits for level in file.levels] == [8, None, 4, 2]
    weights = [net.state_dict()["fc2.weight"] for net in loaded]
    was = mlp.model.fc2.weight.detach()
    errors = []
    for k, weight in enumerate(weights):
        new = torch.ones_like(weight, dtype=torch.bool)
        if k:
            new[: len(weights[k - 1]), : weights[k - 1].shape[1]] = False
        errors.append(float((weight - was[: len(weight), : weight.shape[1]])[new].abs().mean()))
    assert errors[1] == 0 < errors[0] < errors[2] < errors[3]


def test_what_differs_between_rungs_and_vectors_stay_as_they_are(cnn, tmp_path):
    levels = levels_of(cnn, 4)
    batches = [(torch.randn(8, 3, 8, 8), None) for _ in range(3)]
    modules = [ww.recalibrate_(cnn.cut(w), batches) for w in levels]
    path = ww.save_progressive(cnn, tmp_path / "p", levels, modules=modules, bits=8)
    with Progressive.open(path) as file:
        for number, module in enumerate(modules):
            found, want = file.load(CNN, level=number).state_dict(), module.state_dict()
            for name in ("norm.running_mean", "norm2.running_var", "norm.weight", "head.bias"):
                assert torch.equal(found[name], want[name])
            assert not torch.equal(found["conv.weight"], want["conv.weight"])
    for module in modules:
        with torch.no_grad():
            for p in module.parameters():
                p.add_(torch.randn_like(p))  # as reconstruction does: nothing lies inside the next
    with pytest.raises(QuantizationError, match="leave bits= out"):
        ww.save_progressive(cnn, tmp_path / "q", levels, modules=modules, bits=8)
    assert not (tmp_path / "q").exists()


# ---------------------------------------------------------------- the format


def tiny(path):
    """A file of known weights, which 8 and 2 bits hold exactly."""
    net = ww.Elastic(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)), torch.randn(2, 2))
    values = ([[0, 255], [1, 3], [-2, 1]], [10, 11, 12], [[-255, 3, 2]], [30])
    with torch.no_grad():
        for value, p in zip(values, net.parameters(), strict=True):
            p.copy_(torch.tensor(value))
    return ww.save_progressive(net, path, [{"0": 1}, {"0": 3}], bits=[8, 2])


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """(bytes, a place to write) of a tiny file."""
    folder = tmp_path_factory.mktemp("tiny")
    return tiny(folder / "whole").read_bytes(), folder / "changed"


def test_golden_bytes(small):
    data, _ = small
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    size = header["widthwise"]["shape"][0]
    stream = data[8 + length : 8 + length + size]
    manifest = json.loads(zlib.decompressobj(-15).decompress(stream))
    shell = data[8 + length + size :]
    one = np.float32(1).tobytes()
    first = (
        np.float32(10).tobytes()  # 0.bias
        + bytes([0, 255]) + one + bytes([0])  # 0.weight: codes, scale, zero point
        + np.float32(30).tobytes()  # 2.bias
        + bytes([1]) + one + bytes([255])  # 2.weight: -255 is one above zero's code, modulo 256
    )  # fmt: skip
    second = (
        np.array([11, 12], "<f4").tobytes()
        + bytes([0b01_11_10_01]) + one + one + bytes([0b00_10_0000])  # 1 3, -2 1; zero is 0 and 2
        + bytes([0b11_10_0000]) + one + bytes([0])  # 3 2 in the row that is there
    )  # fmt: skip
    assert shell == first + second
    digests = [hashlib.sha256(each).hexdigest() for each in (first, second)]
    assert (manifest["bits"], manifest["coded"]) == ([8, 2], ["0.weight", "2.weight"])
    assert (manifest["tensors"], manifest["sha256"]) == (TENSORS, digests)
    assert json.loads(header["__metadata__"]["widthwise"])[0] == 5
    assert header["shell.0"]["dtype"] == "U8"
    assert ww.load(again(small), build_tiny)[2].weight.tolist() == [[-255, 3, 2]]
    documented = re.search(r"the bytes are\s`([0-9a-f ]+)` and\s`([0-9a-f ]+)`", FORMAT.read_text())
    assert [bytes.fromhex(text) for text in documented.groups()] == [first, second]


@pytest.mark.parametrize(
    "change",
    [
        {"bits": [8]}, {"bits": [8, 9]}, {"bits": [8, 1]}, {"bits": [8, True]}, {"bits": 8},
        {"bits": [None, None]}, {"bits": [2, 8]}, {"bits": [8, None]}, {"bits": "82"},
        {"coded": []}, {"coded": ["0.weight"]}, {"coded": ["0.weight", "2.weight", "0.weight"]},
        {"coded": ["0.weight", "2.bias"]}, {"coded": ["0.weight", "none"]}, {"coded": [1]},
        {"coded": "0.weight"}, {"coded": {"0.weight": 1, "2.weight": 1}},
        {"tensors": TENSORS | {"0.weight": ["I32", -1, 2]}},
    ],
)  # fmt: skip
def test_a_manifest_that_does_not_fit_is_refused(change, small):
    refuses(again(small, lambda body: body | change))


def test_versions_are_what_they_say(small):
    for left in ("bits", "coded"):
        refuses(again(small, lambda body, left=left: {k: v for k, v in body.items() if k != left}))
    refuses(again(small, notes='[4,"2.11.0","0.1.0"]'))
    assert "newer" in refuses(again(small, notes='[6,"2.11.0","0.1.0"]'))
    ww.load(again(small, notes='[5,"2.11.0","0.1.0"]'), build_tiny)


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), 0.0, -1.0])
def test_scales_that_are_none_are_refused(scale, small):
    data, path = small
    length = int.from_bytes(data[:8], "little")
    begin = 8 + length + json.loads(data[8 : 8 + length])["widthwise"]["shape"][0]
    shell = bytearray(data[begin : begin + 21])
    shell[6:10] = np.float32(scale).tobytes()
    path.write_bytes(data[:begin] + shell + data[begin + 21 :])
    digest = hashlib.sha256(shell).hexdigest()
    whole = path.read_bytes()
    refuses(again((whole, path), lambda body: body | {"sha256": [digest, body["sha256"][1]]}))


@settings(RELAXED, max_examples=120)
@given(name=st.sampled_from(["bits", "coded"]), value=JSON)
def test_any_bits_give_the_network_or_a_file_error(small, name, value):
    path = again(small, lambda body: body | {name: value})
    try:
        module = ww.load(path, build_tiny)
    except FileError:
        return
    assert module[0].weight.shape == (3, 2)


# ---------------------------------------------------------------- what is refused


def test_bits_that_are_none(mlp, tmp_path):
    levels = levels_of(mlp, 3)
    for wrong in (1, 9, 4.0, [8, 8, 1], [8, 8, "8"]):
        with pytest.raises(ValueError, match="give 2 to 8"):
            ww.save_progressive(mlp, tmp_path / "p", levels, bits=wrong)
    with pytest.raises(WidthError, match="3 levels and 2 bits"):
        ww.save_progressive(mlp, tmp_path / "p", levels, bits=[8, 8])
    assert list(tmp_path.iterdir()) == []
    plain = ww.save_progressive(mlp, tmp_path / "p", levels).read_bytes()
    none = ww.save_progressive(mlp, tmp_path / "q", levels, bits=[None] * 3).read_bytes()
    assert plain == none


def test_weights_that_are_not_finite_are_named(tmp_path):
    net = elastic(MLP, torch.randn(2, 784))
    with torch.no_grad():
        net.model.fc2.weight[200, 3] = torch.nan
    with pytest.raises(QuantizationError, match=r"'fc2\.weight' cannot be quantized"):
        ww.save_progressive(net, tmp_path / "p", levels_of(net, 3), bits=8)
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- from a run


def test_a_run_becomes_one_file_of_few_bits(tmp_path):
    folder = tmp_path / "run"
    works("train", "digits", "--out", folder, "--epochs", 2)
    works("sweep", folder, "--num-widths", 5, "--no-latency", "--no-reconstruct")
    words = ("export", folder, "--format", "progressive", "--levels", 3)
    works(*words, "--out", tmp_path / "plain")
    works(*words, "--out", tmp_path / "two", "--bits", 2)
    assert (tmp_path / "two").stat().st_size < 0.25 * (tmp_path / "plain").stat().st_size
    with Progressive.open(tmp_path / "plain") as plain, Progressive.open(tmp_path / "two") as two:
        assert [r.widths for r in two.levels] == [r.widths for r in plain.levels]
        # What is noted is what the quantized networks do, which is worse.
        assert two.levels[-1].metric.value != plain.levels[-1].metric.value
    split = unsealed((folder / "frontier.json").read_bytes())["split"]
    assert two.levels[0].metric.split == split
    said = fails("export", folder, "--out", tmp_path / "x", "--bits", 8)
    assert "--format progressive" in said
    assert not (tmp_path / "x").exists()
