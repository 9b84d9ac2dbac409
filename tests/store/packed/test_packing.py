"""Packed tensors: the same bits come back, in few bytes, and what does not fit is refused."""

import builtins
import json
import math
import zlib
from itertools import pairwise

import numpy as np
import pytest
import safetensors
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import widthwise as ww
from widthwise.errors import FileError
from widthwise.store import tensorfile
from widthwise.store.file import load, prepare, read, read_manifest, save
from widthwise.store.manifest import Manifest
from widthwise.store.packed import container
from widthwise.store.packed.forms import (
    FORMS,
    MOST_TIMES,
    PARTS,
    Packed,
    pack,
    published_accounting,
    unpack,
)
from widthwise.store.packed.tensors import as_they_are, pack_tensors, unpack_tensors
from widthwise.store.tensorfile import DTYPES

SHAPES = st.lists(st.integers(1, 9), max_size=4).map(tuple)


def same_bits(a, b):
    flat = [t.contiguous().reshape(-1).view(torch.uint8) for t in (a, b)]
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(*flat)


def drawn(shape, dtype, share, seed):
    """Random bits, of which this share of the items are not zero: NaN and -0.0 among them."""
    rng = np.random.default_rng(seed)
    count = math.prod(shape)
    data = rng.integers(0, 256, (count, dtype.itemsize), dtype=np.uint8)
    if dtype == torch.bool:
        data %= 2
    data[rng.random(count) >= share] = 0
    return torch.from_numpy(data.reshape(-1)).view(dtype).reshape(shape)


def unpacked(found):
    """The tensors of what `pack_tensors` gave."""
    forms = {name: form for name, (form, _) in found.items()}
    return unpack_tensors(forms, {name: parts for name, (_, parts) in found.items()}, "x")


# ---------------------------------------------------------------- round trip


@settings(deadline=None, max_examples=300)
@given(
    shape=SHAPES,
    dtype=st.sampled_from(list(DTYPES)),
    share=st.sampled_from([0, 0.01, 0.1, 0.5, 1]),
    form=st.sampled_from([None, *FORMS]),
    seed=st.integers(0, 10**6),
)
def test_every_form_gives_back_the_same_bits(shape, dtype, share, form, seed):
    tensor = drawn(shape, dtype, share, seed)
    packed, parts = pack(tensor, form=form)
    assert form in (None, packed.form)
    assert all(part.dim() == 1 for part in parts.values())
    assert packed.stored == {name: (part.dtype, len(part)) for name, part in parts.items()}
    assert same_bits(unpack(packed, parts), tensor)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("gap", [0, 1, 13, 14, 15, 16, 29, 30, 31, 1000])
def test_gaps_of_every_length(form, gap):
    tensor = torch.zeros(2, gap + 2)
    tensor[0, gap] = 1.0
    tensor[1, -1] = -2.0
    packed, parts = pack(tensor, form=form)
    assert same_bits(unpack(packed, parts), tensor)


@pytest.mark.parametrize("form", FORMS)
def test_minus_zero_and_nan_are_no_zeros(form):
    nan = torch.tensor([0x7FC00001, -0x80000000, 0, 0x7F800001], dtype=torch.int32)
    tensor = nan.view(torch.float32)
    packed, parts = pack(tensor, form=form)
    assert same_bits(unpack(packed, parts), tensor)
    assert len(parts["values"]) == (4 if form == "dense" else 3)


@pytest.mark.parametrize("shape", [(0,), (0, 4), (3, 0, 2), ()])
@pytest.mark.parametrize("how", ["zeros", "zstd"])
def test_empty_tensors_and_scalars_stay_as_they_are(shape, how):
    tensors = {"a": torch.zeros(shape), "b": torch.zeros(300, 300)}
    assert pack_tensors(tensors, how).keys() == {"b"}
    found = {**pack_tensors(tensors, how), **as_they_are({"a": tensors["a"]})}
    again = unpacked(found)
    assert found["a"][0].form == "dense"
    assert all(same_bits(again[name], tensor) for name, tensor in tensors.items())


def test_strided_tensors_and_parameters():
    tensor = nn.Parameter(torch.eye(40).t()[:, ::2])
    packed, parts = pack(tensor)
    assert packed.form != "dense"
    assert same_bits(unpack(packed, parts), tensor.detach())


def test_the_parts_are_what_is_documented():
    tensor = torch.zeros(2, 20)
    tensor[0, 2], tensor[1, 0], tensor[1, 1] = 1.0, 2.0, 3.0  # gaps of 2, 17 and 0

    def parts(form):
        found = {n: p.tolist() for n, p in pack(tensor, form=form)[1].items()}
        assert found.pop("values") == [1.0, 2.0, 3.0]
        return found

    assert parts("bitmask") == {"mask": [0b00100000, 0, 0b00001100, 0, 0]}
    # 2, a filler and 2 more, 0, a filler for 15 of the 18 behind, one that fills up the byte.
    assert parts("relative") == {"gaps": [0xF2, 0x02, 0xFF]}
    assert parts("csr") == {"rows": [0, 1, 3], "columns": [2, 0, 1]}


# ---------------------------------------------------------------- bytes


@pytest.mark.parametrize(
    ("sparsity", "form"),
    [(0, "dense"), (0.5, "bitmask"), (0.9, "relative"), (0.998, "csr"), (1, "csr")],
)
def test_the_form_with_the_fewest_bytes_is_taken(sparsity, form):
    tensor = drawn((300, 400), torch.float32, 1 - sparsity, 0)
    sizes = {}
    for each in FORMS:
        sizes[each] = sum(p.nbytes for p in pack(tensor, form=each)[1].values())
    packed, parts = pack(tensor)
    assert packed.form == form
    assert sum(p.nbytes for p in parts.values()) == min(sizes.values())
    assert tensor.nbytes <= MOST_TIMES * sizes[form]


def test_what_saves_less_than_it_is_worth_stays_dense():
    tensor = drawn((64,), torch.float32, 0.5, 0)
    assert pack(tensor)[0].form != "dense"
    assert pack(tensor, worth=256)[0].form == "dense"


def test_accounting_is_that_of_the_paper():
    """MobileNet of width 1: 4.21 M weights; the totals that the paper prints, in MB."""
    total = 4_210_000
    for count, megabytes in [(2.13, 9.04), (1.09, 4.88), (0.46, 2.07), (0.25, 1.13)]:
        weights = torch.zeros(total, dtype=torch.float32)
        weights[: int(count * 1e6)] = 1.0
        assert published_accounting([weights]) / 1e6 == pytest.approx(megabytes, abs=0.011)
    assert published_accounting([torch.ones(460_000)]) == 1_840_000
    assert published_accounting([]) == 0


class Wide(nn.Module):
    """1.2 M parameters."""

    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(500, 2000)
        self.fc2 = nn.Linear(2000, 100)

    def forward(self, x):
        return self.fc2(torch.relu(self.fc1(x)))


def wide(sparsity):
    torch.manual_seed(0)
    module = Wide().eval()
    for layer in (module.fc1, module.fc2):
        weight = layer.weight.data
        weight[weight.abs() < weight.abs().flatten().quantile(sparsity)] = 0
    return module


def expected(module):
    """4 bytes a non-zero and the cheaper of a bit mask and 4-bit indices, counted one by one."""
    total = 0
    for weight in module.parameters():
        positions = [-1, *weight.detach().flatten().nonzero()[:, 0].tolist()]
        count = len(positions) - 1
        codes = sum(1 + (b - a - 1) // 15 for a, b in pairwise(positions))
        index = min(weight.numel() / 8, codes / 2)
        total += min(4 * weight.numel(), 4 * count + index)
    return total


@pytest.mark.parametrize("how", ["zeros", "zstd"])
@pytest.mark.parametrize("sparsity", [0.5, 0.9])
def test_a_sparse_file_is_hardly_more_than_its_non_zeros(sparsity, how, tmp_path):
    module = wide(sparsity)
    path = save(module, tmp_path / "a", pack=how)
    size = path.stat().st_size
    assert prepare(module, pack=how).bytes == size
    assert size <= 1.02 * expected(module)
    assert size <= 1.04 * published_accounting(module.parameters())
    dense = save(module, tmp_path / "b").stat().st_size
    assert size < (1.05 - sparsity + 0.05) * dense


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("how", ["zeros", "zstd"])
@pytest.mark.parametrize("sparsity", [0, 0.3, 0.9, 0.999])
def test_a_packed_network_comes_back_bit_for_bit(sparsity, how, tmp_path):
    module = wide(sparsity)
    with torch.no_grad():
        module.fc1.weight[0, :2] = torch.tensor([-0.0, float("nan")])
    path = save(module, tmp_path / "a", pack=how)
    again = load(path, Wide)
    for name, tensor in module.state_dict().items():
        assert same_bits(again.state_dict()[name], tensor)
    assert isinstance(again.fc1.weight, nn.Parameter)
    again(torch.randn(2, 500)).sum().backward()


def test_a_file_without_packed_tensors_is_what_it_was(tmp_path):
    module = wide(0)
    plain, packed = (save(module, tmp_path / how, pack=how) for how in ("none", "zeros"))
    assert plain.read_bytes() == packed.read_bytes()
    assert json.loads(tensorfile.read(plain)[1])["version"] == 1
    sparse = save(wide(0.9), tmp_path / "sparse", pack="zeros")
    assert json.loads(tensorfile.read(sparse)[1])[0] == 2
    assert read_manifest(sparse).packed["fc1.weight"].shape == (2000, 500)


def test_what_saves_less_than_its_entry_is_no_packed_file(tmp_path):
    module = nn.Linear(2, 1)
    module.weight.data[0, 0] = 0
    sizes = [save(module, tmp_path / how, pack=how).stat().st_size for how in ("none", "zeros")]
    assert sizes[0] == sizes[1]


@settings(deadline=None, max_examples=30)
@given(count=st.integers(1, 3000), share=st.floats(0, 1), how=st.sampled_from(["zeros", "zstd"]))
def test_packing_never_makes_a_file_larger(count, share, how):
    module = nn.ParameterDict({"some": nn.Parameter(drawn((count,), torch.float32, share, count))})
    assert prepare(module, pack=how).bytes <= prepare(module).bytes


def test_tied_tensors_and_cuts_are_packed_once(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(50, 40)
            self.head = nn.Linear(40, 50, bias=False)
            self.head.weight = self.embed.weight
            self.embed.weight.data[torch.rand(50, 40) < 0.9] = 0

        def forward(self, x):
            return self.head(torch.relu(self.embed(x)))

    net = ww.Elastic(Tied(), torch.zeros(2, 3, dtype=torch.long))
    widths = net.widths(0.5)
    path = save(net, tmp_path / "t", widths=widths, pack="zeros")
    loaded = load(path, Tied)
    assert loaded.head.weight is loaded.embed.weight
    assert same_bits(loaded.head.weight.detach(), net.cut(widths).head.weight.detach())
    assert read_manifest(path).packed.keys() == {"embed.weight"}


def golden():
    weight = torch.zeros(16, 24)
    weight[::3, ::7] = torch.arange(24.0).reshape(6, 4)
    return {"fc.weight": weight, "fc.bias": torch.ones(3)}


def test_golden_bytes(tmp_path):
    """The format on disk: a change here makes files that others cannot read."""
    found = pack_tensors(golden(), "zeros") | as_they_are({"fc.bias": golden()["fc.bias"]})
    assert {n: p.form for n, (p, _) in found.items()} == {
        "fc.weight": "relative",
        "fc.bias": "dense",
    }
    packed = {name: form for name, (form, _) in found.items()}
    manifest = Manifest("class", "Model", torch="2", widthwise="0", packed=packed)
    path = container.write(tmp_path / "g", manifest, {n: parts for n, (_, parts) in found.items()})
    notes, text, parts = pieces(path)
    assert notes == '[2,null,"2","0"]' + " " * (96 - 20)
    # Compressed bytes may differ between versions of zlib, and would still be read.
    assert text == (
        '{"kind":"class","class":"Model","full":null,"tree":{".fc":{".weight":{"t":["F32",16,24]},'
        '".bias":{"t":["F32",3]}}},"cut":[],"new":[],"forms":[{"form":"relative","numbers":2},'
        '{"form":"dense","numbers":0}],"parts":[0,23,7,1]}'
    )
    weight = golden()["fc.weight"]
    gaps, values = found["fc.weight"][1]["gaps"], weight[weight != 0]
    assert parts == b"".join(t.numpy().tobytes() for t in (torch.ones(3), gaps, values))
    tensors, again = read(path)
    assert again == manifest
    assert all(same_bits(tensors[name], tensor) for name, tensor in golden().items())


def pieces(path):
    """Notes, the manifest's text and the parts of a packed file, read as its description says."""
    with safetensors.safe_open(path, "pt") as file:
        assert list(file.keys()) == ["widthwise"]
        notes, entry = file.metadata()["widthwise"], file.get_tensor("widthwise").numpy().tobytes()
    length = int.from_bytes(entry[:4], "little")
    reader = zlib.decompressobj(-15)
    text = reader.decompress(entry[4 : 4 + length])
    assert reader.eof
    assert not reader.unused_data
    return notes, text.decode(), entry[4 + length :]


def test_a_compressed_part_of_long_ago_is_read():
    """Bytes that zstandard 0.25 made; later ones may compress differently."""
    data = bytes.fromhex("28b52ffd6000075d0000200000c03f0100f9ff3b22")
    packed = Packed("dense", (512,), torch.float32, 512, zstd={"values": len(data)})
    part = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    found = unpack_tensors({"w": packed}, {"w": {"values": part}}, "x")
    assert torch.equal(found["w"], torch.full((512,), 1.5))


def test_dense_tensors_are_compressed_where_that_is_smaller(tmp_path):
    module = nn.Linear(100, 100)
    module.weight.data.mul_(20).round_().add_(3)  # 1 to 5
    path = save(module, tmp_path / "a", pack="zstd")
    assert path.stat().st_size < 8_000
    assert read_manifest(path).packed["weight"].zstd["values"] < 8_000
    assert same_bits(load(path, lambda: nn.Linear(100, 100)).weight.data, module.weight.data)


def test_names_of_parts_are_names_like_others(tmp_path):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.ParameterDict({"gaps": torch.eye(60)})
            self.b = nn.ParameterDict({"gaps": torch.eye(50)})

    module = Odd()
    loaded = load(save(module, tmp_path / "a", pack="zeros"), Odd)
    assert same_bits(loaded.b["gaps"].data, torch.eye(50))
    assert same_bits(loaded.a["gaps"].data, torch.eye(60))


def test_what_cannot_be_packed_says_so(monkeypatch):
    with pytest.raises(FileError, match="no values"):
        prepare(nn.Linear(3, 3, device="meta"), pack="zeros")
    with pytest.raises(FileError, match="none, zeros, zstd"):
        prepare(nn.Linear(3, 3), pack=True)
    imported = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "zstandard":
            raise ModuleNotFoundError("No module named 'zstandard'", name=name)
        return imported(name, *args, **kwargs)

    found = pack_tensors({"w": torch.randint(1, 5, (9999,))}, "zstd")
    assert found["w"][0].zstd
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(FileError, match=r"pip install 'widthwise\[zstd\]'"):
        prepare(nn.Linear(3, 3), pack="zstd")
    with pytest.raises(FileError, match=r"pip install 'widthwise\[zstd\]'"):
        unpacked(found)
    with pytest.raises(FileError, match=r"b of type torch\.complex128 cannot be stored"):
        as_they_are({"b": torch.ones(2, dtype=torch.complex128)})


# ---------------------------------------------------------------- what is refused


def ints(*values):
    return torch.tensor(values, dtype=torch.int32)


def bytes_of(*values):
    return torch.tensor(values, dtype=torch.uint8)


V = torch.ones
F32 = torch.float32
BROKEN = {
    "too many values": ("dense", (3,), {"values": V(4)}),
    "values of another type": ("dense", (3,), {"values": V(3).double()}),
    "values of two dims": ("dense", (4,), {"values": V(2, 2)}),
    "a short mask": ("bitmask", (9,), {"mask": bytes_of(128), "values": V(1)}),
    "a long mask": ("bitmask", (8,), {"mask": bytes_of(128, 0), "values": V(1)}),
    "a mask of more": ("bitmask", (8,), {"mask": bytes_of(192), "values": V(1)}),
    "a mask behind the end": ("bitmask", (7,), {"mask": bytes_of(1), "values": V(1)}),
    "a mask of int32": ("bitmask", (8,), {"mask": ints(128), "values": V(1)}),
    "no mask": ("bitmask", (8,), {"values": V(1)}),
    "gaps beyond the end": ("relative", (9,), {"gaps": bytes_of(9), "values": V(2)}),
    "gaps of more": ("relative", (9,), {"gaps": bytes_of(0), "values": V(1)}),
    "too many gaps": ("relative", (2,), {"gaps": bytes_of(0, 0), "values": V(4)}),
    "columns beyond": (
        "csr",
        (2, 3),
        {"rows": ints(0, 1, 2), "columns": ints(0, 3), "values": V(2)},
    ),
    "columns before": (
        "csr",
        (2, 3),
        {"rows": ints(0, 1, 2), "columns": ints(-1, 2), "values": V(2)},
    ),
    "a column twice": (
        "csr",
        (2, 3),
        {"rows": ints(0, 2, 2), "columns": ints(1, 1), "values": V(2)},
    ),
    "rows that fall": (
        "csr",
        (2, 3),
        {"rows": ints(0, 3, 2), "columns": ints(0, 1), "values": V(2)},
    ),
    "rows that begin late": (
        "csr",
        (2, 3),
        {"rows": ints(1, 1, 2), "columns": ints(0, 1), "values": V(2)},
    ),
    "too few rows": (
        "csr",
        (2, 3),
        {"rows": ints(0, 2), "columns": ints(0, 1), "values": V(2)},
    ),
    "no rows": (
        "csr",
        (2, 3),
        {"rows": ints(), "columns": ints(0, 1), "values": V(2)},
    ),
    "rows beyond the columns": (
        "csr",
        (2, 3),
        {"rows": ints(0, 1, 2**31 - 1), "columns": ints(0, 1), "values": V(2)},
    ),
    "a huge shape": ("relative", (10**13,), {"gaps": bytes_of(0xF0), "values": V(1)}),
    "a huger shape": (
        "csr",
        (1, 10**30),
        {"rows": ints(0, 1), "columns": ints(0), "values": V(1)},
    ),
    "an empty shape": ("relative", (0, 10**30), {"gaps": ints(), "values": V(0)}),
}
COMPRESSED = {
    "bytes that are not compressed": (9, bytes_of(*range(9))),
    "a part of another type": (99, V(99)),
    "a huge part": (10**12, bytes_of(*range(9))),
}


@pytest.mark.parametrize("name", BROKEN)
def test_parts_that_do_not_belong_together_are_refused(name):
    form, shape, parts = BROKEN[name]
    gaps = len(parts["gaps"]) if "gaps" in parts else 0
    with pytest.raises((ValueError, FileError)) as raised:
        unpack_tensors(
            {"w": Packed(form, shape, F32, len(parts["values"]), gaps)}, {"w": parts}, "x"
        )
    if raised.type is FileError:
        assert str(raised.value).endswith("save it again.")
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", COMPRESSED)
def test_compressed_parts_that_do_not_fit_are_refused(name):
    count, part = COMPRESSED[name]
    packed = Packed("dense", (count,), F32, count, zstd={"values": part.nbytes})
    with pytest.raises(FileError, match="did not write"):
        unpack_tensors({"w": packed}, {"w": {"values": part}}, "x")


def test_a_part_that_is_not_there_is_named():
    packed = Packed("bitmask", (9,), F32, 1)
    with pytest.raises(FileError, match=r"lacks a part of w \('mask'\)"):
        unpack_tensors({"w": packed}, {"w": {"values": V(1)}}, "x")
    with pytest.raises(FileError, match=r"lacks a part of w"):
        unpack_tensors({"w": packed}, {}, "x")


@pytest.mark.parametrize("said", [392, 400])
def test_a_compressed_part_is_not_believed_about_its_size(said):
    import zstandard

    data = zstandard.ZstdCompressor().compress(bytes(396))
    part = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    right = Packed("dense", (99,), F32, 99, zstd={"values": len(data)})
    assert not unpack_tensors({"w": right}, {"w": {"values": part}}, "x")["w"].any()
    wrong = Packed("dense", (said // 4,), F32, said // 4, zstd={"values": len(data)})
    with pytest.raises(FileError, match="another size"):
        unpack_tensors({"w": wrong}, {"w": {"values": part}}, "x")


@settings(deadline=None, max_examples=200)
@given(
    form=st.sampled_from(FORMS[1:]),
    shape=st.lists(st.integers(0, 12), max_size=3).map(tuple),
    index=st.lists(st.binary(max_size=12), min_size=2, max_size=2),
    count=st.integers(0, 12),
)
def test_any_parts_give_a_tensor_or_a_file_error(form, shape, index, count):
    whole = [torch.tensor([*b], dtype=torch.uint8) for b in index]
    numbers = [w.to(torch.int32) for w in whole]
    parts = {"mask": whole[0], "gaps": whole[0], "rows": numbers[0], "columns": numbers[1]}
    parts = {name: part for name, part in parts.items() if name in PARTS[form]}
    gaps = len(whole[0]) if form == "relative" else 0
    try:
        packed = Packed(form, shape, F32, count, gaps)
        made = unpack_tensors({"w": packed}, {"w": {**parts, "values": V(count)}}, "x")["w"]
    except (ValueError, FileError):
        return
    assert made.shape == shape
    assert int((made != 0).sum()) == count
