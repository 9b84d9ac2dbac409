"""Progressive files: every prefix is a network, and nothing is read that is not needed."""

import hashlib
import io
import json
import re
import runpy
import subprocess
import sys
import warnings
import zlib

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import widthwise as ww
from command_line import fails, works
from elastic_nets import identical, made, run
from progressive_files import (
    CNN,
    EXAMPLE,
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
)
from web_server import serving
from widthwise.app.runs.progressive import nested
from widthwise.common.jsonfile import unsealed
from widthwise.errors import BudgetError, FileError, WidthError
from widthwise.graph.slicing import part
from widthwise.measure.frontier import Frontier, Point
from widthwise.store.file import prepare, read, read_manifest, save
from widthwise.store.manifest import Measured
from widthwise.store.progressive import deltas, layout, ranges
from widthwise.store.progressive.reader import Progressive, load_progressive


@pytest.fixture(scope="module")
def mlp():
    return elastic(MLP, torch.randn(2, 784))


@pytest.fixture(scope="module")
def cnn():
    return elastic(CNN, torch.randn(2, 3, 8, 8))


@pytest.fixture(scope="module")
def whole(mlp, tmp_path_factory):
    """The MLP with eight levels, as a file."""
    path = tmp_path_factory.mktemp("progressive") / "net.safetensors"
    metrics = [Measured("accuracy", 0.9 + k / 100, "valid") for k in range(8)]
    return ww.save_progressive(mlp, path, levels_of(mlp), metrics=metrics)


# ---------------------------------------------------------------- shells


@settings(RELAXED, max_examples=200)
@given(layouts())
def test_shells_are_what_a_rung_adds_and_give_it_back(drawn):
    axes, widths, dims = drawn
    levels = [
        tuple(terms_layout(d, [(n, w[k]) for n, w in zip(axes, widths, strict=True)]) for d in dims)
        for k in range(3)
    ]
    full = torch.arange(float(np.prod(deltas.full_shape(levels[0])))).reshape(
        deltas.full_shape(levels[0])
    )
    parts = deltas.shells(full, levels)
    assert sum(map(len, parts)) == full.numel()
    kept = [part(full, tuple(enumerate(layout))) for layout in levels]
    for k in range(3):
        assert torch.equal(deltas.assemble(parts[: k + 1], levels[: k + 1]), kept[k])
        below = set(kept[k - 1].flatten().tolist()) if k else set()
        new = [v for v in kept[k].flatten().tolist() if v not in below]
        assert parts[k].tolist() == new


def test_bits_of_any_type_survive():
    levels = [(((4, k), (2, 2)),) for k in (1, 3, 4)]
    for dtype in (torch.bfloat16, torch.float64, torch.bool, torch.complex64, torch.int8):
        full = torch.randn(8).to(dtype)
        if dtype.is_floating_point:
            full[0] = float("nan")
        again = deltas.assemble(deltas.shells(full, levels), levels)
        assert torch.equal(again.view(torch.uint8), full.view(torch.uint8))
    with pytest.raises(ValueError):
        deltas.assemble(deltas.shells(torch.randn(8), levels)[1:], levels[1:])


# ---------------------------------------------------------------- what it must reach


def check(net, build, path, levels):
    """Sizes, and that every level is the cut bit by bit."""
    full = save(net, path.with_name("full"), widths=levels[-1]).stat().st_size
    assert path.stat().st_size <= 1.01 * full + 1_000
    with serving(path.read_bytes()) as web:
        for number, widths in enumerate(levels):
            plain = save(net, path.with_name("plain"), widths=widths)
            web.sent = 0
            with Progressive.open(web.url) as file:
                loaded = file.load(build, level=number)
                needed = file.levels[number].bytes
            assert max(needed, layout.FIRST) >= web.sent >= needed
            assert web.sent <= 1.02 * plain.stat().st_size + 1_000
            assert identical(loaded, prepare(net, widths).module)
            assert not loaded.training


def test_an_mlp(mlp, whole):
    check(mlp, MLP, whole, levels_of(mlp))


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", ["lstm_2", "gru", "mha", "gpt", "tied_autoencoder", "densenet"])
def test_other_networks(name, tmp_path):
    described, net, args, kwargs = made(name)
    levels = levels_of(net)
    path = ww.save_progressive(net, tmp_path / "p", levels)
    check(net, described.build, path, levels)
    assert len(levels) >= 5
    for number in (0, len(levels) - 1):
        loaded = load_progressive(path, described.build, level=number)
        want = prepare(net, levels[number]).module.eval()
        for a, b in zip(run(loaded, args, kwargs), run(want, args, kwargs), strict=True):
            assert torch.equal(a, b)


def test_statistics_estimated_anew_are_stored_for_each_rung(cnn, tmp_path):
    levels = levels_of(cnn)
    plain = ww.save_progressive(cnn, tmp_path / "plain", levels)
    check(cnn, CNN, plain, levels)
    batches = [(torch.randn(8, 3, 8, 8), None) for _ in range(3)]
    modules = [ww.recalibrate_(cnn.cut(w), batches) for w in levels]
    path = ww.save_progressive(cnn, tmp_path / "p", levels, modules=modules)
    file = Progressive.open(path)
    for number, module in enumerate(modules):
        assert identical(file.load(CNN, level=number), module)
        alone = save(cnn, tmp_path / "alone", widths=levels[number], module=module).stat().st_size
        assert file.levels[number].bytes <= 1.02 * alone + 1_000
    _, tensors = file.read(0)
    wider = file.read(1)[1]["norm2.running_mean"][: len(tensors["norm2.running_mean"])]
    assert not torch.equal(tensors["norm2.running_mean"], wider)
    assert int(tensors["norm.num_batches_tracked"]) == 3
    statistics = sum(4 * 2 * (w["stem"] + w["conv"]) for w in levels)
    assert path.stat().st_size - plain.stat().st_size < statistics + 400


def test_the_published_scale_is_put_on_when_a_rung_is_loaded(tmp_path):
    torch.manual_seed(0)
    net = ww.Elastic(MLP().eval(), torch.randn(2, 784), draw=ww.PUBLISHED)
    levels = levels_of(net, 4)
    path = ww.save_progressive(net, tmp_path / "p", levels)
    check(net, MLP, path, levels)
    assert path.stat().st_size < 1.01 * sum(p.nbytes for p in net.parameters()) + 2_000


def test_types_mix(tmp_path):
    class Mixed(MLP):
        def __init__(self):
            super().__init__()
            self.fc2.double()

        def forward(self, x):
            return self.fc3(self.fc2(self.fc1(x).relu().double()).relu().float())

    net = ww.Elastic(Mixed(), torch.randn(2, 784))
    levels = levels_of(net, 4)
    path = ww.save_progressive(net, tmp_path / "p", levels)
    check(net, Mixed, path, levels)
    assert safetensors.torch.load_file(path)["shell.0"].dtype == torch.uint8


# ---------------------------------------------------------------- the format is open


def test_any_safetensors_reader_opens_it(mlp, whole):
    tensors = safetensors.torch.load_file(whole)
    assert tensors.keys() == {"widthwise", *(f"shell.{k}" for k in range(8))}
    numbers = sum(t.numel() for n, t in tensors.items() if n != "widthwise")
    assert numbers == sum(p.numel() for p in mlp.parameters())


def tiny(path):
    """A file of known weights."""
    net = ww.Elastic(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)), torch.randn(2, 2))
    with torch.no_grad():
        for first, p in zip((0, 10, 20, 30), net.parameters(), strict=True):
            p.copy_(torch.arange(float(p.numel())).reshape(p.shape) + first)
    levels = [{"0": 1}, {"0": 3}]
    return ww.save_progressive(net, path, levels, metrics=[None, Measured("loss", 0.5, "test")])


def test_golden_bytes(tmp_path):
    """The format on disk, as docs/format.md has it: a change makes files others cannot read."""
    data = tiny(tmp_path / "g").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    size = header["widthwise"]["shape"][0]
    stream = data[8 + length : 8 + length + size]
    manifest = json.loads(zlib.decompressobj(-15).decompress(stream))
    shell = data[8 + length + size :]
    assert np.frombuffer(shell, "<f4").tolist() == [
        10, 0, 1, 30, 20,  # level 0: 0.bias, 0.weight, 2.bias, 2.weight
        11, 12, 2, 3, 4, 5, 21, 22,  # what level 1 adds
    ]  # fmt: skip
    digests = [hashlib.sha256(part).hexdigest() for part in (shell[:20], shell[20:])]
    documented = re.search(r"```json\n(.*?)```", FORMAT.read_text(), re.DOTALL)
    assert manifest == json.loads(documented[1]) | {"sha256": digests}
    entry = {"dtype": "F32", "shape": [5], "data_offsets": [size, size + 20]}
    assert header["shell.0"] == entry
    assert header["shell.1"]["data_offsets"] == [size + 20, size + 52]
    start = bytearray(data[: 8 + length + size])
    start[40:104] = b"0" * 64
    assert header["__metadata__"]["progressive"] == hashlib.sha256(start).hexdigest()
    assert json.loads(header["__metadata__"]["widthwise"])[0] == 4
    assert data[8:40] == b'{"__metadata__":{"progressive":"'
    assert length % 8 == size % 8 == 0


def test_numpy_alone_loads_a_rung_and_classifies(mlp, whole, tmp_path):
    example = runpy.run_path(str(EXAMPLE))
    source = EXAMPLE.read_text()
    assert len(source.splitlines()) < 80
    assert "torch" not in source.split('"""')[2]
    x = torch.randn(5, 784)
    for number, widths in enumerate(levels_of(mlp)):
        tensors = example["load"](whole, number)
        with torch.no_grad():
            want = mlp.cut(widths)(x).numpy()
        np.testing.assert_allclose(example["classify"](tensors, x.numpy()), want, 1e-5, 1e-4)
    changed = bytearray(whole.read_bytes())
    changed[-1] ^= 1
    (tmp_path / "changed").write_bytes(changed)
    example["load"](tmp_path / "changed", 6)
    with pytest.raises(ValueError, match="damaged"):
        example["load"](tmp_path / "changed", 7)
    given = io.BytesIO()
    np.save(given, x.numpy())
    words = [sys.executable, str(EXAMPLE), str(whole), "7"]
    said = subprocess.run(words, input=given.getvalue(), capture_output=True, check=True).stdout
    assert said.decode().strip() == str(want.argmax(1))


# ---------------------------------------------------------------- budgets, growing, cut files


def test_a_budget_gets_the_widest_network_in_it(mlp, whole):
    file = Progressive.open(whole)
    sizes = [level.bytes for level in file.levels]
    assert sizes[-1] == whole.stat().st_size
    for number in range(8):
        module = ww.load(whole, MLP, max_bytes=sizes[number])
        assert module.fc1.out_features == levels_of(mlp)[number]["fc1"]
        if number:
            narrower = ww.load(whole, MLP, max_bytes=sizes[number] - 1)
            assert narrower.fc1.out_features == levels_of(mlp)[number - 1]["fc1"]
    assert ww.load(whole, MLP, max_bytes="300kB").fc1.out_features == 64
    assert ww.load(whole, build=MLP).fc1.out_features == 256
    for few in (0, 50, 200, sizes[0] - 1):
        with pytest.raises(BudgetError, match="No network of"):
            ww.load(whole, MLP, max_bytes=few)


def test_a_plain_file_is_within_a_budget_or_is_not_loaded(mlp, tmp_path):
    path = save(mlp, tmp_path / "a", widths={"fc1": 4, "fc2": 4})
    size = path.stat().st_size
    assert ww.load(path, MLP, max_bytes=size).fc1.out_features == 4
    with pytest.raises(BudgetError, match="one network"):
        ww.load(path, MLP, max_bytes=size - 1)
    with pytest.raises(FileError, match="cannot be read"):
        ww.load(tmp_path / "missing", MLP, max_bytes=9)
    with pytest.raises(FileError, match="not a progressive file"):
        Progressive.open(path)


def test_rungs_say_what_was_measured(mlp, whole):
    levels = Progressive.open(whole).levels
    assert [r.widths for r in levels] == levels_of(mlp)
    assert levels[3].metric == Measured("accuracy", 0.93, "valid")
    data = whole.read_bytes()
    shell = data[levels[2].bytes : levels[3].bytes]
    assert levels[3].sha256 == hashlib.sha256(shell).hexdigest()
    assert read_manifest(whole).widths == mlp.full()
    assert read(whole)[0]["fc1.weight"].shape == (256, 784)


def test_growing_fetches_the_difference_alone(mlp, whole):
    with serving(whole.read_bytes()) as web, Progressive.open(web.url) as file:
        sizes = [level.bytes for level in file.levels]
        first = file.load(MLP, level=1)
        assert (web.sent, file.held) == (sizes[1], 1)
        second = file.grow(MLP)
        assert (web.sent, file.held) == (sizes[2], 2)
        assert web.requests[-1] == f"bytes={sizes[1]}-{sizes[2] - 1}"
        last = file.grow(MLP, to=7)
        assert web.sent == sizes[7]
        again = file.load(MLP, level=1)
        assert web.sent == sizes[7]
        with pytest.raises(WidthError, match="no wider"):
            file.grow(MLP)
    for module, number in ((first, 1), (second, 2), (last, 7), (again, 1)):
        assert identical(module, mlp.cut(levels_of(mlp)[number]))
    assert first.fc1.weight.data_ptr() != again.fc1.weight.data_ptr()


def test_a_file_that_was_cut_off_is_the_network_that_is_there(whole, tmp_path):
    data, file = whole.read_bytes(), Progressive.open(whole)
    path = tmp_path / "part"
    for number in (0, 3, 6):
        end = file.levels[number].bytes
        path.write_bytes(data[:end])
        assert ww.load(path, MLP).fc1.out_features == file.levels[number].widths["fc1"]
        path.write_bytes(data[: end + 5])
        with pytest.raises(FileError, match=rf"with {number + 1} of 8 levels; load what is there"):
            ww.load(path, MLP)
        for few in (end, end + 5, "100MB"):
            small = ww.load(path, MLP, max_bytes=few)
            assert small.fc1.out_features == file.levels[number].widths["fc1"]
        with pytest.raises(FileError, match="load what is there"):
            load_progressive(path, MLP, level=number + 1)
    for end in (0, 7, 30, 500, file.levels[0].bytes - 1):
        path.write_bytes(data[:end])
        with pytest.raises((FileError, BudgetError)) as raised:
            ww.load(path, MLP, max_bytes="1MB")
        assert "\n" not in str(raised.value)
    path.write_bytes(data + b"\0")
    with pytest.raises(FileError, match="1 bytes too many"):
        ww.load(path, MLP)


def test_rungs_that_do_not_fit_are_refused(mlp, whole, tmp_path):
    path = tmp_path / "p"
    for levels, words in [
        ([], "give 1 to 255"), ([mlp.full()] * 2, "the same"),
        ([{"fc1": 9}, {"fc1": 8}], "inside each other"), ([{"nope": 1}], "no axis"),
        ([{"fc1": 9, "fc2": 9}, {"fc2": 8}], "'fc2'"),
    ]:  # fmt: skip
        with pytest.raises(WidthError, match=words):
            ww.save_progressive(mlp, path, levels)
    with pytest.raises(WidthError, match="1 levels and 2 metrics"):
        ww.save_progressive(mlp, path, [{}], metrics=[None, None])
    with pytest.raises(FileError, match="not the network's cut"):
        ww.save_progressive(mlp, path, [{}], modules=[mlp.cut({"fc1": 2})])
    with pytest.raises(FileError, match="not a number"):
        ww.save_progressive(mlp, path, [{}], metrics=[Measured("a", float("nan"), "b")])
    assert not path.exists()
    file = Progressive.open(whole)
    for call in (lambda: file.load(MLP, level=8), lambda: file.load(MLP, level=-1),
                 lambda: file.load(MLP, level=1, max_bytes=9)):  # fmt: skip
        with pytest.raises(WidthError):
            call()
    with pytest.raises(FileError, match="does not fit"):
        file.load(lambda: nn.Linear(3, 3), level=0)


# ---------------------------------------------------------------- servers


@pytest.fixture
def web(whole, monkeypatch):
    monkeypatch.setattr(ranges, "PAUSE", 0.0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving(whole.read_bytes()) as server:
        yield server


@pytest.fixture
def third(whole):
    return Progressive.open(whole).levels[2]


def test_few_requests_with_the_version_asked_for(web, third):
    assert ww.load(web.url, MLP, max_bytes=third.bytes).fc1.out_features == third.widths["fc1"]
    assert web.sent == third.bytes
    assert len(web.requests) == 2
    assert web.conditions == [None, '"1"']


@pytest.mark.parametrize("fault", ["moved", "unsized", "short", "whole", "whole short"])
def test_servers_that_are_not_at_their_best(fault, web, third):
    web.faults = [fault, fault, None] if "short" in fault else [fault]
    module = ww.load(web.url, MLP, max_bytes=third.bytes)
    assert module.fc1.out_features == third.widths["fc1"]
    if fault == "whole":
        assert len(web.requests) == 1
    if fault == "short":
        assert web.sent == third.bytes
        assert len(web.requests) > 2


def test_a_server_without_ranges_is_read_in_order_and_only_as_far_as_needed(web, third):
    web.faults = ["whole"]
    source = ranges.opened(web.url)
    counted = []
    with Progressive(source) as file:
        answer = source._answer
        read = answer.read1
        answer.read1 = lambda n: counted.append(read(n)) or counted[-1]
        file.load(MLP, max_bytes=third.bytes)
        assert sum(map(len, counted)) == third.bytes - layout.FIRST
        assert len(web.requests) == 1
        file.close()
        file.grow(MLP)
        assert len(web.requests) == 2
    assert source._answer is None


@pytest.mark.parametrize(
    ("faults", "words", "requests"),
    [
        (["404"], "it answers 404", 1), (["503"], "it answers 503", ranges.TRIES),
        ([None, "shifted"], "other bytes", 2), ([None, "other size"], "changed", 2),
        (["no range"], "no range of bytes", 1), (["gzip"], "compressed form", 1),
        (["elsewhere"], "cannot be read", 1),
    ],
)  # fmt: skip
def test_wrong_answers_are_one_sentence(faults, words, requests, web):
    web.faults = faults
    with pytest.raises(FileError, match=words) as raised:
        ww.load(web.url, MLP)
    assert "\n" not in str(raised.value)
    assert str(raised.value).endswith(".")
    assert len(web.requests) == requests


def test_some_failures_are_passed_over(web, third):
    web.faults = ["503", "503", None, "503", None]
    assert ww.load(web.url, MLP, max_bytes=third.bytes) is not None
    assert len(web.requests) == 5


@pytest.mark.parametrize("etag", ['"2"', None])
def test_a_file_that_changes_between_requests_is_refused(etag, web):
    with Progressive.open(web.url) as file:
        web.etag = etag
        with pytest.raises(FileError, match="changed"):
            file.load(MLP, level=0)


def test_a_changed_rung_is_refused_and_the_ones_before_are_not(web, whole):
    changed = bytearray(web.data)
    changed[-1] ^= 1
    web.data = bytes(changed)
    with Progressive.open(web.url) as file:
        assert file.load(MLP, level=6) is not None
        with pytest.raises(FileError, match="damaged in level 7"):
            file.load(MLP, level=7)


def test_nobody_there(monkeypatch):
    monkeypatch.setattr(ranges, "PAUSE", 0.0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(FileError, match="cannot be read"):
        ww.load("http://127.0.0.1:9/net", MLP)
    for url in ("ftp://127.0.0.1/net", "file:///etc/hostname"):
        with pytest.raises(FileError, match="not an address of http or https"):
            ww.load(url, MLP)


# ---------------------------------------------------------------- what is refused


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """(bytes, a place to write) of a tiny file."""
    folder = tmp_path_factory.mktemp("tiny")
    return tiny(folder / "whole").read_bytes(), folder / "changed"


@settings(RELAXED, max_examples=200)
@given(st.data())
def test_no_bit_can_flip_unnoticed(small, data):
    whole, path = small
    flipped = bytearray(whole)
    flipped[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(flipped)
    with pytest.raises(FileError) as raised:
        ww.load(path, build_tiny)
    assert "\n" not in str(raised.value)


def test_a_file_written_again_is_read(small):
    assert ww.load(again(small), build_tiny)[0].weight.tolist() == [[0, 1], [2, 3], [4, 5]]


def typed(*described):
    """The tensors, one of them described so."""
    return {"tensors": TENSORS | {"0.bias": list(described)}}


@pytest.mark.parametrize(
    "change",
    [
        {"axes": {"0": [3, 3, 1]}}, {"axes": {"0": [3, 1]}}, {"axes": {"0": [2, 1, 3]}},
        {"axes": {"0": [3, 0, 3]}}, {"axes": {"0": [3, True, 3]}}, {"axes": {}}, {"axes": []},
        {"axes": {"0": [2**62, 1, 2**62]}}, {"axes": {"0": [2**70, 1, 3]}},
        {"tensors": {}}, {"tensors": []}, {"tensors": TENSORS | {"more": ["F32", 1]}},
        {"tensors": TENSORS | {"none": ["F32", 0, 2**40, 2**40]}},
        typed("F32", -2), typed("X", -1), typed("F64", -1), typed(), typed("F32", "3"),
        typed("F32", 2.5), typed("F32", *[1] * 65), typed("F32", [-1, [[]], 2]),
        {"whole": {"0.bias": ["F32", -1]}}, {"scaled": {"nope": [0]}}, {"scaled": {"0.bias": [1]}},
        {"scalars": {"n": [1]}}, {"scalars": {"n": 2**63}}, {"scalars": {"0.bias": 1}},
        {"scalars": []}, {"absent": {"0.bias": [1]}}, {"absent": {"0.bias": 1}},
        {"tied": {"x": "0.bias"}}, {"tied": {"x": "y"}}, {"tied": []},
        {"kinds": ["class", "pickle"]}, {"kinds": ["class"]}, {"kinds": ["graph", "graph"]},
        {"patches": {"0": {"out_features": [1]}}}, {"patches": {"0": {"forward": [1, 1]}}},
        {"patches": []}, {"patches": {"9": {"x": [1, 1]}}},
        {"metrics": []}, {"metrics": [None, ["a", "b", "c"]]}, {"metrics": None}, {"sha256": []},
        {"sha256": ["0" * 64]}, {"sha256": ["0" * 64] * 2}, {"sha256": ["0", "1"]}, {"x": 1},
        {"inputs": 3, "kinds": ["graph", "graph"]}, {"constraints": 3}, {"outputs": 3},
        {"class": 3},
    ],
)  # fmt: skip
def test_a_manifest_that_does_not_fit_is_refused(change, small):
    refuses(again(small, lambda body: body | change))


def test_a_deep_or_a_huge_manifest_is_refused(small):
    deep = []
    for _ in range(400):
        deep = [deep]
    refuses(again(small, lambda body: body | {"x": deep}))
    many = {f"t{n}": ["F32", [[0] * 50] * 50] for n in range(900)}
    assert "not as long" in refuses(again(small, lambda body: body | {"tensors": many}))
    assert "not as long" in refuses(again(small, pad=b"\0" * 8))
    assert "not as long" in refuses(again(small, pad=b"\1"))
    for notes, words in [("[6,1,1]", "newer"), ("[3,1,1]", "version"), ("[4,1,1]", "versions"),
                         ("{", "did not write"), ("[true,1,1]", "version")]:  # fmt: skip
        assert words in refuses(again(small, notes=notes))


@pytest.mark.parametrize(
    "change",
    [
        {"shell.1": None}, {"shell.2": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}},
        {"shell.0": {"dtype": "F32", "shape": [5], "data_offsets": [0, 20]}},
        {"shell.0": {"dtype": "F16", "shape": [5], "data_offsets": [0, 20]}},
        {"shell.0": {"dtype": "F32"}}, {"shell.0": 3}, {"x": {}}, {"widthwise": {}},
    ],
)  # fmt: skip
def test_a_header_that_does_not_fit_is_refused(change, small):
    def changed(header):
        return {n: v for n, v in (header | change).items() if v is not None}

    refuses(again(small, entries=changed))


def test_a_header_that_promises_much_is_refused_before_anything_is_read(small, tmp_path):
    data, path = small
    for length in (0, 96, layout.MAX_HEADER + 1, 2**40, 2**63):
        path.write_bytes(length.to_bytes(8, "little") + data[8:])
        refuses(path)

    def larger(header):
        for name, (begin, end) in {"shell.0": (0, 2**50), "shell.1": (2**50, 2**51)}.items():
            at = header["widthwise"]["shape"][0]
            header[name]["data_offsets"] = [begin + at, end + at]

    refuses(again(small, entries=larger))


NAMES = """axes tensors whole scaled scalars absent tied kinds patches metrics sha256 inputs outputs
constraints class""".split()


@settings(RELAXED, max_examples=250)
@given(name=st.sampled_from(NAMES), value=JSON)
def test_any_manifest_gives_the_network_or_a_file_error(small, name, value):
    path = again(small, lambda body: body | {name: value})
    try:
        module = ww.load(path, build_tiny)
    except FileError:
        return
    assert module[0].weight.shape == (3, 2)


@settings(RELAXED, max_examples=60)
@given(st.binary(max_size=300))
def test_foreign_bytes(small, data):
    path = small[1]
    path.write_bytes(data)
    with pytest.raises(FileError):
        Progressive.open(path)
    path.write_bytes(data[:8].ljust(8, b"\0") + b'{"__metadata__":{"progressive":"' + data)
    with pytest.raises(FileError):
        ww.load(path, build_tiny)


# ---------------------------------------------------------------- from a run


def point(widths, metric=0.5):
    return Point(ww.Widths(widths), metric, None, sum(widths.values()), 1, 1, None)


def test_points_that_nest():
    points = [point({"a": n, "b": m}) for n, m in [(1, 1), (2, 5), (3, 2), (4, 4), (6, 6)]]
    kept = [dict(p.widths) for p in nested(points, 8)]
    assert kept == [{"a": n, "b": m} for n, m in [(1, 1), (3, 2), (4, 4), (6, 6)]]
    assert [p.widths["a"] for p in nested(points, 3)] == [1, 3, 6]
    assert [p.widths["a"] for p in nested(points, 2)] == [1, 6]
    assert [p.widths["a"] for p in nested(points, 1)] == [6]


def test_a_run_becomes_one_file(tmp_path):
    folder, out = tmp_path / "run", tmp_path / "net.safetensors"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        works("train", "digits", "--out", folder, "--epochs", 2)
        works("sweep", folder, "--num-widths", 5, "--no-latency", "--no-reconstruct")
    said = works("export", folder, "--format", "progressive", "--out", out, "--levels", 3)
    assert "networks, the smallest in its first" in said
    frontier = Frontier.load(folder / "frontier.json")
    file = Progressive.open(out)
    assert 2 <= len(file.levels) <= 3
    best = {p.widths: p.metric for p in frontier.best()}
    for level in file.levels:
        assert level.metric.split == frontier.split
        assert level.metric.value == pytest.approx(best[level.widths], abs=1e-6)
    assert file.levels[-1].widths == frontier.best()[-1].widths
    assert "run folder" in fails("export", out, "--format", "progressive", "--out", tmp_path / "x")
    with ww.Progressive.open(out) as file:
        assert file.read(0)[0].task == "digits"
    changed = unsealed((folder / "frontier.json").read_bytes()) | {"post_process": "reconstruct"}
    (folder / "frontier.json").write_text(json.dumps(changed))
    again = tmp_path / "again.safetensors"
    said = works("export", folder, "--format", "progressive", "--out", again, "--levels", 3)
    assert "without what the sweep did to each (reconstruct)" in said
    assert again.read_bytes() == out.read_bytes()  # whatever the cuts were fitted to
    again.unlink()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.safetensors", "run"]
