"""Packed files: few bytes besides the tensors, and nothing in them is believed unchecked."""

import json
import tracemalloc
import zlib

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import widthwise as ww
from widthwise import quantization
from widthwise.errors import FileError
from widthwise.graph.rebuild.module import Patch
from widthwise.store import tensorfile
from widthwise.store.describing import coded_as, description, packed_as
from widthwise.store.file import load, prepare, read, read_manifest, save
from widthwise.store.manifest import Manifest, Measured, from_notes, to_body, to_notes
from widthwise.store.packed import container, manifest_codec
from widthwise.store.packed.coding import Coded
from widthwise.store.packed.forms import Packed
from widthwise.store.packed.manifest_codec import folded, unfolded

RELAXED = settings(deadline=None, suppress_health_check=list(HealthCheck))
F32 = torch.float32


# ---------------------------------------------------------------- bytes


class MLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(784, 256), nn.Linear(256, 256)
        self.fc3 = nn.Linear(256, 10)

    def forward(self, x):
        return self.fc3(torch.relu(self.fc2(torch.relu(self.fc1(x)))))


class LSTM(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(60, 32)
        self.lstm = nn.LSTM(32, 64, num_layers=2, batch_first=True)
        self.out = nn.Linear(64, 60)

    def forward(self, x):
        return self.out(self.lstm(self.embed(x))[0])


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)

    def forward(self, x):
        return x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))


class CNN(nn.Module):
    """Convolutions with batch norms, in residual blocks."""

    def __init__(self, blocks=2):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32)
        self.blocks = nn.Sequential(*(Block(32) for _ in range(blocks)))
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        x = self.blocks(torch.relu(self.norm(self.stem(x))))
        return self.head(torch.relu(x).mean((2, 3)))


EXAMPLES = {
    MLP: torch.randn(2, 784),
    LSTM: torch.zeros(2, 5, dtype=torch.long),
    CNN: torch.randn(2, 3, 8, 8),
}


@pytest.fixture(scope="module")
def nets():
    """An elastic network of each class, with statistics as after training."""
    made = {}
    for build, example in EXAMPLES.items():
        torch.manual_seed(0)
        module = build().eval()
        for name, tensor in module.state_dict().items():
            tensor.fill_(391) if tensor.dim() == 0 else tensor.add_(0.1 * torch.randn_like(tensor))
            if name.endswith("running_var"):
                tensor.abs_().add_(0.5)
        made[build] = ww.Elastic(module, (example,))
    return made


def variant(net, widths, form, zeros):
    """A cut with so many zeros, quantized: the cut and the record."""
    module = net.cut(widths)
    for name in quantization.quantizable(module):
        weight = module.get_parameter(name).data
        weight[torch.rand_like(weight) < zeros] = 0
    return module, quantization.quantize_(module, form)


def kept(net, build, widths, form, zeros, path):
    """Store a variant and check what the file takes; returns bytes above the tensors."""
    module, record = variant(net, widths, form, zeros)
    stored = prepare(net, widths, module, "zeros", record)
    real = save(net, path, widths=widths, module=module, bits=record, pack="zeros").stat().st_size
    assert stored.bytes == real
    sizes = (part.nbytes for parts in stored.parts.values() for part in parts.values())
    assert stored.data_bytes == sum(sizes)
    assert real <= 1.01 * stored.data_bytes + 1_000
    again = load(path, build).state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in module.state_dict().items())
    return real - stored.data_bytes


@pytest.mark.sample(10)
@pytest.mark.parametrize("width", [4, 8, 16, 32, 64, 128, 256])
@pytest.mark.parametrize("count", [2, 4, 8])
@pytest.mark.parametrize("zeros", [0, 0.9])
def test_an_mlp_takes_hardly_more_than_its_tensors(width, count, zeros, nets, tmp_path):
    widths = {"fc1": width, "fc2": max(4, width - 3)}
    assert kept(nets[MLP], MLP, widths, quantization.Uniform(count), zeros, tmp_path / "a") < 570


@pytest.mark.sample(3)
@pytest.mark.parametrize("build", [CNN, LSTM])
@pytest.mark.parametrize("fraction", [0.1, 0.5, 1.0])
@pytest.mark.parametrize(
    "form",
    [quantization.Uniform(2), quantization.Uniform(4, per="group"), quantization.Codebook(5)],
)
@pytest.mark.parametrize("zeros", [0, 0.9])
def test_other_networks_do_too(build, fraction, form, zeros, nets, tmp_path):
    net = nets[build]
    assert kept(net, build, net.widths(fraction), form, zeros, tmp_path / "a") < 850


def test_a_small_quantized_network_costs_a_few_hundred_bytes(nets, tmp_path):
    widths = {"fc1": 4, "fc2": 4}
    module, record = variant(nets[MLP], widths, quantization.Uniform(2), 0)
    path = save(nets[MLP], tmp_path / "a", widths=widths, module=module, bits=record)
    assert path.stat().st_size < 784 * 4 / 4 + 700


def test_blocks_alike_cost_little(tmp_path):
    """Names and shapes of one block are written once: a further one costs its sizes."""
    over = []
    for blocks in (4, 24):
        module = CNN(blocks).eval()
        for p in module.parameters():
            nn.init.normal_(p)
        stored = prepare(module, bits=quantization.quantize_(module, quantization.Uniform(4)))
        assert stored.bytes <= 1.01 * stored.data_bytes + 1_000
        over.append(stored.bytes - stored.data_bytes)
    assert over[1] - over[0] < 20 * 15


def test_batches_that_were_counted_cost_nothing(nets, tmp_path):
    net = nets[CNN]
    module, record = variant(net, net.full(), quantization.Uniform(4), 0)
    path = save(net, tmp_path / "a", module=module, bits=record)
    manifest = read_manifest(path)
    assert len(manifest.scalars) == 5
    assert {*manifest.scalars.values()} == {391}
    loaded = load(path, CNN)
    assert loaded.norm.num_batches_tracked.dtype == torch.int64
    assert loaded.norm.num_batches_tracked.shape == ()
    assert int(loaded.norm.num_batches_tracked) == 391


def test_the_size_does_not_depend_on_the_metric(nets, tmp_path):
    net = nets[MLP]
    module, record = variant(net, {"fc1": 4, "fc2": 4}, quantization.Uniform(2), 0)
    sizes = set()
    for n, value in enumerate([None, 0.5, 1 / 3, -1e-300 / 3]):
        metric = None if value is None else Measured("balanced accuracy", value, "valid")
        widths = {"fc1": 4, "fc2": 4}
        path = tmp_path / str(n)
        save(net, path, widths=widths, module=module, bits=record, metric=metric)
        assert read_manifest(path).measured == metric
        sizes.add(path.stat().st_size)
    assert len(sizes) == 1


# ---------------------------------------------------------------- round trip

NAMES = st.text(st.sampled_from("ab.é"), max_size=6)
SIZES = st.integers(1, 300)
PACKED = st.one_of(
    st.builds(
        lambda shape: Packed("dense", shape, torch.bfloat16, torch.Size(shape).numel()),
        st.lists(st.integers(0, 9), max_size=3).map(tuple),
    ),
    st.just(Packed("relative", (4, 9), F32, 3, 5, {"values": 9})),
    st.just(Packed("bitmask", (7,), torch.int64, 3)),
)
CODED = st.sampled_from(
    [
        Coded(quantization.Uniform(2, symmetric=True, per="group", group=9), "csr", (4, 2), F32, 2),
        Coded(quantization.Uniform(4), "relative", (4, 2), torch.float16, 2, 1, 2, 5),
        Coded(quantization.Codebook(3), "dense", (4,), F32, 4),
    ]
)
VALUES = st.integers(0, 99) | st.lists(st.integers(-3, 9), max_size=3).map(tuple)


@settings(RELAXED, max_examples=200)
@given(
    widths=st.dictionaries(NAMES, SIZES, max_size=4),
    sizes=st.dictionaries(NAMES, SIZES, max_size=4),
    patches=st.lists(st.tuples(NAMES, NAMES, VALUES), max_size=4),
    packed=st.dictionaries(NAMES, PACKED, min_size=1, max_size=4),
    coded=st.dictionaries(NAMES, CODED, min_size=1, max_size=4),
    scalars=st.dictionaries(NAMES, st.integers(-(2**63), 2**63 - 1), max_size=3),
    more=st.integers(1, 9) | st.none(),
    tied=st.dictionaries(NAMES, NAMES, max_size=2),
)
def test_every_manifest_is_folded_and_unfolded(
    widths, sizes, patches, packed, coded, scalars, more, tied
):
    packed = {name: form for name, form in packed.items() if name not in coded}
    scalars = {n: v for n, v in scalars.items() if n not in packed and n not in coded}
    shapes = {name: how.shape for name, how in (packed | coded).items()}
    full = None if more is None else {n: tuple(d + more for d in s) for n, s in shapes.items() if s}
    manifest = Manifest(
        "class",
        "Model",
        ww.Widths(widths),
        sizes,
        tuple(Patch(m, a, v) for (m, a), v in {(m, a): v for m, a, v in patches}.items()),
        full,
        tied,
        packed=packed,
        coded=coded,
        scalars=scalars,
    )
    body = json.loads(json.dumps(to_body(manifest)))
    again = json.loads(json.dumps(folded(to_body(manifest))))
    assert unfolded(again) == body
    read_back = from_notes(to_notes(manifest), lambda: unfolded(again), "it")
    assert to_body(read_back) == to_body(manifest)
    assert read_back.packed == packed
    assert read_back.coded == coded


def test_descriptions_are_short():
    group = quantization.Uniform(2, symmetric=True, per="group", group=9)
    assert description(Coded(group, "csr", (4, 2), torch.bfloat16, 2, 0, 4, 7)) == {
        "form": "csr", "shape": [4, 2], "dtype": "BF16", "bits": 2, "symmetric": True,
        "per": "group", "group": 9, "huffman": 4, "numbers": [2, 7],
    }  # fmt: skip
    assert description(Packed("dense", (3,), F32, 3)) == DENSE


DENSE = {"form": "dense", "shape": [3], "dtype": "F32", "numbers": []}
MASKED = DENSE | {"form": "bitmask", "numbers": [2]}
VALUED = DENSE | {"shape": [4], "values": 3}
PLACED = DENSE | {"form": "bitmask", "shape": [4], "bits": 4, "numbers": [2]}
PACKED_WRONG = [
    None, [], {}, DENSE | {"form": "pickle"}, DENSE | {"form": None}, DENSE | {"form": []},
    DENSE | {"shape": 3}, DENSE | {"shape": [-3]}, DENSE | {"shape": [3.0]},
    DENSE | {"shape": [1] * 65}, DENSE | {"shape": [0, 2**62, 2]}, DENSE | {"shape": [2**63]},
    DENSE | {"dtype": "F33"}, DENSE | {"dtype": 1}, DENSE | {"dtype": []}, DENSE | {"more": 1},
    DENSE | {"zstd": ["mask"], "numbers": [3]}, DENSE | {"zstd": ["values"]}, DENSE | {"zstd": 3},
    DENSE | {"zstd": ["values"], "numbers": [-1]}, DENSE | {"zstd": [[]], "numbers": [1]},
    DENSE | {"zstd": ["values", "values"], "numbers": [3, 3]}, DENSE | {"numbers": [3]},
    MASKED | {"numbers": []}, MASKED | {"numbers": [4]}, MASKED | {"numbers": [2, 1]},
    MASKED | {"numbers": None}, MASKED | {"form": "relative"},
    MASKED | {"form": "relative", "numbers": [2, 2]},
]  # fmt: skip
CODED_WRONG = [
    None, [], {}, VALUED | {"form": "pickle"}, VALUED | {"shape": [0]}, VALUED | {"shape": [2**31]},
    VALUED | {"dtype": "I32"}, VALUED | {"more": 1}, VALUED | {"values": 1},
    VALUED | {"values": 257}, VALUED | {"values": "3"}, VALUED | {"bits": 4},
    VALUED | {"numbers": [3]}, VALUED | {"huffman": 3, "numbers": [3]}, VALUED | {"huffman": 1},
    VALUED | {"huffman": True, "numbers": [3]}, VALUED | {"huffman": -1, "numbers": [3]},
    VALUED | {"huffman": 1, "numbers": [0]}, VALUED | {"huffman": 0, "numbers": [3]},
    PLACED | {"numbers": [5]}, PLACED | {"numbers": [-1]}, PLACED | {"numbers": [2.0]},
    PLACED | {"bits": 9}, PLACED | {"bits": None}, PLACED | {"bits": True},
    PLACED | {"symmetric": 1}, PLACED | {"per": "row"}, PLACED | {"per": []},
    PLACED | {"group": 0}, {name: value for name, value in PLACED.items() if name != "bits"},
]  # fmt: skip


@pytest.mark.parametrize(
    ("read_as", "entry"),
    [(packed_as, e) for e in PACKED_WRONG] + [(coded_as, e) for e in CODED_WRONG],
)
def test_other_descriptions_are_refused(read_as, entry):
    assert packed_as(DENSE).shape == packed_as(MASKED).shape == (3,)
    assert coded_as(VALUED).shape == coded_as(PLACED).shape == (4,)
    with pytest.raises((ValueError, TypeError, KeyError)):
        read_as(entry)


# ---------------------------------------------------------------- what is refused


@pytest.fixture(scope="module")
def whole(nets, tmp_path_factory):
    """A stored variant: its path, and a place to write."""
    folder = tmp_path_factory.mktemp("packed")
    net = nets[CNN]
    widths = net.widths(0.2)
    module, record = variant(net, widths, quantization.Uniform(3), 0.8)
    path = save(net, folder / "a", widths=widths, module=module, bits=record, pack="zeros")
    return path, folder / "changed"


def refuses(path):
    with pytest.raises(FileError) as raised:
        load(path, CNN)
    message = str(raised.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


def taken_apart(path):
    """Notes, the folded manifest and the parts' bytes."""
    tensors, notes = tensorfile.read(path)
    entry = tensors["widthwise"].numpy().tobytes()
    length = int.from_bytes(entry[:4], "little")
    return notes, json.loads(zlib.decompress(entry[4 : 4 + length], -15)), entry[4 + length :]


def deflated(text):
    maker = zlib.compressobj(9, zlib.DEFLATED, -15)
    return maker.compress(text) + maker.flush()


def put(path, notes, entry):
    """A file with a right checksum."""
    tensor = torch.frombuffer(bytearray(entry), dtype=torch.uint8) if entry else torch.ByteTensor()
    return tensorfile.write(path, {"widthwise": tensor}, notes)


def rebuilt(path, notes, short, parts):
    stream = deflated(json.dumps(short).encode())
    return put(path, notes, len(stream).to_bytes(4, "little") + stream + parts)


@settings(RELAXED, max_examples=150)
@given(st.data())
def test_no_bit_can_flip_unnoticed(whole, data):
    path, changed = whole
    flipped = bytearray(path.read_bytes())
    flipped[data.draw(st.integers(0, len(flipped) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    changed.write_bytes(flipped)
    refuses(changed)


@settings(RELAXED, max_examples=100)
@given(st.data())
def test_flipped_bits_under_a_right_checksum_give_a_network_or_a_file_error(whole, data):
    path, changed = whole
    tensors, notes = tensorfile.read(path)
    entry = bytearray(tensors["widthwise"].numpy().tobytes())
    at = data.draw(st.integers(0, 600) | st.integers(0, len(entry) - 1))
    entry[min(at, len(entry) - 1)] ^= 1 << data.draw(st.integers(0, 7))
    put(changed, notes, entry)
    try:
        loaded = load(changed, CNN)
    except FileError:
        return
    assert isinstance(loaded, CNN)


@settings(RELAXED, max_examples=200)
@given(st.data())
def test_other_numbers_give_a_network_or_a_file_error(whole, data):
    path, changed = whole
    notes, short, parts = taken_apart(path)
    numbers = short[data.draw(st.sampled_from(["cut", "new", "parts"]))]
    at = data.draw(st.integers(0, len(numbers) - 1))
    numbers[at] = data.draw(st.integers(-9, 99) | st.sampled_from([2**31, 2**62, 2**63, 10**30]))
    rebuilt(changed, notes, short, parts)
    try:
        loaded = load(changed, CNN)
    except FileError:
        return
    assert isinstance(loaded, CNN)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["n", "w", "a", "t", "i", ".x", "."]), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(RELAXED, max_examples=200)
@given(
    name=st.sampled_from(["tree", "cut", "new", "forms", "parts", "full", "widths", "packed"]),
    value=JSON,
)
def test_any_manifest_gives_a_network_or_a_file_error(whole, name, value):
    path, changed = whole
    notes, short, parts = taken_apart(path)
    rebuilt(changed, notes, short | {name: value}, parts)
    try:
        tensors, manifest = read(changed)
    except FileError:
        return
    assert manifest.coded.keys() <= tensors.keys()


@pytest.mark.parametrize("change", [lambda p: p + b"\0", lambda p: p[:-1], lambda p: p * 2])
def test_parts_fill_the_entry(change, whole):
    path, changed = whole
    notes, short, parts = taken_apart(path)
    rebuilt(changed, notes, short, parts)
    assert load(changed, CNN).stem.weight.count_nonzero() > 0
    rebuilt(changed, notes, short, change(parts))
    assert "more or fewer bytes" in refuses(changed)


def test_a_stream_is_exactly_as_long_as_was_noted(whole):
    path, changed = whole
    notes, short, parts = taken_apart(path)
    stream = deflated(json.dumps(short).encode())
    for length, bytes_of in [
        (len(stream), b""), (len(stream), stream[:-1]), (len(stream) - 1, stream),
        (len(stream) + 1, stream + b"\0"), (2**32 - 1, stream), (0, stream), (3, b"\xff\xff\xff"),
    ]:  # fmt: skip
        put(changed, notes, length.to_bytes(4, "little") + bytes_of + parts)
        assert "did not write" in refuses(changed)
    for entry in (b"", b"\1", b"\0\0\0\0"):
        put(changed, notes, entry)
        assert "did not write" in refuses(changed)


def test_small_files_do_not_become_huge(whole):
    """Names, numbers and a stream that promise gigabytes: refused at a few megabytes."""
    path, changed = whole
    notes, short, parts = taken_apart(path)
    deep = '{".x":' * 10**5 + "0" + "}" * 10**5
    wide = {"." + "x" * 10**6: {f".{n}": {"i": 1} for n in range(10**4)}}
    shapes = {".a": {"t": ["F32", *[2**20] * 4]}}
    dense = {"forms": [{"form": "dense", "numbers": 0}], "parts": [0], "cut": [], "new": []}
    texts = [json.dumps(short | more) for more in ({"tree": wide}, {"tree": shapes, **dense})]
    for text in (*texts, json.dumps(short | {"tree": None}).replace("null", deep)):
        stream = deflated(text.encode())
        put(changed, notes, len(stream).to_bytes(4, "little") + stream + parts)
        tracemalloc.start()
        refuses(changed)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert most < 200e6
    bomb = deflated(b" " * 10**9)
    put(changed, notes, len(bomb).to_bytes(4, "little") + bomb)
    tracemalloc.start()
    assert "not as long" in refuses(changed)
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


@pytest.mark.parametrize(
    "changes",
    [
        {"tree": {"n": 3}}, {"tree": {".a": {"x": 1}}}, {"tree": {".a": {"t": ["F32", 2], "i": 1}}},
        {"tree": None}, {"forms": None}, {"forms": []}, {"forms": [{}]}, {"cut": None},
        {"cut": []}, {"cut": [1]}, {"new": []}, {"new": [1] * 99},
        {"parts": []}, {"parts": [True]}, {"parts": [-1]}, {"x": 1}, {"full": {}},
        {"full": None}, {"kind": "pickle"}, {"tied": 3}, {"packed": {}},
    ],
)  # fmt: skip
def test_other_entries_are_refused(changes, whole):
    path, changed = whole
    notes, short, parts = taken_apart(path)
    rebuilt(changed, notes, short | changes, parts)
    assert "did not write" in refuses(changed)


@pytest.mark.parametrize(
    ("notes", "said"),
    [
        ('[4,null,"2","0"]', "newer"), ("[3]", "did not write"), ("[", "did not write"),
        ('[2,null,"2","0"]', "another version"), ('[1,null,"2","0"]', "no version"),
        ('[true,null,"2","0"]', "no version"), ('[3,["a",NaN,"b"],"2","0"]', "NaN"),
        ('[3,["a","1","b"],"2","0"]', "metric"), ('[3,null,2,"0"]', "did not write"),
        ('{"format":"widthwise"}', "did not write"),
    ],
)  # fmt: skip
def test_other_notes_are_refused(notes, said, whole):
    path, changed = whole
    tensorfile.write(changed, tensorfile.read(path)[0], notes)
    assert said in refuses(changed)


def test_other_tensors_are_refused(whole):
    path, changed = whole
    tensors, notes = tensorfile.read(path)
    entry = tensors["widthwise"]
    for other in (
        {}, {"x": entry}, {"widthwise": entry, "x": entry}, {"widthwise": entry.view(torch.int8)},
        {"widthwise": entry[None]},
    ):  # fmt: skip
        tensorfile.write(changed, other, notes)
        assert "other tensors" in refuses(changed)


def test_a_parameter_may_have_the_name_of_the_entry(tmp_path):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.widthwise = nn.Parameter(torch.ones(60, 2, dtype=torch.uint8), requires_grad=False)

    for pack in ("none", "zeros"):
        module = Odd()
        module.widthwise[3:] = 0
        loaded = load(save(module, tmp_path / pack, pack=pack), Odd)
        assert torch.equal(loaded.widthwise, module.widthwise)
        assert (read_manifest(tmp_path / pack).version == 2) == (pack == "zeros")


def test_a_manifest_that_is_too_large_is_not_written(nets, tmp_path, monkeypatch):
    monkeypatch.setattr(container, "MOST", 200)
    module, record = variant(nets[MLP], nets[MLP].full(), quantization.Uniform(2), 0)
    with pytest.raises(FileError, match="split it"):
        save(nets[MLP], tmp_path / "a", module=module, bits=record)
    assert not list(tmp_path.iterdir())
    assert manifest_codec.MOST_NAMES > container.MOST
