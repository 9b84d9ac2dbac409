"""Networks and files that tests of progressive files share, and layouts drawn at random."""

import hashlib
import json
import tracemalloc
import zlib

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from torch import nn

import widthwise as ww
from places import ROOT
from widthwise.errors import FileError

RELAXED = settings(deadline=None, suppress_health_check=list(HealthCheck))


EXAMPLE, FORMAT = ROOT / "examples" / "numpy_loader.py", ROOT / "docs" / "format.md"


FACTOR = st.tuples(st.integers(1, 4)).map(lambda n: ("axis", n[0])) | st.integers(1, 3)


TENSORS = {
    "0.bias": ["F32", -1], "0.weight": ["F32", -1, 2],
    "2.bias": ["F32", 1], "2.weight": ["F32", 1, -1],
}  # fmt: skip


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["0", "0.bias", "2"]), inner, max_size=3)
    ),
    max_leaves=8,
)


class MLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(784, 256), nn.Linear(256, 256)
        self.fc3 = nn.Linear(256, 10)

    def forward(self, x):
        return self.fc3(torch.relu(self.fc2(torch.relu(self.fc1(x.flatten(1))))))


class CNN(nn.Module):
    """Convolutions with batch norms."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32)
        self.conv, self.norm2 = nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64)
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        x = torch.relu(self.norm2(self.conv(torch.relu(self.norm(self.stem(x))))))
        return self.head(x.mean((2, 3)))


def levels_of(net, levels=8):
    """Widths of even steps on a logarithmic scale, to full."""
    found = [net.widths(2 ** (-0.5 * k)) for k in reversed(range(levels))]
    return list(dict.fromkeys(found))


def elastic(build, x):
    torch.manual_seed(0)
    module = build().eval()
    for name, tensor in module.state_dict().items():
        tensor.fill_(391) if tensor.dim() == 0 else tensor.add_(0.1 * torch.randn_like(tensor))
        if name.endswith("running_var"):
            tensor.abs_().add_(0.5)
    return ww.Elastic(module, (x,))


@st.composite
def layouts(draw):
    """A tensor's shape, and what two levels and the full width keep of each of its dims."""
    axes = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    widths = [[*sorted(draw(st.integers(1, n)) for _ in range(2)), n] for n in axes]
    factor = st.integers(-len(axes), -1) | st.integers(1, 3)
    simple = st.lists(factor, max_size=2)
    dims = draw(st.lists(st.lists(factor | st.lists(simple, min_size=1, max_size=2), max_size=2),
                         max_size=3))  # fmt: skip
    return axes, widths, dims


def terms_layout(dim, axes):
    from widthwise.store.progressive.dim_codec import layout_as

    return layout_as(dim, axes)


def build_tiny():
    return nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))


def again(small, change=lambda body: None, entries=lambda header: None, notes=None, pad=None):
    """The tiny file with another manifest or header, under right checksums."""
    data, path = small
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    size = header["widthwise"]["shape"][0]
    body = json.loads(zlib.decompressobj(-15).decompress(data[8 + length : 8 + length + size]))
    body = change(body) or body
    maker = zlib.compressobj(9, zlib.DEFLATED, -15)
    stream = maker.compress(json.dumps(body).encode()) + maker.flush()
    stream += b"\0" * (-len(stream) % 8) if pad is None else pad
    for entry in header.values():
        if "data_offsets" in entry:
            entry["data_offsets"] = [n + len(stream) - size for n in entry["data_offsets"]]
    header["widthwise"] |= {"shape": [len(stream)], "data_offsets": [0, len(stream)]}
    header["__metadata__"] = {
        "progressive": "0" * 64, "widthwise": notes or header["__metadata__"]["widthwise"],
    }  # fmt: skip
    header = entries(header) or header
    text = json.dumps(header, separators=(",", ":")).encode()
    start = len(text).to_bytes(8, "little") + text + stream
    digest = hashlib.sha256(start).hexdigest().encode()
    path.write_bytes(start[:40] + digest + start[104:] + data[8 + length + size :])
    return path


def refuses(path):
    tracemalloc.start()
    with pytest.raises(FileError) as raised:
        ww.load(path, build_tiny)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 100e6
    assert "\n" not in str(raised.value)
    return str(raised.value)
