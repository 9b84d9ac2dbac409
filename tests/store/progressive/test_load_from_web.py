"""Plain and packed files from a web server, by the line that reads progressive ones."""

import pytest
import torch
from torch import nn

import widthwise as ww
from web_server import serving
from widthwise import quantization
from widthwise.errors import BudgetError, FileError
from widthwise.store.progressive import ranges


class MLP(nn.Module):
    def __init__(self, hidden: int = 40) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(64, hidden), nn.Linear(hidden, 10)

    def forward(self, x):
        return self.fc2(self.fc1(x).relu())


@pytest.fixture
def net():
    torch.manual_seed(0)
    return ww.Elastic(MLP(), (torch.randn(2, 64),))


@pytest.fixture(autouse=True)
def _nearby(monkeypatch):
    monkeypatch.setattr(ranges, "PAUSE", 0.0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def stored(net, folder, form: str) -> bytes:
    path = folder / "net.safetensors"
    small = net.cut({"fc1": 20})
    if form == "bits":
        record = quantization.quantize_(small, quantization.Uniform(4))
        ww.save(net, path, widths={"fc1": 20}, module=small, bits=record)
    else:
        if form == "zeros":
            nn.init.sparse_(small.fc1.weight, 0.9)
        ww.save(net, path, widths={"fc1": 20}, module=small, pack="zeros")
    return path.read_bytes()


@pytest.mark.parametrize("form", ["plain", "zeros", "bits"])
@pytest.mark.parametrize("fault", [None, "whole", "short"])
def test_it_is_the_network_of_the_file(net, tmp_path, form, fault):
    data = stored(net, tmp_path, form)
    here = ww.load(tmp_path / "net.safetensors", MLP)
    with serving(data) as web:
        web.faults = [fault]
        there = ww.load(web.url, MLP)
    for mine, its in zip(here.parameters(), there.parameters(), strict=True):
        assert torch.equal(mine, its)
    assert type(there) is MLP
    assert fault == "short" or len(web.requests) <= 2


def test_a_file_that_is_too_large_is_not_read(net, tmp_path):
    data = stored(net, tmp_path, "plain")
    with serving(data) as web:
        assert ww.load(web.url, MLP, max_bytes=len(data)).fc1.out_features == 20
        web.sent = 0
        with pytest.raises(BudgetError, match=f"{len(data)} bytes, which is more than"):
            ww.load(web.url, MLP, max_bytes=len(data) - 1)
        assert web.sent <= 2048
        web.faults = ["unsized"]
        with pytest.raises(FileError, match="without its size"):
            ww.load(web.url, MLP)
        assert web.sent <= 4096


def test_a_file_larger_than_the_model_is_not_read(net, tmp_path):
    data = stored(net, tmp_path, "plain") + bytes(20 * 10**6)
    with serving(data) as web, pytest.raises(FileError, match="larger than any network of MLP"):
        ww.load(web.url, MLP)
    assert web.sent <= 2048


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d[:-5], "truncated or damaged"),
        (lambda d: d[:-5] + bytes([d[-5] ^ 1]) + d[-4:], "truncated or damaged"),
        (lambda d: b"<html>" * 500, "not written by widthwise"),
        (lambda d: b"", "416"),
    ],
)
def test_what_is_no_whole_file_is_one_sentence(net, tmp_path, change, words):
    with serving(change(stored(net, tmp_path, "plain"))) as web:
        with pytest.raises(FileError, match=words) as said:
            ww.load(web.url, MLP)
        assert web.url in str(said.value)
        assert str(said.value).count(". ") == 0


def test_it_must_fit_the_model_and_be_there(net, tmp_path):
    data = stored(net, tmp_path, "plain")
    with serving(data) as web:
        with pytest.raises(FileError, match="fit"):
            ww.load(web.url, lambda: nn.Linear(64, 10))
        web.faults = ["404"]
        with pytest.raises(FileError, match="404"):
            ww.load(web.url, MLP)
    with pytest.raises(FileError, match="not an address of"):
        ww.load("ftp://127.0.0.1/net.safetensors", MLP)
