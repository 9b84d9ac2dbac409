"""Saving and loading: what comes back is the same, and what is damaged is refused."""

import errno
import hashlib
import json
import os
import warnings

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import widthwise as ww
from elastic_nets import identical, made, random_widths, run
from widthwise.common.atomic import write_whole
from widthwise.store import inputs, tensorfile
from widthwise.store.file import load, prepare, read_manifest, save
from widthwise.store.manifest import Manifest, Measured, from_text, to_text

RELAXED = settings(deadline=None, suppress_health_check=list(HealthCheck))
CLASSES = ["mlp", "cnn", "densenet", "lstm_2", "tied_autoencoder", "buffer"]
NETS = [*CLASSES, "mha"]  # cut to anything, the last is a graph


# ---------------------------------------------------------------- round trip


@pytest.mark.sample(3)
@pytest.mark.parametrize("name", CLASSES)
@settings(RELAXED, max_examples=12)
@given(seed=st.integers(0, 10**6))
def test_save_and_load_give_the_same_network(name, seed, tmp_path):
    round_trip(name, seed, tmp_path)


@pytest.mark.parametrize(("name", "seed"), [("mha", 1), ("mha", 2), ("gpt", 1)])
def test_save_and_load_give_the_same_graph(name, seed, tmp_path):
    assert round_trip(name, seed, tmp_path) == "graph"


def round_trip(name, seed, tmp_path):
    described, net, args, kwargs = made(name)
    widths = random_widths(net, seed)
    path = save(net, tmp_path / "a.safetensors", widths=widths)
    stored = prepare(net, widths)
    loaded = load(path, described.build)
    assert not loaded.training
    assert identical(loaded, stored.module)
    stored.module.eval()
    for a, b in zip(run(loaded, args, kwargs), run(stored.module, args, kwargs), strict=True):
        assert torch.equal(a, b)
    return stored.manifest.kind


@pytest.mark.parametrize("name", NETS)
def test_the_size_is_known_without_writing(name, tmp_path):
    _, net, _, _ = made(name)
    for widths in (net.full(), net.widths(0.3), random_widths(net, 7)):
        path = save(net, tmp_path / "a", widths=widths)
        assert prepare(net, widths).bytes == path.stat().st_size
        measured = Measured("accuracy", 0.1 + 0.2, "valid")
        again = save(net, tmp_path / "b", widths=widths, metric=measured)
        assert again.stat().st_size == path.stat().st_size
        assert read_manifest(again).measured == measured
        packed = save(net, tmp_path / "c", widths=widths, metric=measured, pack="zstd")
        assert prepare(net, widths, pack="zstd").bytes == packed.stat().st_size


def test_kinds():
    _, net, _, _ = made("mha")
    assert prepare(net, net.full()).manifest.kind == "class"
    graph = prepare(net, net.widths(0.5)).manifest
    assert graph.kind == "graph"
    assert graph.inputs[0] == "tuple"


def test_a_graph_is_rebuilt_from_another_instance(tmp_path):
    described, net, args, kwargs = made("mha")
    path = save(net, tmp_path / "g", widths=net.widths(0.5))
    torch.manual_seed(99)
    loaded = load(path, described.build)
    assert isinstance(loaded, torch.fx.GraphModule)
    want = run(net, args, kwargs, widths=net.widths(0.5))
    for a, b in zip(run(loaded, args, kwargs), want, strict=True):
        torch.testing.assert_close(a, b)


def test_tied_weights_are_stored_once_and_stay_tied(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(11, 8)
            self.head = nn.Linear(8, 11, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, x):
            return self.head(torch.relu(self.embed(x)))

    net = ww.Elastic(Tied(), torch.zeros(2, 3, dtype=torch.long))
    path = save(net, tmp_path / "t", widths=net.widths(0.5))
    loaded = load(path, Tied)
    assert loaded.head.weight is loaded.embed.weight
    assert loaded.head.weight.shape == (11, 4)
    assert len(safetensors.torch.load_file(path)) == 1


class Constants(nn.Module):
    """A hidden buffer and a plain attribute, both cut with the features they meet."""

    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(5, 6)
        self.fc2 = nn.Linear(6, 3)
        self.register_buffer("hidden", torch.rand(6), persistent=False)
        self.plain = torch.rand(6)

    def forward(self, x):
        return self.fc2(torch.relu(self.fc1(x) * self.hidden) + self.plain)


@pytest.mark.parametrize("through_net", [True, False])
def test_hidden_buffers_and_constants_are_stored(through_net, tmp_path):
    net = ww.Elastic(Constants(), torch.randn(4, 5)).eval()
    widths = net.widths(0.5)
    small = net.cut(widths)
    path = save(net if through_net else small, tmp_path / "c", widths=widths)
    loaded = load(path, Constants)  # whose own constants are others
    assert loaded.plain.shape == loaded.hidden.shape == (3,)
    x = torch.randn(2, 5)
    assert torch.equal(loaded(x), small(x))
    assert "hidden" not in loaded.state_dict()


def test_a_module_cut_before_can_be_stored_and_comes_back(tmp_path):
    described, net, args, kwargs = made("cnn")
    small = net.cut(net.widths(0.5)).eval()
    with torch.no_grad():
        for p in small.parameters():
            p.mul_(1.5)
    loaded = load(save(small, tmp_path / "m"), described.build)
    assert torch.equal(run(loaded, args, kwargs)[0], run(small, args, kwargs)[0])


@pytest.mark.parametrize("name", ["cnn", "mha"])
def test_a_fine_tuned_cut_is_stored_through_its_network(name, tmp_path):
    described, net, args, kwargs = made(name)
    widths = net.widths(0.5)
    small = net.engine.cut(widths)[0].eval()
    with torch.no_grad():
        for p in small.parameters():
            p.mul_(1.5)
    path = save(net, tmp_path / "m", widths=widths, module=small)
    assert path.stat().st_size == prepare(net, widths).bytes
    assert torch.equal(
        run(load(path, described.build), args, kwargs)[0], run(small, args, kwargs)[0]
    )
    with pytest.raises(ww.FileError, match="pass the widths"):
        save(net, path, widths=net.full(), module=small)


def test_a_loaded_network_can_be_trained(tmp_path):
    described, net, args, kwargs = made("lstm_2")
    loaded = load(save(net, tmp_path / "l", widths=net.widths(0.5)), described.build).train()
    before = [p.detach().clone() for p in loaded.parameters()]
    loaded(*args, **kwargs).sum().backward()
    torch.optim.SGD(loaded.parameters(), lr=0.1).step()
    assert all(p.grad is not None for p in loaded.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, loaded.parameters(), strict=True))


def test_it_is_an_ordinary_safetensors_file(tmp_path):
    _, net, _, _ = made("mlp")
    path = save(net, tmp_path / "a.safetensors", widths={"0": 3})
    tensors = safetensors.torch.load_file(path)
    assert torch.equal(tensors["0.weight"], net.model[0].weight[:3])
    with safetensors.safe_open(path, "pt") as file:
        manifest = json.loads(file.metadata()["widthwise"])
    assert manifest["widths"] == {"0": 3, "2": 12}
    assert manifest["sizes"] == {"0": 16, "2": 12}


DTYPES = [torch.float64, torch.bfloat16, torch.float16, torch.int8, torch.bool, torch.complex64]


def test_all_dtypes_empty_tensors_and_scalars(tmp_path):
    tensors: dict[str, Tensor] = {str(t): torch.ones(3, 2).to(t) for t in DTYPES}
    tensors |= {
        "empty": torch.empty(0, 4),
        "scalar": torch.tensor(7),
        "strided": torch.rand(4, 4).t(),
    }
    found, manifest = tensorfile.read(tensorfile.write(tmp_path / "a", tensors, "{}"))
    assert manifest == "{}"
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    with pytest.raises(ww.FileError, match="convert"):
        tensorfile.write(tmp_path / "b", {"q": torch.zeros(2, dtype=torch.complex128)}, "{}")


def test_golden_bytes(tmp_path):
    """The format on disk: a change here makes files that others cannot read."""
    path = tensorfile.write(
        tmp_path / "g", {"b": torch.tensor([1, 2]), "a": torch.ones(2)}, '{"x":1}'
    )
    digest = "41e88b147beca9cb5f84beb058cb5e38a7e7f44eef40523e"
    assert hashlib.sha256(path.read_bytes()).hexdigest()[:48] == digest


# ---------------------------------------------------------------- what is refused


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """(bytes of a stored cut, its build function, a place to write)."""
    described, net, _, _ = made("mlp")
    folder = tmp_path_factory.mktemp("stored")
    path = save(net, folder / "whole", widths={"0": 2, "2": 2})
    return path.read_bytes(), described.build, folder / "changed"


def refuses(path, build):
    with pytest.raises(ww.FileError) as raised:
        load(path, build)
    message = str(raised.value)
    assert "\n" not in message
    assert message.endswith(".")
    assert message.count(". ") == 0
    return message


@settings(RELAXED, max_examples=150)
@given(st.data())
def test_no_bit_can_flip_unnoticed(stored, data):
    whole, build, path = stored
    at = data.draw(st.integers(0, len(whole) - 1))
    flipped = bytearray(whole)
    flipped[at] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(flipped)
    refuses(path, build)


@settings(RELAXED, max_examples=60)
@given(st.data())
def test_no_part_of_a_file_is_taken_for_the_whole(stored, data):
    whole, build, path = stored
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    refuses(path, build)


@pytest.mark.parametrize("more", [b"\0", b"x" * 8])
def test_nor_one_with_more_behind_it(stored, more):
    whole, build, path = stored
    path.write_bytes(whole + more)
    refuses(path, build)


@settings(RELAXED, max_examples=40)
@given(st.binary(max_size=300))
def test_foreign_bytes(stored, data):
    _, build, path = stored
    path.write_bytes(data)
    refuses(path, build)


def test_foreign_files(stored, tmp_path):
    _, build, _ = stored
    safetensors.torch.save_file({"a": torch.ones(2)}, tmp_path / "plain")
    torch.save(build(), tmp_path / "pickle")
    for name in ("plain", "pickle"):
        assert "not written by widthwise" in refuses(tmp_path / name, build)
    assert "cannot be read" in refuses(tmp_path / "missing", build)
    assert "cannot be read" in refuses(tmp_path, build)


def rewritten(stored, **changes):
    """A whole file with a valid checksum, whose manifest says something else."""
    whole, build, path = stored
    path.write_bytes(whole)
    tensors, text = tensorfile.read(path)
    tensorfile.write(path, tensors, json.dumps(json.loads(text) | changes))
    return path, build


def test_a_newer_file_asks_for_an_update(stored):
    assert "newer" in refuses(*rewritten(stored, version=4))


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "other"}, {"version": None}, {"version": True}, {"kind": "pickle"}, {"x": 1},
        {"version": 2}, {"packed": {}}, {"version": 2, "packed": {"0.weight": {}}},
        {"class": 3}, {"widths": [1]}, {"widths": {"0": 0}}, {"widths": {"0": "2"}},
        {"sizes": None}, {"patches": {"0": 3}}, {"patches": {"0": {"out_features": "3"}}},
        {"patches": {"0": {"bias": 3}}}, {"patches": {"9": {"out_features": 3}}},
        {"patches": {"0": {"forward": 3}}}, {"patches": {"0": {"training": 1}}},
        {"tied": {"a": "b"}}, {"tied": {"0.weight": "nowhere"}},
        {"full": {"0.weight": [16, 21]}}, {"full": {"0.weight": "x"}}, {"full": {}}, {"notes": {}},
        {"notes": {"metric": ["a", "b", "c"], "torch": "", "widthwise": ""}},
        {"kind": "graph"}, {"kind": "graph", "inputs": ["tuple", ["tuple"], ["dict"]]},
        {"kind": "graph", "inputs": [["tensor", "float32", [10**12]], ["dict"]]},
        {"kind": "graph", "inputs": ["tuple", ["tuple", ["tensor", "Tensor", [3]]], ["dict"]]},
        {"kind": "graph", "inputs": ["tuple", ["tuple", ["tensor", "float32", [3, 7]]], ["dict"]]},
    ],
)  # fmt: skip
def test_a_manifest_that_does_not_fit_is_refused(stored, changes):
    refuses(*rewritten(stored, **changes))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(RELAXED, max_examples=80)
@given(
    name=st.sampled_from(["widths", "sizes", "patches", "full", "tied", "notes", "class", "kind"]),
    value=JSON,
)
def test_any_manifest_gives_the_network_or_a_file_error(stored, name, value):
    path, build = rewritten(stored, **{name: value})
    try:
        load(path, build)
    except ww.FileError:
        return
    assert name in ("widths", "sizes", "class", "full", "tied", "patches", "notes")


class Odd(nn.Module):
    def __init__(self, hidden=16, dtype=torch.float32, name="fc"):
        super().__init__()
        self.add_module(name, nn.Linear(20, hidden, dtype=dtype))
        self.out = nn.Linear(hidden, 5, dtype=dtype)
        self.name = name

    def forward(self, x):
        return self.out(torch.relu(getattr(self, self.name)(x)))


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: Odd(17), "(16,"),
        (lambda: Odd(8), "(16,"),
        (lambda: Odd(name="other"), "fc"),
        (lambda: Odd(dtype=torch.float64), "float64"),
        (lambda: nn.Linear(3, 3), "does not fit"),
        (lambda: nn.Sequential(Odd()), "does not fit"),
    ],
)
@pytest.mark.parametrize("same_class", [True, False])
def test_a_wrong_build_function_is_told_apart(build, said, same_class, tmp_path, monkeypatch):
    net = ww.Elastic(Odd(), torch.randn(3, 20))
    if not same_class:
        cut = net.engine.cut
        graph = lambda w: (cut(w, same_class=False)[0], (), "of a test")  # noqa: E731
        monkeypatch.setattr(net.engine, "cut", graph)
    path = save(net, tmp_path / "o", widths=net.widths(0.5))
    assert read_manifest(path).kind == ("class" if same_class else "graph")
    load(path, Odd)
    message = refuses(path, build)
    assert "build" in message
    if same_class:
        assert said in message


def test_widths_must_be_those_of_the_network(tmp_path):
    _, net, _, _ = made("mlp")
    with pytest.raises(ww.WidthError):
        save(net, tmp_path / "a", widths={"nowhere": 3})
    assert not list(tmp_path.iterdir())


def test_a_graph_module_alone_says_how_to_store_it(tmp_path):
    _, net, _, _ = made("mha")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ww.GraphModuleWarning)
        small = net.cut(net.widths(0.5))
    with pytest.raises(ww.FileError, match="module=module"):
        save(small, tmp_path / "a")


# ---------------------------------------------------------------- writing


def failing(name, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(*name, full)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_loses_nothing(call, tmp_path, monkeypatch):
    _, net, _, _ = made("mlp")
    path = tmp_path / "a"
    path.write_bytes(b"before")
    holder = (os, call) if call == "fsync" else (type(path), call)
    failing(holder, monkeypatch)
    with pytest.raises(ww.FileError, match="No space left on device"):
        save(net, path)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_write_leaves_nothing(tmp_path):
    def chunks():
        yield b"half"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "a", chunks())
    assert not list(tmp_path.iterdir())


def test_a_missing_folder(tmp_path):
    with pytest.raises(ww.FileError, match="could not be written"):
        write_whole(tmp_path / "none" / "a", [b""])


# ---------------------------------------------------------------- manifest and inputs

NAMES = st.text(max_size=8)


@given(
    st.dictionaries(NAMES, st.integers(1, 999), max_size=4),
    st.dictionaries(NAMES, st.lists(st.integers(0, 99), max_size=3).map(tuple), max_size=3),
    st.builds(Measured, NAMES, st.floats(allow_nan=False, allow_infinity=False), NAMES) | st.none(),
)
def test_manifests_round_trip_and_their_size_does_not_depend_on_the_metric(widths, full, measured):
    manifest = Manifest("class", "Model", ww.Widths(widths), widths, (), full, {}, None, measured)
    text = to_text(manifest)
    assert from_text(text, "it") == manifest
    bare = to_text(Manifest("class", "Model", ww.Widths(widths), widths, (), full))
    if measured is None or (measured.name + measured.split).isascii():
        assert len(json.dumps(text)) == len(json.dumps(bare))


def test_a_metric_must_be_a_number(tmp_path):
    _, net, _, _ = made("mlp")
    with pytest.raises(ww.FileError, match="not a number"):
        save(net, tmp_path / "a", metric=Measured("loss", float("nan"), "valid"))


def test_inputs_keep_their_form():
    given_inputs = (
        (torch.rand(2, 3), [None, 1.5]),
        {"mask": torch.zeros(2, dtype=torch.bool), "n": 3},
    )
    form = inputs.describe(given_inputs)
    made_again = inputs.example(json.loads(json.dumps(form)))
    assert inputs.describe(made_again) == form
    assert torch.equal(made_again[0][0], inputs.example(form)[0][0])
    with pytest.raises(ww.FileError, match="range"):
        inputs.describe(range(3))
