"""Quantized tensors in files: the same bits come back, in as few bytes as their codes need."""

import hashlib
import json
import math
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import widthwise as ww
from widthwise import quantization
from widthwise.errors import FileError
from widthwise.store import tensorfile
from widthwise.store.file import load, prepare, read, read_manifest, save
from widthwise.store.manifest import Manifest
from widthwise.store.packed import container
from widthwise.store.packed.coded import code_tensors, decode_tensors
from widthwise.store.packed.coding import Coded, _bits_of, _bitwise, decode, encode
from widthwise.store.packed.forms import FORMS

SHAPES = st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple)
UNIFORM = st.builds(
    quantization.Uniform,
    bits=st.integers(2, 8),
    symmetric=st.booleans(),
    per=st.sampled_from(["tensor", "channel", "group"]),
    group=st.integers(1, 12),
)
QUANTIZERS = st.one_of(UNIFORM, st.builds(quantization.Codebook, values=st.integers(2, 256)))


def drawn(shape, seed, zeros):
    generator = torch.Generator().manual_seed(seed)
    tensor = torch.randn(shape, generator=generator)
    tensor[torch.rand(shape, generator=generator) < zeros] = 0
    return tensor


def one(tensor, form):
    make = quantization.uniform if isinstance(form, quantization.Uniform) else quantization.shared
    return make(tensor, form)


def same_bits(a, b):
    flat = [t.contiguous().reshape(-1).view(torch.uint8) for t in (a, b)]
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(*flat)


def size(parts):
    return sum(part.nbytes for part in parts.values())


# ---------------------------------------------------------------- round trip


@settings(deadline=None, max_examples=300)
@given(
    shape=SHAPES,
    form=QUANTIZERS,
    seed=st.integers(0, 10**6),
    zeros=st.sampled_from([0, 0.5, 0.9, 1]),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16]),
)
def test_every_quantized_tensor_comes_back(shape, form, seed, zeros, dtype):
    found = one(drawn(shape, seed, zeros).to(dtype), form)
    coded, parts = encode(found)
    again = decode(coded, parts)
    assert all(part.dim() == 1 for part in parts.values())
    assert coded.stored == {name: (part.dtype, len(part)) for name, part in parts.items()}
    assert same_bits(again.dense(), found.dense())
    assert torch.equal(again.codes, found.codes)


@settings(deadline=None, max_examples=200)
@given(
    width=st.integers(1, 8),
    count=st.integers(0, 100),
    seed=st.integers(0, 10**6),
    more=st.booleans(),
)
def test_codes_take_exactly_their_bits(width, count, seed, more):
    values = np.random.default_rng(seed).integers(0, 2**width, count, dtype=np.uint8)
    stream = _bitwise(values, width)
    assert len(stream) == math.ceil(count * width / 8)
    assert (_bits_of(stream, width, count) == values).all()
    text = "".join(f"{value:0{width}b}" for value in values.tolist())
    assert "".join(f"{byte:08b}" for byte in stream.tolist()).startswith(text)
    with pytest.raises(ValueError, match="more or fewer bits"):
        _bits_of(np.append(stream, np.uint8(0)) if more or not count else stream[1:], width, count)


def test_codes_of_more_than_a_chunk():
    for width in (3, 4):
        count = 2**20 + 11
        values = np.random.default_rng(0).integers(0, 2**width, count, dtype=np.uint8)
        assert (_bits_of(_bitwise(values, width), width, count) == values).all()


# ---------------------------------------------------------------- bytes


@pytest.mark.parametrize("width", [2, 3, 4, 8])
def test_codes_that_are_all_as_likely_take_their_bits(width):
    codes = torch.randint(0, 2**width, (100, 90), generator=torch.Generator().manual_seed(0))
    form = quantization.Uniform(width, per="tensor")
    point = torch.tensor([[2 ** (width - 1)]], dtype=torch.uint8)
    found = quantization.Rounded(
        form, codes.to(torch.uint8), torch.ones(1, 1), point, torch.float32
    )
    coded, parts = encode(found)
    assert coded.form == "dense"
    assert coded.huffman == 0
    assert parts["codes"].nbytes == 100 * 90 * width // 8
    assert size(parts) == 100 * 90 * width // 8 + 4 + 1


@pytest.mark.parametrize(
    "form", [quantization.Uniform(4), quantization.Codebook(16), quantization.Codebook(4)]
)
def test_likely_codes_take_fewer_bytes(form):
    """Near the entropy of the codes, which no code of single codes gets below."""
    found = one(drawn((300, 400), 0, 0), form)
    coded, parts = encode(found)
    steps = (found.codes.int() - found.zero).flatten()
    share = steps.unique(return_counts=True)[1].double() / steps.numel()
    entropy = float(-(share * share.log2()).sum()) * steps.numel() / 8
    assert coded.huffman > 1
    assert entropy < parts["codes"].nbytes < 1.03 * entropy
    assert parts["codes"].nbytes < 0.97 * steps.numel() * coded.bits / 8


@pytest.mark.parametrize("zeros", [0.5, 0.8, 0.9, 0.95, 0.99])
@pytest.mark.parametrize(
    "form", [quantization.Uniform(8), quantization.Uniform(4), quantization.Codebook(8)]
)
def test_zeros_are_left_out_where_that_is_smaller(form, zeros):
    tensor = drawn((200, 300), 0, zeros)
    found = one(tensor, form)
    coded, parts = encode(found)
    count = int((found.dense() != 0).sum())
    positions = (found.dense() != 0).flatten().nonzero()[:, 0]
    gaps = torch.diff(positions, prepend=torch.tensor([-1])) - 1
    index = min(tensor.numel() / 8, (count + int((gaps // 15).sum())) / 2)
    assert size(parts) <= 1.02 * (index + count * coded.bits / 8) + size(found.parts) + 8
    dense = size(encode(one(drawn((200, 300), 0, 0), form))[1])
    assert size(parts) < (1.3 - zeros) * dense
    assert (coded.form != "dense") == (coded.count < tensor.numel())


class MLP(nn.Module):
    """784-256-256-10, as in the benchmarks."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(784, 256), nn.Linear(256, 256)
        self.fc3 = nn.Linear(256, 10)

    def forward(self, x):
        return self.fc3(torch.relu(self.fc2(torch.relu(self.fc1(x)))))


def mlp():
    torch.manual_seed(0)
    module = MLP().eval()
    for p in module.parameters():
        nn.init.normal_(p, std=0.05)
    return module


@pytest.mark.parametrize(
    ("form", "most"),
    [
        (quantization.Uniform(8, symmetric=True), 272_976),
        (quantization.Uniform(4), 140_664),
        (quantization.Uniform(3), 107_064),
        (quantization.Uniform(2), 73_464),
        (quantization.Codebook(16), 136_680),
        (quantization.Codebook(8), 102_984),
        (quantization.Codebook(4), 69_336),
    ],
)
def test_a_file_is_hardly_more_than_its_tensors(form, most, tmp_path):
    """most: codes of whole bits, biases, and scales and zero points of 4 bytes each."""
    module = mlp()
    found = quantization.quantize_(module, form)
    path = save(module, tmp_path / "a", bits=found)
    stored = prepare(module, bits=found)
    assert stored.bytes == path.stat().st_size
    assert stored.data_bytes < most
    assert path.stat().st_size - stored.data_bytes < 570


# ---------------------------------------------------------------- files


FORMATS = [
    *(
        quantization.Uniform(width, symmetric=symmetric, per=per, group=16)
        for width in (8, 4, 3, 2)
        for symmetric in (False, True)
        for per in ("tensor", "channel", "group")
    ),
    quantization.Codebook(16),
    quantization.Codebook(5),
]


def small():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 20)
    ).eval()


NET = ww.Elastic(small(), (torch.randn(2, 3, 6, 6),))


@pytest.mark.sample(15)
@pytest.mark.parametrize("form", FORMATS, ids=repr)
@pytest.mark.parametrize("share", [1.0, 0.5])
@pytest.mark.parametrize("zeros", [0, 0.8])
def test_widths_zeros_and_bits_together(form, share, zeros, tmp_path):
    widths = NET.widths(share)
    module = NET.cut(widths)
    for name in quantization.quantizable(module):
        p = module.get_parameter(name).data
        p[torch.rand_like(p) < zeros] = 0
    zero = {name: module.get_parameter(name) == 0 for name in quantization.quantizable(module)}
    found = quantization.quantize_(module, form)
    path = save(NET, tmp_path / "a", widths=widths, module=module, bits=found, pack="zeros")
    loaded = load(path, small)
    assert dict(read_manifest(path).widths) == dict(widths)
    for name, tensor in module.state_dict().items():
        assert same_bits(loaded.state_dict()[name], tensor)
    for name, there in zero.items():
        assert not loaded.get_parameter(name)[there].any()
    x = torch.randn(4, 3, 6, 6)
    assert torch.equal(loaded(x), module(x))
    assert prepare(NET, widths, module, "zeros", found).bytes == path.stat().st_size


@pytest.mark.parametrize("pack", ["none", "zeros", "zstd"])
def test_other_tensors_are_packed_as_asked(pack, tmp_path):
    module = mlp()
    with torch.no_grad():
        module.fc2.weight.view(-1)[torch.rand(256 * 256) < 0.9] = 0
    found = quantization.quantize_(module, quantization.Uniform(4), tensors=["fc1.weight"])
    path = save(module, tmp_path / "a", bits=found, pack=pack)
    manifest = read_manifest(path)
    assert manifest.coded.keys() == {"fc1.weight"}
    assert (manifest.packed["fc2.weight"].form == "dense") == (pack == "none")
    loaded = load(path, MLP)
    for name, tensor in module.state_dict().items():
        assert same_bits(loaded.state_dict()[name], tensor)
    loaded(torch.randn(2, 784)).sum().backward()


def test_an_elastic_network_quantized_at_full_width(tmp_path):
    net = ww.Elastic(small(), (torch.randn(2, 3, 6, 6),))
    found = quantization.quantize_(net, quantization.Uniform(4))
    loaded = load(save(net, tmp_path / "a", bits=found), small)
    assert same_bits(loaded[0].weight.detach(), net.model[0].weight.detach())
    with pytest.raises(FileError, match="cut or trained since"):
        save(net, tmp_path / "b", widths=net.widths(0.5), bits=found)


def test_tied_tensors_are_stored_once(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(50, 40)
            self.head = nn.Linear(40, 50, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, x):
            return self.head(torch.relu(self.embed(x)))

    module = Tied()
    found = quantization.quantize_(module, quantization.Codebook(8))
    loaded = load(save(module, tmp_path / "a", bits=found), Tied)
    assert loaded.head.weight is loaded.embed.weight
    assert same_bits(loaded.head.weight.detach(), module.embed.weight.detach())


def test_files_without_quantized_tensors_are_what_they_were(tmp_path):
    module = mlp()
    plain, coded = (save(module, tmp_path / str(n), bits=b) for n, b in enumerate((None, {})))
    assert plain.read_bytes() == coded.read_bytes()
    assert json.loads(tensorfile.read(plain)[1])["version"] == 1
    found = quantization.quantize_(module, quantization.Uniform(4))
    assert json.loads(tensorfile.read(save(module, tmp_path / "b", bits=found))[1])[0] == 3


def test_records_of_other_weights_are_refused(tmp_path):
    module = mlp()
    found = quantization.quantize_(module, quantization.Uniform(4))
    with torch.no_grad():
        module.fc1.weight[0, 0] += 1e-3
    with pytest.raises(FileError, match=r"fc1\.weight is not what the record says"):
        save(module, tmp_path / "a", bits=found)
    with pytest.raises(FileError, match=r"fc9\.weight, which is not stored"):
        save(module, tmp_path / "a", bits={"fc9.weight": found["fc1.weight"]})
    assert not (tmp_path / "a").exists()


def golden():
    weight = torch.zeros(8, 24)
    weight[::2, ::3] = torch.arange(32.0).reshape(4, 8) - 11
    forms = {
        "a": quantization.Uniform(3),
        "b": quantization.Uniform(4, symmetric=True, per="group", group=10),
    }
    return {
        name: one(weight, form) for name, form in (forms | {"c": quantization.Codebook(6)}).items()
    }


def test_golden_bytes(tmp_path):
    """The parts on disk: a change here makes files that others cannot read."""
    dense = {name: found.dense() for name, found in golden().items()}
    found = code_tensors(dense, golden())
    coded = {name: how for name, (how, _) in found.items()}
    manifest = Manifest("class", "Model", torch="2", widthwise="0", coded=coded)
    path = container.write(tmp_path / "g", manifest, {n: parts for n, (_, parts) in found.items()})
    tensors, again = read(path)
    assert again == manifest
    assert all(same_bits(tensors[name], tensor) for name, tensor in dense.items())
    # Huffman codes may differ between versions of zlib, and would still be read.
    assert {c.huffman for c in coded.values()} == {0}
    entry = tensorfile.read(path)[0]["widthwise"].numpy().tobytes()
    parts = entry[4 + int.from_bytes(entry[:4], "little") :]
    assert len(parts) == sum(size(some) for _, some in found.values())
    digest = "4ccf9f75309fe804c1b6e85cc236763f0e4e33183f59e9c2"
    assert hashlib.sha256(parts).hexdigest()[:48] == digest


def test_huffman_codes_of_long_ago_are_read():
    """Bytes that zlib 1.3 made; later ones may compress differently."""
    codes = torch.tensor([0, 0, 0, 1, 0, 0, 2, 0] * 12, dtype=torch.uint8)
    data = bytes.fromhex("05c101010000008220ecffe8003188410c62108318c420063188410c620e")
    values = torch.tensor([0.0, 1.5, -2.0, 3.0])
    coded = Coded(quantization.Codebook(4), "dense", (8, 12), torch.float32, 96, 0, 1, len(data))
    part = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    found = decode(coded, {"codes": part, "values": values})
    assert torch.equal(found.dense(), values[codes.long()].view(8, 12))


# ---------------------------------------------------------------- what is refused


def u8(*values):
    return torch.tensor(values, dtype=torch.uint8)


def deflated(*values):
    maker = zlib.compressobj(9, zlib.DEFLATED, -15)
    return u8(*(maker.compress(bytes(values)) + maker.flush()))


F32 = torch.float32
PLAIN = {"codes": u8(0x12, 0x34), "scales": torch.ones(1), "zero_points": u8(0x80)}
FOUR = quantization.Uniform(4, per="tensor")
RIGHT = Coded(FOUR, "dense", (2, 2), F32, 4)
PAIRS = Coded(FOUR, "dense", (2, 2), F32, 4, 0, 2, 4)
THREE = Coded(quantization.Codebook(3), "dense", (4,), F32, 4)
SPARSE = Coded(FOUR, "bitmask", (2, 2), F32, 1)
HUGE = Coded(FOUR, "bitmask", (10**9,), F32, 1)
BROKEN = {
    "too many codes": (RIGHT, PLAIN | {"codes": u8(1, 2, 3)}),
    "too few codes": (RIGHT, PLAIN | {"codes": u8(1)}),
    "codes of another type": (RIGHT, PLAIN | {"codes": torch.ones(2)}),
    "codes of two dims": (RIGHT, PLAIN | {"codes": u8(1, 2).view(1, 2)}),
    "no codes": (RIGHT, {name: p for name, p in PLAIN.items() if name != "codes"}),
    "too many scales": (RIGHT, PLAIN | {"scales": torch.ones(2)}),
    "scales of another type": (RIGHT, PLAIN | {"scales": torch.ones(1).double()}),
    "scales of nan": (RIGHT, PLAIN | {"scales": torch.tensor([math.nan])}),
    "scales of infinity": (RIGHT, PLAIN | {"scales": torch.tensor([math.inf])}),
    "a scale below zero": (RIGHT, PLAIN | {"scales": torch.tensor([-1.0])}),
    "too many zero points": (RIGHT, PLAIN | {"zero_points": u8(1, 2)}),
    "zero points of another type": (RIGHT, PLAIN | {"zero_points": torch.ones(1)}),
    "a code that there is not": (THREE, {"codes": u8(0b00011100), "values": torch.ones(3)}),
    "too few values": (THREE, {"codes": u8(0), "values": torch.ones(2)}),
    "values of nan": (THREE, {"codes": u8(0), "values": torch.tensor([0, 1, math.nan])}),
    "a mask of more": (SPARSE, PLAIN | {"codes": u8(0x10), "mask": u8(0xC0)}),
    "a mask of another type": (SPARSE, PLAIN | {"codes": u8(0x10), "mask": torch.ones(1)}),
    "a huge shape": (HUGE, PLAIN | {"codes": u8(0x10), "mask": u8(0x80)}),
    "bytes that are not compressed": (PAIRS, PLAIN | {"codes": u8(255, 255, 255)}),
    "too few symbols": (PAIRS, PLAIN | {"codes": deflated(1)}),
    "too many symbols": (PAIRS, PLAIN | {"codes": deflated(*[1] * 9999)}),
    "symbols and more": (PAIRS, PLAIN | {"codes": torch.cat([deflated(1, 2), u8(0)])}),
    "half a stream": (PAIRS, PLAIN | {"codes": deflated(1, 2)[:-1]}),
}


def test_the_parts_that_are_broken_here_are_right_before():
    for coded, parts in [
        (RIGHT, PLAIN),
        (PAIRS, PLAIN | {"codes": deflated(0x21, 0x43)}),
        (THREE, {"codes": u8(0b00011000), "values": torch.ones(3)}),
        (SPARSE, PLAIN | {"codes": u8(0x10), "mask": u8(0x80)}),
    ]:
        found = decode_tensors({"w": coded}, {"w": parts}, "it")
        assert found.keys() == {"w"}
        assert found["w"].shape == coded.shape
    dense = decode(RIGHT, PLAIN).dense()
    assert dense.tolist() == decode(PAIRS, PLAIN | {"codes": deflated(0x21, 0x43)}).dense().tolist()
    assert dense.tolist() == [[1.0, 2.0], [3.0, 4.0]]


@pytest.mark.parametrize("name", BROKEN)
def test_parts_that_do_not_belong_together_are_refused(name):
    coded, parts = BROKEN[name]
    with pytest.raises(FileError) as raised:
        decode_tensors({"w": coded}, {"w": parts}, "it")
    assert str(raised.value).endswith("save it again.")
    assert "\n" not in str(raised.value)


@settings(deadline=None, max_examples=300)
@given(
    form=st.sampled_from(FORMS),
    quantizer=QUANTIZERS,
    shape=SHAPES,
    streams=st.lists(st.binary(max_size=12), min_size=4, max_size=4),
    count=st.integers(0, 12),
    symbol=st.sampled_from([0, 1]),
)
def test_any_parts_give_a_tensor_or_a_file_error(form, quantizer, shape, streams, count, symbol):
    gaps = len(streams[0]) if form == "relative" else 0
    try:
        coded = Coded(quantizer, form, shape, F32, count, gaps, symbol, symbol * len(streams[2]))
    except ValueError:
        return
    whole = [torch.tensor([*b], dtype=torch.uint8) for b in streams]
    parts = {"mask": whole[0], "gaps": whole[0], "codes": whole[2], "zero_points": whole[3]}
    parts |= {"rows": whole[0].int(), "columns": whole[1].int()}
    floats = math.prod(shape) if isinstance(quantizer, quantization.Uniform) else quantizer.values
    parts |= {"scales": torch.ones(floats), "values": torch.ones(floats)}
    try:
        made = decode_tensors({"w": coded}, {"w": {n: parts[n] for n in coded.stored}}, "x")["w"]
    except FileError:
        return
    assert made.shape == shape
    assert made.isfinite().all()


# ---------------------------------------------------------------- a real network


DATA = Path(os.environ.get("WIDTHWISE_DATA", "nowhere")) / "mnist"


@pytest.mark.skipif(not DATA.is_dir(), reason="needs MNIST in the folder that WIDTHWISE_DATA names")
def test_mnist_loses_nothing_at_four_bits(tmp_path):
    """One-shot: 8 and 4 bits are free, 2 bits are not."""
    from torch.nn import functional as F

    from widthwise.app.runs.measuring import evaluation
    from widthwise.app.tasks import BUILT_IN

    task = BUILT_IN["mnist"]()
    data = task.splits()
    torch.manual_seed(0)
    module = task.model()
    ww.fit(
        module,
        data.train,
        F.cross_entropy,
        recipe=ww.Recipe(epochs=1),
        run=ww.RunConfig(progress=False),
    )
    score = evaluation(task, data, "test")
    full, state = score(module), {n: t.clone() for n, t in module.state_dict().items()}

    def stored(form):
        module.load_state_dict(state)
        path = save(module, tmp_path / "a", bits=quantization.quantize_(module, form))
        return score(load(path, task.model)), path.stat().st_size

    eight, four = stored(quantization.Uniform(8, symmetric=True)), stored(quantization.Uniform(4))
    assert eight[0] > full - 0.001
    assert eight[1] < 276_000
    assert four[0] > full - 0.004
    assert four[1] < 143_000
    assert stored(quantization.Codebook(2))[0] < full - 0.01
