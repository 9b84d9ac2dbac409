"""What hostile files did to readers once, or could have done: each is refused in one sentence.

tests/store/test_hostile.py makes many of them at random.
"""

import hashlib
import json
import os
import time
import zlib

import pytest
import safetensors.torch
import torch
from torch import nn

import hostile_web
import widthwise as ww
from hostile_loaders import Net, seeds
from hostile_mutations import emit, tree
from widthwise.app.compare import matrix, spec
from widthwise.app.report.picks import load_picks
from widthwise.app.runs.folder import Run
from widthwise.common import jsonfile, web
from widthwise.errors import FileError, TaskError, WidthwiseError
from widthwise.measure.frontier import Frontier
from widthwise.store import inputs, tensorfile
from widthwise.store.file import load
from widthwise.store.packed.container import MOST
from widthwise.store.progressive import ranges
from widthwise.store.progressive.manifest import LevelTable
from widthwise.store.progressive.reader import Progressive, load_progressive
from widthwise.store.stream import INDEX, _files
from widthwise.train import checkpoint
from widthwise.variants import journal


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    return seeds(tmp_path_factory.mktemp("valid"))


# ---------------------------------------------------------------- JSON


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1, "a": 1}', "twice"),
        ('{"a": [{"b": 1, "\\u0062": 2}]}', "twice"),
        ("[NaN]", "NaN"),
        ("[-Infinity]", "Infinity"),
        ("[1e999]", "1e999"),
        ("9" * 21, "999"),
        ("[" * 100_000 + "]" * 100_000, "deep"),
        ("[" + "[]," * 400_000 + "0]", "too many"),
        ('{"a": 1', "delimiter"),
    ],
)
def test_json_is_read_strictly(text, said):
    with pytest.raises(ValueError, match=said):
        jsonfile.parsed(text.encode())


def test_sealed_files_read_back_and_older_ones_do_too():
    data = {"a": [1, 2.5, None, "é"]}
    text = jsonfile.sealed(data)
    assert json.loads(text).keys() == {"a", "sha256"}
    assert jsonfile.unsealed(text) == data
    assert jsonfile.unsealed(json.dumps(data).encode()) == data
    for changed in (text.replace(b"2.5", b"2.6"), text + b" ", text.replace(b"\n", b"\r\n")):
        with pytest.raises(ValueError, match="checksum"):
            jsonfile.unsealed(changed)


def test_what_never_ends_is_no_file(tmp_path):
    pipe = tmp_path / "run.json"
    os.mkfifo(pipe)
    with pytest.raises(WidthwiseError, match="ordinary"):
        Run(tmp_path).record()
    for read in (Frontier.load, load_picks, load_net, matrix.read_outcomes):
        with pytest.raises(FileError):
            read(pipe)


def load_net(path):
    return load(path, Net)


def test_messages_are_one_line_and_obey_no_terminal():
    said = str(FileError("holds a\x1b[2J\nb\u202e\ud800 " + "x" * 9000 + "; copy it again."))
    assert said.isprintable()
    assert len(said) < 2100
    assert said.startswith("holds a\\x1b[2J\\nb\\u202e\\ud800")
    assert said.endswith("; copy it again.")


# ---------------------------------------------------------------- what fuzzing and reading found


def forged(data, change, begin=b'{"__metadata__":{"sha256":"'):
    """A safetensors file with another header under a right checksum."""
    length = int.from_bytes(data[:8], "little")
    header = tree(data[8 : 8 + length])
    change(header)
    text = emit(header).encode()
    whole = len(text).to_bytes(8, "little") + text + data[8 + length :]
    at = 8 + len(begin)
    zeroed = whole[:at] + b"0" * 64 + whole[at + 64 :]
    return whole[:at] + hashlib.sha256(zeroed).hexdigest().encode() + whole[at + 64 :]


def test_names_that_stand_twice_are_refused(valid, tmp_path):
    path = tmp_path / "net"
    path.write_bytes(forged(valid["plain"][0], lambda header: header.append(header[-1])))
    with pytest.raises(FileError, match="not written by widthwise"):
        load(path, Net)
    path.write_bytes(forged(valid["plain"][0], lambda header: None))
    load(path, Net)


def test_a_form_that_is_copied_for_each_tensor_is_small(valid, tmp_path):
    """A manifest of few bytes had one huge form, which became one for each of many tensors."""
    count = 20_000
    tensors = {f".{i:x}": {"t": ["F32"]} for i in range(count)}
    form = {"form": "dense", "numbers": 0, **{f"{i:x}": 0 for i in range(100_000)}}
    body = {"tree": tensors, "cut": [], "new": [], "forms": [form], "parts": [0] * count}
    path = packed_file(valid, tmp_path, body | {"kind": "class", "class": "Net"})
    began = time.process_time()
    with pytest.raises(FileError, match="a form is none"):
        load(path, Net)
    assert time.process_time() - began < 10  # two thousand million names, were it copied


def packed_file(valid, tmp_path, body, parts=b""):
    maker = zlib.compressobj(9, zlib.DEFLATED, -15)
    text = json.dumps(body).encode()
    assert len(text) <= MOST
    stream = maker.compress(text) + maker.flush()
    data = bytearray(len(stream).to_bytes(4, "little") + stream + parts)
    entry = torch.frombuffer(data, dtype=torch.uint8)
    notes = dict(tree(valid["packed"][0][8:].split(b"}}", 1)[0] + b"}}")[0][1])["widthwise"]
    return tensorfile.write(tmp_path / "net", {"widthwise": entry}, notes)


def test_many_tensors_on_many_rungs_are_refused_at_once():
    """Every tensor was looked at on every level, with all axes each time."""
    tensors = {f"{i:x}": ["F32", -1] for i in range(3_000)}
    body = {
        "class": "Net", "axes": {"a": [9] * 201},
        "tensors": tensors, "patches": {}, "metrics": [None] * 200, "sha256": ["0" * 64] * 200,
    }  # fmt: skip
    with pytest.raises(ValueError, match="too many tensors"):
        LevelTable.read(body, "1", "1")


@pytest.mark.parametrize(("dtype", "dim"), [("I64", 2), ("F8_E4M3", 2), ("F32", 0)])
def test_what_cannot_be_multiplied_is_not_scaled(dtype, dim):
    body = {
        "class": "Net", "axes": {}, "tensors": {"a": [dtype, dim]}, "scaled": {"a": [0]},
        "patches": {}, "metrics": [None], "sha256": ["0" * 64],
    }  # fmt: skip
    with pytest.raises(ValueError, match="cannot be multiplied"):
        LevelTable.read(body, "1", "1")


def test_inputs_of_gigabytes_are_not_made():
    for form in (
        ["tensor", "float32", [2**29]],
        ["tuple", *[["tensor", "int64", [10**7]]] * 100],
        ["tensor", "int8", [0, 2**62, 2**62]],
    ):
        with pytest.raises(ValueError, match="unreasonable"):
            inputs.example(form)
    with pytest.raises(FileError, match="smaller batch"):
        inputs.describe(torch.empty(4000, 4000, device="meta"))


def test_a_header_of_too_many_values_is_neither_written_nor_read(monkeypatch, tmp_path):
    monkeypatch.setattr(jsonfile, "MOST_VALUES", 50)
    with pytest.raises(FileError, match="too many tensors"):
        tensorfile.write(tmp_path / "net", {f"{i}": torch.zeros(1) for i in range(9)}, "x")


def test_a_renamed_or_reshaped_tensor_of_a_checkpoint_is_noticed(valid, tmp_path):
    data, path = valid["checkpoint"][0], tmp_path / checkpoint.NAME
    changes = {b'"model/fc1.weight"': b'"model/fc1.weighs"', b"[2,3]": b"[3,2]", b'"F32"': b'"I32"'}
    for old, new in changes.items():
        assert old in data
        path.write_bytes(data.replace(old, new))
        with pytest.raises(FileError, match="damaged"):
            checkpoint.load(tmp_path)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(FileError, match=r"its tensor .* was changed"):
        checkpoint.load(tmp_path)


def test_checkpoints_of_before_are_read(tmp_path):
    tensors = {"model/a": torch.ones(2)}
    header = {"step": 1, "run": {}, "losses": [0.5, 1], "draws": {}, "seconds": 1.0, "scaler": None}
    text = json.dumps(header | {"epochs": []})
    value = zlib.crc32(tensors["model/a"].numpy().tobytes(), zlib.crc32(text.encode()))
    path = tmp_path / checkpoint.NAME
    for checksum in (value, value ^ 1):
        metadata = {"widthwise": text, "checksum": str(checksum)}
        path.write_bytes(safetensors.torch.save(tensors, metadata))
        if checksum == value:
            assert checkpoint.load(tmp_path).step == 1
    with pytest.raises(FileError, match="checksum is wrong"):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize("name", ["", ".", "..", "../a", "a/b", "/a", "a\\b", "C:a", "a\0b"])
def test_an_index_names_files_beside_it_alone(name, tmp_path):
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(FileError, match="not beside it"):
        _files(tmp_path)


def test_a_comparison_that_is_huge_or_deep_is_one_sentence(tmp_path):
    path = tmp_path / "spec.toml"
    for text in ("a = " + "[" * 30_000, "#" * 70_000, "a" + ".a" * 30_000 + " = 1"):
        path.write_text(text)
        with pytest.raises(TaskError):
            spec.read(path)


# ---------------------------------------------------------------- searches


def journal_of(tmp_path, data):
    path = tmp_path / "search.jsonl"
    path.write_bytes(data)
    with journal.opened(path, "a", maximize=True) as study:
        return [(t.number, t.value) for t in study.get_trials(deepcopy=False)]


def test_lines_of_a_journal_cannot_change_go_or_move(valid, tmp_path):
    data = valid["journal"][0]
    lines = data.splitlines(keepends=True)
    trials = journal_of(tmp_path, data)
    assert len(trials) == 2
    changed = data.replace(b"3.14159", b"3.14158")
    assert changed != data
    moved = [*lines[:3], lines[4], lines[3], *lines[5:]]
    for other in (changed, b"".join(lines[:3] + lines[4:]), b"".join(moved)):
        with pytest.raises(FileError, match="damaged"):
            journal_of(tmp_path, other)
    assert journal_of(tmp_path, data + b'{"half') == trials


def test_journals_of_before_go_on(valid, tmp_path):
    """Lines without a checksum are read, and covered by that of the first line behind them."""
    lines = valid["journal"][0].splitlines()
    old = b"".join(json.dumps(unsummed(line)).encode() + b"\n" for line in lines)
    path = tmp_path / "search.jsonl"
    assert len(journal_of(tmp_path, old)) == 2
    with journal.opened(path, "b", maximize=True):
        pass
    data = path.read_bytes()
    assert data.startswith(old)
    assert len(data) > len(old)
    with pytest.raises(FileError, match="damaged"):
        journal_of(tmp_path, data.replace(b"3.14159", b"3.14158"))


def test_a_checksum_that_is_none_is_not_that_of_a_line_of_before(valid, tmp_path):
    """Also in a first line that stands alone."""
    first = valid["journal"][0].splitlines(keepends=True)[0]
    assert journal_of(tmp_path, first) == []
    with pytest.raises(FileError, match="damaged"):
        journal_of(tmp_path, first[:-4] + b"x" + first[-4:])


def unsummed(line):
    return {name: value for name, value in json.loads(line).items() if name != "sum"}


# ---------------------------------------------------------------- web servers


def test_the_page_of_a_redirect_is_not_read(valid):
    data = valid["web"][-1][hostile_web.PLAN :]
    steps = hostile_web.plan(("redirect page", 1))
    began = time.monotonic()
    with hostile_web.serving(steps, data) as url:
        assert load_progressive(url, Net).out.in_features == 8
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("fault", ["continues", "silent", "drip"])
def test_a_server_that_goes_on_for_ever_is_given_up(fault, valid, monkeypatch):
    monkeypatch.setattr(web, "TIMEOUT", 0.3)
    monkeypatch.setattr(ranges, "SLOWEST", 10_000)
    monkeypatch.setattr(ranges, "PAUSE", 0.0)
    data = valid["web"][-1][hostile_web.PLAN :]
    with (
        hostile_web.serving(hostile_web.plan(*[(fault, 1)] * 8), data) as url,
        pytest.raises(FileError, match=r"cannot be read|too slowly"),
    ):
        load_progressive(url, Net)


def test_nothing_larger_than_the_users_model_is_downloaded(valid):
    """A server may promise, and send, terabytes."""

    class Other(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1 = nn.Linear(2, 2)

    data = valid["web"][-1][hostile_web.PLAN :]
    with hostile_web.serving(hostile_web.plan(), data) as url, Progressive.open(url) as file:
        with pytest.raises(FileError, match="does not fit"):
            file.load(Other)
        assert file.held is None


def test_https_does_not_lead_to_http():
    answer = type("Answer", (), {"close": lambda self: None})()
    asked = web.request.Request("https://example.org/a")
    follow = web._Redirects().redirect_request
    with pytest.raises(FileError, match="from https to http:"):
        follow(asked, answer, 302, "Found", {}, "http://example.org/b")
    assert follow(asked, answer, 302, "Found", {}, "https://example.org/b").full_url.endswith("/b")


# ---------------------------------------------------------------- what was found besides


def test_shared_weights_that_are_cut_are_read_back_from_a_progressive_file(tmp_path):
    """They were written as of one size in all levels where their first name was another."""
    net = ww.Elastic(Net(), (torch.randn(4, 6),))
    levels = [net.widths(0.5), net.full()]
    path = ww.save_progressive(net, tmp_path / "net", levels)
    with Progressive.open(path) as file:
        for number, widths in enumerate(levels):
            found, wanted = file.load(Net, level=number), net.cut(widths)
            assert found.again.weight is found.fc1.weight
            assert torch.equal(found.fc1.weight, wanted.fc1.weight)


def test_a_small_file_of_zeros_does_not_become_larger_than_the_model(valid, tmp_path):
    """Two rows of a million columns take twelve bytes where all weights are zero."""
    forms = [{"form": "csr", "numbers": 1}]
    tree_of = {".fc1": {".weight": {"t": ["F32", 1000, 10**6]}}}
    body = {"tree": tree_of, "cut": [], "new": [], "forms": forms, "parts": [0, 0]}
    path = packed_file(valid, tmp_path, body | {"kind": "class", "class": "Net"}, bytes(4004))
    with pytest.raises(FileError, match="does not fit"):
        load(path, Net)


def test_a_cut_never_has_more_than_the_full_model(valid, tmp_path):
    """What was cut was only held against the full size that the file itself says."""
    path = tmp_path / "net"
    tensorfile.write(path, *grown(valid, tmp_path))
    with pytest.raises(FileError, match="does not fit"):
        load(path, Net)


def grown(valid, tmp_path):
    path = tmp_path / "small"
    path.write_bytes(valid["plain"][1])
    tensors, text = tensorfile.read(path)
    return tensors | {"fc2.weight": torch.zeros(6, 50)}, text
