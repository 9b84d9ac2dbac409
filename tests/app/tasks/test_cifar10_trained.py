"""The CIFAR ResNets that come trained: their network, their weights, their data."""

import hashlib
import io
import pickle
import tarfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import widthwise as ww
from widthwise.app.tasks import cifar10, cifar10_trained, data
from widthwise.app.tasks.cifar10_trained import PaddedBlock, PaddedResNet
from widthwise.app.tasks.data import Published
from widthwise.app.tasks.formats import read_jpegs
from widthwise.app.tasks.resolve import resolve
from widthwise.app.tasks.weights import trained_model
from widthwise.errors import DataError, TaskError
from widthwise.task import Task

Tensors = dict[str, Tensor]


@pytest.fixture(autouse=True)
def _no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of data sets, empty."""
    monkeypatch.setenv("WIDTHWISE_DATA", str(tmp_path))
    (tmp_path / "pretrained").mkdir()
    (tmp_path / "cifar-10").mkdir()
    return tmp_path


# The network.


@pytest.mark.parametrize(("name", "blocks"), [("cifar10-resnet20", 3), ("cifar10-resnet56", 9)])
def test_tensors_are_named_as_published(name: str, blocks: int) -> None:
    norm = ("weight", "bias", "running_mean", "running_var")
    expected = {"conv1.weight", "linear.weight", "linear.bias", *(f"bn1.{n}" for n in norm)}
    for block in (f"layer{s}.{b}" for s in (1, 2, 3) for b in range(blocks)):
        for i in (1, 2):
            expected |= {f"{block}.conv{i}.weight", *(f"{block}.bn{i}.{n}" for n in norm)}
    found = {n for n in resolve(name).model().state_dict() if "num_batches_tracked" not in n}
    assert found == expected


def test_a_shortcut_pads_with_zeros() -> None:
    block = PaddedBlock(4, 8, 2).eval()
    nn.init.zeros_(block.bn2.weight)  # so that only the shortcut is left
    x = torch.rand(2, 4, 6, 6)
    y = block(x)
    assert y.shape == (2, 8, 3, 3)
    assert torch.equal(y[:, 2:6], x[:, :, ::2, ::2])
    assert y[:, :2].abs().max() == y[:, 6:].abs().max() == 0
    same = PaddedBlock(4, 4, 1).eval()
    nn.init.zeros_(same.bn2.weight)
    assert torch.equal(same(x), x)


def test_what_padding_leaves_free() -> None:
    """The stem's channels, which all stages carry on, and what lies inside each block."""
    task = resolve("cifar10-resnet20")
    torch.manual_seed(0)
    net = ww.Elastic(task.model().eval(), task.example())
    inner = {f"layer{s}.{b}.conv1": 8 * 2**s for s in (1, 2, 3) for b in range(3)}
    assert dict(net.widths(1.0)) == {"conv1": 16, **inner}
    widths = {**net.widths(0.5), "conv1": 4}
    small = net.cut(widths)
    assert isinstance(small, PaddedResNet)
    # The zeros stay: 8 and 8 around the stem's four channels, then 16 and 16 around those.
    assert small.linear.in_features == 16 + 8 + 4 + 8 + 16
    (x,) = task.example()
    torch.testing.assert_close(small(x), net.eval()(x, widths=widths), rtol=1e-4, atol=1e-5)


# Weights.


def weights_of(model: nn.Module) -> Tensors:
    """As published files have them: without the counters of batch norms."""
    state = model.state_dict()
    return {n: t for n, t in state.items() if not n.endswith("num_batches_tracked")}


def test_a_trained_model_has_the_weights_of_its_file(folder: Path) -> None:
    task = resolve("cifar10-resnet20")
    torch.manual_seed(1)
    other = task.model()
    other(*task.example())  # moves the batch statistics
    save_file(weights_of(other), folder / "pretrained" / "resnet20-cifar10.safetensors")
    model = trained_model(task)
    assert not model.training
    (x,) = task.example()
    assert torch.equal(model(x), other.eval()(x))


@pytest.mark.parametrize("name", ["cifar10-resnet20", "cifar10-resnet56"])
def test_missing_weights_say_what_to_put_where(folder: Path, name: str) -> None:
    with pytest.raises(DataError, match="were not found") as caught:
        trained_model(resolve(name))
    for told in (
        f"{name.removeprefix('cifar10-')}-cifar10.safetensors",
        str(data.cache_folder() / "pretrained"),
        "WIDTHWISE_DATA",
        "akamaster/pytorch_resnet_cifar10",
        f"pretrained_models/{name.removeprefix('cifar10-')}-",
    ):
        assert told in str(caught.value)


def toy(path: Path) -> Task:
    return replace(resolve("digits"), name="toy", model=small, weights=partial(Path, path))


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def without(*names: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {n: t for n, t in tensors.items() if n not in names}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (without("2.bias"), r"it lacks 2\.bias\)"),
        (without("0.weight", "1.running_var"), r"it lacks 0\.weight and 1 more"),
        (lambda t: {**t, "3.bias": torch.zeros(2)}, r"it has 3\.bias besides\)"),
        (lambda t: {**t, "2.bias": torch.zeros(3)}, r"2\.bias is of shape \(3,\) instead of \(2,"),
        (lambda t: {f"module.{n}": tensor for n, tensor in t.items()}, r"it lacks 0\.weight and"),
        (lambda t: {}, "it lacks"),
    ],
)
def test_weights_of_another_network(
    tmp_path: Path, change: Callable[[Tensors], Tensors], reason: str
) -> None:
    path = tmp_path / "toy.safetensors"
    save_file(weights_of(small()), path)
    trained_model(toy(path))
    save_file(change(weights_of(small())), path)
    with pytest.raises(DataError, match=reason) as caught:
        trained_model(toy(path))
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert "'toy'" in str(caught.value)


def test_damaged_weights(tmp_path: Path) -> None:
    path = tmp_path / "toy.safetensors"
    save_file(weights_of(small()), path)
    whole = path.read_bytes()
    torch.save(small().state_dict(), path)
    for damaged in (whole[:-4], whole[:20], b"", pickle.dumps({}), path.read_bytes()):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="damaged or no safetensors file"):
            trained_model(toy(path))
    path.unlink()
    with pytest.raises(DataError, match="copy it again"):
        trained_model(toy(path))


def test_a_task_without_weights() -> None:
    with pytest.raises(TaskError, match="'digits' comes without trained weights; train it with"):
        trained_model(resolve("digits"))


# Data.


def images(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), np.uint8)


def archive(path: Path, pixels: np.ndarray, labels: list[int]) -> Published:
    """A tiny cifar-10-binary.tar.gz in which every file holds these images."""
    planes = pixels.transpose(0, 3, 1, 2)
    records = b"".join(bytes([y]) + p.tobytes() for p, y in zip(planes, labels, strict=True))
    with tarfile.open(path, "w:gz") as opened:
        for name in (*cifar10.TRAIN_FILES, *cifar10.TEST_FILES):
            info = tarfile.TarInfo(name)
            info.size = len(records)
            opened.addfile(info, io.BytesIO(records))
    body = path.read_bytes()
    sha256 = hashlib.sha256(body).hexdigest()
    return Published("cifar-10", path.name, "https://unused.invalid", sha256, len(body))


def normalised(pixels: np.ndarray) -> Tensor:
    """(N, 32, 32, 3) uint8 -> (N, 3, 32, 32), one colour after the other."""
    x = torch.tensor(pixels).permute(0, 3, 1, 2) / 255
    scaled = [(x[:, c] - cifar10_trained.MEAN[c]) / cifar10_trained.STD[c] for c in range(3)]
    return torch.stack(scaled, dim=1)


def test_original_pixels_from_either_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, path = images(3), folder / "cifar-10" / "train4k_lossless_uint8.npz"
    tiny = archive(folder / "cifar-10" / "cifar-10-binary.tar.gz", pixels, [7, 2, 9])
    monkeypatch.setattr(cifar10, "ARCHIVE", tiny)
    monkeypatch.setattr(cifar10, "_VALID", 5)
    monkeypatch.setattr(cifar10_trained, "LOSSLESS", 2)
    found = cifar10_trained.lossless_train()
    torch.testing.assert_close(found.inputs, normalised(pixels[:2]))
    assert found.targets.tolist() == [7, 2]
    np.savez(path, images=pixels[1:], labels=np.array([2, 9], np.uint8))
    found = cifar10_trained.lossless_train()
    torch.testing.assert_close(found.inputs, normalised(pixels[1:]))
    assert found.targets.tolist() == [2, 9]
    assert found.augment is None
    test = cifar10_trained.load_splits().test
    torch.testing.assert_close(test[0][0], normalised(pixels)[0])


@pytest.mark.parametrize(
    "arrays",
    [
        {"images": images(2)},
        {"images": images(2), "labels": np.zeros(3, np.uint8)},
        {"images": images(2).transpose(0, 3, 1, 2), "labels": np.zeros(2, np.uint8)},
        {"images": images(2) / 255, "labels": np.zeros(2, np.uint8)},
    ],
)
def test_original_pixels_of_another_form(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    np.savez(folder / "cifar-10" / "train4k_lossless_uint8.npz", **arrays)
    with pytest.raises(DataError, match=r"train4k_lossless_uint8\.npz") as caught:
        cifar10_trained.lossless_train()
    assert "delete it to use the original" in str(caught.value)


# With the real files.


@pytest.mark.sample(1)
@pytest.mark.parametrize(("name", "right"), [("cifar10-resnet20", 399), ("cifar10-resnet56", 415)])
def test_the_published_weights_classify(data_folder: Path, name: str, right: int) -> None:
    """Of the first 500 JPEG test images as many as counted before; of original ones nearly all."""
    needed = ("pretrained", "cifar-10/train4k_lossless_uint8.npz", "cifar-10/test_jpeg.npz")
    for missing in (part for part in needed if not (data_folder / part).exists()):
        pytest.skip(f"{data_folder} has no {missing}")
    model = trained_model(resolve(name))
    pixels, labels = read_jpegs(data_folder / "cifar-10" / "test_jpeg.npz", "")
    mean, std = cifar10_trained.MEAN, cifar10_trained.STD
    jpegs = cifar10.tensors(pixels[:500], labels[:500], mean, std)
    originals = cifar10_trained.lossless_train().batch(torch.arange(200))
    with torch.no_grad():
        counts = [int((model(x).argmax(1) == y).sum()) for x, y in (jpegs, originals)]
    assert abs(counts[0] - right) <= 1  # another machine may round another way
    assert counts[1] >= 199
