"""Finding, downloading and reading data files; every reader is shown damaged bytes."""

import gzip
import hashlib
import http.server
import io
import socketserver
import tarfile
import threading
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from widthwise.app.tasks import cifar10, data, formats, meshes, mnist, modelnet10, nsl_kdd
from widthwise.app.tasks.arrays import Arrays, stratified
from widthwise.app.tasks.data import Published
from widthwise.errors import DataError

BODY = b"the bytes of the data set"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, and no WIDTHWISE_DATA."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("WIDTHWISE_DATA", raising=False)
    return tmp_path / "xdg" / "widthwise"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A local server: /good answers BODY, /short announces more than it sends, /moved redirects."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/moved":
                self.send_response(302)
                self.send_header("Location", "/good")
                self.end_headers()
                return
            if self.path not in ("/good", "/short"):
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(BODY)))
            self.end_headers()
            self.wfile.write(BODY if self.path == "/good" else BODY[:7])

        def log_message(self, *args: object) -> None:
            pass

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


@pytest.fixture
def plain_http(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `fetch` talk to the local server, which has no certificate."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    monkeypatch.setattr(data, "_open", lambda url: opener.open(url, timeout=5))


def published(url: str, body: bytes = BODY) -> Published:
    return Published("toy", "toy.bin", url, hashlib.sha256(body).hexdigest(), len(body))


def files_under(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


# Where files are looked for.


def test_user_folder_comes_before_the_cache(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WIDTHWISE_DATA", str(tmp_path))
    assert data.folders("toy") == [tmp_path / "toy", cache / "toy"]
    for folder in data.folders("toy"):
        folder.mkdir(parents=True)
        (folder / "toy.bin").write_bytes(BODY)
    assert data.fetch(published("https://unused.invalid")) == tmp_path / "toy" / "toy.bin"


def test_relative_xdg_cache_home_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert data.cache_folder() == Path.home() / ".cache" / "widthwise"


def test_data_variable_that_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WIDTHWISE_DATA", str(tmp_path / "typo"))
    with pytest.raises(DataError, match=r"WIDTHWISE_DATA is set to .*typo"):
        data.fetch(published("https://unused.invalid"))


def test_local_file_with_another_checksum_is_refused_and_kept(cache: Path) -> None:
    (cache / "toy").mkdir(parents=True)
    (cache / "toy" / "toy.bin").write_bytes(BODY[:-1])
    with pytest.raises(DataError, match="not the published file") as caught:
        data.fetch(published("https://example.invalid/toy.bin"))
    for named in ("WIDTHWISE_DATA", str(cache / "toy"), "https://example.invalid/toy.bin"):
        assert named in str(caught.value)
    assert (cache / "toy" / "toy.bin").read_bytes() == BODY[:-1]


def test_a_gzipped_copy_serves_as_well(tmp_path: Path, cache: Path) -> None:
    file = published("https://unused.invalid")
    (cache / "toy").mkdir(parents=True)
    packed = cache / "toy" / "toy.bin.gz"
    packed.write_bytes(gzip.compress(BODY))
    assert data.content(file) == BODY
    (cache / "toy" / "toy.bin").write_bytes(BODY)
    packed.write_bytes(b"the file itself comes first")
    assert data.content(file) == BODY


@pytest.mark.parametrize(
    ("packed", "reason"),
    [
        (gzip.compress(BODY, mtime=0)[:-9], "cannot be unpacked"),
        (gzip.compress(BODY, mtime=0)[:15] + bytes(40), "cannot be unpacked"),
        (BODY, "cannot be unpacked"),
        (gzip.compress(BODY[::-1], mtime=0), "not the published file"),
    ],
)
def test_a_damaged_gzipped_copy_is_refused(cache: Path, packed: bytes, reason: str) -> None:
    (cache / "toy").mkdir(parents=True)
    (cache / "toy" / "toy.bin.gz").write_bytes(packed)
    with pytest.raises(DataError, match=reason) as caught:
        data.content(published("https://unused.invalid"))
    assert "toy.bin.gz" in str(caught.value)
    assert "https://unused.invalid" in str(caught.value)


def test_finding_what_is_put_there_by_hand(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WIDTHWISE_DATA", str(tmp_path))
    assert data.find("toy", "toy.bin") is None
    for folder in reversed(data.folders("toy")):
        folder.mkdir(parents=True)
        (folder / "toy.bin").write_bytes(BODY)
        assert data.find("toy", "toy.bin") == folder / "toy.bin"
    assert str(cache / "toy") in data.by_hand("toy")


# Downloading.


@pytest.mark.usefixtures("plain_http")
@pytest.mark.parametrize("page", ["/good", "/moved"])
def test_download_lands_in_the_cache(server: str, cache: Path, page: str) -> None:
    path = data.fetch(published(server + page))
    assert path == cache / "toy" / "toy.bin"
    assert path.read_bytes() == BODY
    assert files_under(cache) == [path]
    # The second time nothing is asked of the network.
    assert data.fetch(published("https://unused.invalid")) == path


@pytest.mark.usefixtures("plain_http")
@pytest.mark.parametrize(
    ("page", "body", "reason"),
    [
        ("/good", BODY[::-1], "another checksum"),
        ("/good", BODY + b"!", "25 of 26 bytes"),
        ("/good", BODY[:5], "more than 5 bytes"),
        ("/short", BODY, "7 of 25 bytes"),
        ("/missing", BODY, "404"),
    ],
)
def test_failed_download_leaves_nothing(
    server: str, cache: Path, page: str, body: bytes, reason: str
) -> None:
    with pytest.raises(DataError, match=reason) as caught:
        data.fetch(published(server + page, body))
    for named in ("WIDTHWISE_DATA", str(cache / "toy"), server + page):
        assert named in str(caught.value)
    assert files_under(cache) == []


def test_interrupted_download_leaves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell():
                raise KeyboardInterrupt
            return super().read(3)

    monkeypatch.setattr(data, "_open", lambda url: Interrupted(BODY))
    with pytest.raises(KeyboardInterrupt):
        data.fetch(published("https://unused.invalid"))
    assert files_under(cache) == []


@pytest.mark.parametrize("scheme", ["http", "ftp", "file"])
def test_only_https_is_spoken(server: str, cache: Path, scheme: str) -> None:
    with pytest.raises(DataError, match=f"unknown url type: {scheme}"):
        data.fetch(published(server.replace("http", scheme) + "/good"))
    assert files_under(cache) == []


def test_unwritable_cache_is_explained(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.parent.mkdir()
    cache.write_bytes(b"a file where the folder should be")
    with pytest.raises(DataError, match="could not be downloaded"):
        data.fetch(published("https://unused.invalid"))


def test_published_files_are_https_with_whole_checksums() -> None:
    files = (
        *mnist.MNIST_FILES, *mnist.FASHION_FILES, cifar10.ARCHIVE, nsl_kdd.TRAIN, nsl_kdd.TEST_PLUS
    )  # fmt: skip
    assert len({file.sha256 for file in files}) == 11
    for file in files:
        assert file.url.startswith("https://")
        assert urllib.parse.unquote(file.url).endswith(file.name)
        assert len(file.sha256) == 64
        assert int(file.sha256, 16)


# Formats.

IDX = bytes.fromhex("00000803 00000002 00000001 00000003 010203 0405ff")


def test_idx_golden_bytes() -> None:
    found = formats.parse_idx(IDX)
    assert found.dtype == np.uint8
    assert found.tolist() == [[[1, 2, 3]], [[4, 5, 255]]]


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        IDX[:3],
        IDX[:10],
        IDX[:-1],
        IDX + b"\0",
        b"\x89PNG" + IDX,
        bytes.fromhex("00000d01 00000001 3f800000"),  # floats
        bytes.fromhex("00000803 ffffffff ffffffff ffffffff"),
    ],
)
def test_idx_damaged_bytes(damaged: bytes, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="it"):
        formats.parse_idx(damaged)
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(damaged))
    with pytest.raises(DataError, match=r"x\.gz is damaged or of another kind .*; do this"):
        formats.read_idx(path, "do this")


def test_idx_file(tmp_path: Path) -> None:
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(IDX))
    assert formats.read_idx(path, "").shape == (2, 1, 3)
    for damaged in (path.read_bytes()[:-9], path.read_bytes()[:5], IDX):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="damaged"):
            formats.read_idx(path, "")


def cifar_archive(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def test_cifar_records(tmp_path: Path) -> None:
    pixels = np.arange(3 * 32 * 32, dtype=np.uint8).tobytes()
    path = tmp_path / "c.tar.gz"
    cifar_archive(path, {"a.bin": b"\x07" + pixels, "b.bin": b"\x02" + pixels[::-1]})
    images, labels = formats.read_cifar(path, ("b.bin", "a.bin"), "")
    assert labels.tolist() == [2, 7]
    assert images.shape == (2, 3, 32, 32)
    assert images[1, 0, 0, :3].tolist() == [0, 1, 2]  # the red plane comes first, row by row
    with pytest.raises(DataError, match="damaged"):
        formats.read_cifar(path, ("missing.bin",), "")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match="damaged"):
        formats.read_cifar(path, ("a.bin", "b.bin"), "")


@pytest.mark.parametrize("content", [b"", b"\x07" * 3072, b"\x0a" * 3073])
def test_cifar_damaged_records(content: bytes) -> None:
    with pytest.raises(ValueError, match="it"):
        formats.parse_records(content)


def test_npz_reader_refuses_python_objects_and_damage(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, good=np.arange(3), bad=np.array([{"code": 1}], dtype=object))
    assert formats.read_npz(path, ("good",), "")[0].tolist() == [0, 1, 2]
    for names in (("bad",), ("absent",)):
        with pytest.raises(DataError, match="damaged"):
            formats.read_npz(path, names, "")
    whole = path.read_bytes()
    for damaged in (whole[:-30], whole[: len(whole) // 2], b"", b"\x80\x04N."):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="damaged"):
            formats.read_npz(path, ("good",), "")
    with pytest.raises(DataError, match="damaged"):
        formats.read_npz(tmp_path / "absent.npz", ("good",), "")


def jpeg(value: int, size: tuple[int, int] = (32, 32)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, (value, 0, 0)).save(stream, "JPEG")
    return stream.getvalue()


def save_jpegs(path: Path, blobs: list[bytes], labels: list[int]) -> None:
    np.savez(
        path,
        jpeg=np.frombuffer(b"".join(blobs), np.uint8),
        offset=np.cumsum([0, *map(len, blobs)]),
        labels=np.array(labels, np.uint8),
    )


def test_jpegs(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    save_jpegs(path, [jpeg(250), jpeg(10)], [3, 4])
    images, labels = formats.read_jpegs(path, "")
    assert images.shape == (2, 3, 32, 32)
    assert labels.tolist() == [3, 4]
    assert abs(images[:, 0].mean(axis=(1, 2)) - (250, 10)).max() < 5
    assert images[:, 1:].max() < 10
    for blobs in ([jpeg(1), jpeg(1, (16, 16))], [jpeg(1), b"no image"], [jpeg(1), jpeg(1)[:200]]):
        save_jpegs(path, blobs, [0, 0])
        with pytest.raises(DataError, match="damaged"):
            formats.read_jpegs(path, "")
    save_jpegs(path, [jpeg(1)], [0, 0])
    with pytest.raises(DataError, match="offsets"):
        formats.read_jpegs(path, "")


# Tasks whose data is found in a folder, on tiny files.


def test_cifar_uses_the_jpeg_copy_of_the_user_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WIDTHWISE_DATA", str(tmp_path))
    monkeypatch.setattr(cifar10, "_VALID", 1)
    (tmp_path / "cifar-10").mkdir()
    save_jpegs(tmp_path / "cifar-10" / "train_jpeg.npz", [jpeg(9)] * 3, [0, 1, 2])
    with pytest.raises(DataError, match=r"test_jpeg\.npz"):
        cifar10.load_splits()
    save_jpegs(tmp_path / "cifar-10" / "test_jpeg.npz", [jpeg(9)] * 2, [3, 4])
    splits = cifar10.load_splits()
    assert [part.targets.tolist() for part in arrays(splits)] == [[0, 1], [2], [3, 4]]


def test_cifar_prefers_the_original_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = bytes(3073)
    path = tmp_path / "cifar-10" / cifar10.ARCHIVE.name
    path.parent.mkdir()
    save_jpegs(path.parent / "train_jpeg.npz", [jpeg(9)] * 3, [0, 1, 2])
    cifar_archive(path, dict.fromkeys((*cifar10.TRAIN_FILES, *cifar10.TEST_FILES), record * 2))
    body = path.read_bytes()
    sha256 = hashlib.sha256(body).hexdigest()
    tiny = Published("cifar-10", path.name, "https://unused.invalid", sha256, len(body))
    monkeypatch.setattr(cifar10, "ARCHIVE", tiny)
    monkeypatch.setattr(cifar10, "_VALID", 4)
    monkeypatch.setenv("WIDTHWISE_DATA", str(tmp_path))
    assert [len(part) for part in arrays(cifar10.load_splits())] == [6, 4, 2]


def arrays(splits: object) -> list[Arrays]:
    found = [getattr(splits, part) for part in ("train", "valid", "test")]
    assert all(isinstance(part, Arrays) for part in found)
    return found


def test_modelnet_missing_or_of_another_shape(cache: Path) -> None:
    with pytest.raises(DataError, match="was not found") as caught:
        modelnet10.load_splits()
    for named in ("WIDTHWISE_DATA", str(cache / "modelnet10"), meshes.URL, "sample_meshes"):
        assert named in str(caught.value)
    (cache / "modelnet10").mkdir(parents=True)
    path = cache / "modelnet10" / "modelnet10_train.npz"
    np.savez(path, points=np.zeros((5, 9, 3), np.float16), labels=np.zeros(5, np.uint8))
    with pytest.raises(DataError, match=r"\(5, 9, 3\)"):
        modelnet10.load_splits()


# Meshes.

SQUARE = b"OFF\n4 1 0\n0 0 0\n2 0 0\n2 2 0\n0 2 0\n4 0 1 2 3\n"
# Two triangles far apart, the second nine times as large; no line break after OFF.
TRIANGLES = b"OFF6 2 0\n0 0 0\n1 0 0\n0 1 0\n9 0 0\n12 0 0\n9 3 0\n3 0 1 2\n3 3 4 5\n"


def test_off_faces() -> None:
    assert meshes.parse_off(TRIANGLES).shape == (2, 3, 3)
    fan = meshes.parse_off(SQUARE)
    assert fan.tolist() == [
        [[0, 0, 0], [2, 0, 0], [2, 2, 0]],
        [[0, 0, 0], [2, 2, 0], [0, 2, 0]],
    ]


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"PLY",
        b"OFF\n4 1",
        SQUARE[:-6],
        SQUARE[:20],
        TRIANGLES[:-2],
        SQUARE.replace(b"4 0 1 2 3", b"4 0 1 2 4"),
        SQUARE.replace(b"4 0 1 2 3", b"4 0 1 2 -1"),
        SQUARE.replace(b"4 0 1 2 3", b"2 0 1 2 3"),
        SQUARE.replace(b"2 2 0", b"2 x 0"),
        b"OFF\n-4 1 0\n",
        b"OFF\nnan 1 0\n" + b"0 " * 30,
    ],
)
def test_off_damaged(damaged: bytes) -> None:
    with pytest.raises(ValueError, match="it"):
        meshes.parse_off(damaged)


def test_points_are_uniform_by_area() -> None:
    points = meshes.sample_surface(meshes.parse_off(TRIANGLES), 20_000, [0])
    far = points[points[:, 0] > 5]
    assert abs(len(far) / 20_000 - 0.9) < 0.01
    # The mean of uniform points is the centroid of the triangle.
    assert np.abs(far.mean(axis=0) - (10, 1, 0)).max() < 0.02
    assert (far[:, 0] - 9 + far[:, 1] <= 3 + 1e-9).all()
    assert far.min() >= 0
    with pytest.raises(ValueError, match="no area"):
        meshes.sample_surface(np.zeros((2, 3, 3)), 10, [0])


def mesh_zip(path: Path, extra: dict[str, bytes] | None = None) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("bed/train/bed_0002", "bed/train/bed_0001", "sofa/train/sofa_0001"):
            archive.writestr(f"ModelNet10/{name}.off", SQUARE)
        archive.writestr("ModelNet10/sofa/test/sofa_0009.off", TRIANGLES)
        archive.writestr("ModelNet10/bed/test/bed_0009.off", TRIANGLES)
        for name, content in (extra or {}).items():
            archive.writestr(name, content)
    return path


def test_sampling_a_zip_of_meshes(tmp_path: Path, cache: Path) -> None:
    ignored = {"ModelNet10/README.txt": b"", "ModelNet10/../bed/train/bed_0003.off": b"", "x": b""}
    archive = mesh_zip(tmp_path / "ModelNet10.zip", ignored)
    paths = meshes.sample_meshes(archive)
    assert paths == [cache / "modelnet10" / f"modelnet10_{part}.npz" for part in ("train", "test")]
    assert sorted(files_under(tmp_path)) == sorted([archive, *paths])
    with np.load(paths[0], allow_pickle=False) as found:
        assert found["points"].shape == (3, 1024, 3)
        assert found["points"].dtype == np.float16
        assert found["names"].tolist() == ["bed_0001", "bed_0002", "sofa_0001"]
        assert found["labels"].tolist() == [0, 0, 1]
        assert found["classes"].tolist() == ["bed", "sofa"]
        points = found["points"].astype(np.float64)
        radius = np.linalg.norm(points, axis=2).max(axis=1)
        assert np.abs(radius - 1).max() < 1e-3
        assert np.abs(points.mean(axis=1)).max() < 1e-3
        original = points * found["scale"][:, None, None] + found["center"][:, None]
        assert original.min() > -0.01
        assert original.max() < 2.01
    first = paths[0].read_bytes()
    again = meshes.sample_meshes(archive, tmp_path / "again")
    for name, value in np.load(again[0]).items():
        assert np.array_equal(value, np.load(io.BytesIO(first))[name])


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.write_bytes(b"no zip"), "not a zip"),
        (lambda path: zipfile.ZipFile(path, "w").close(), "lacks"),
        (lambda path: mesh_zip(path, {"ModelNet10/bed/train/bed_0007.off": b"OFF"}), "bed_0007"),
        (lambda path: None, "No such file"),
    ],
)
def test_unusable_zip_writes_nothing(
    make: Callable[[Path], object], reason: str, tmp_path: Path, cache: Path
) -> None:
    make(tmp_path / "ModelNet10.zip")
    with pytest.raises(DataError, match=reason):
        meshes.sample_meshes(tmp_path / "ModelNet10.zip")
    assert files_under(cache) == []


def test_oversized_mesh_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meshes, "_LARGEST", 10)
    with pytest.raises(DataError, match="unpacks to"):
        meshes.sample_meshes(mesh_zip(tmp_path / "ModelNet10.zip"))


# Arrays.


def test_arrays_batch_equals_single_items() -> None:
    data = Arrays(torch.randn(6, 2, 3), torch.arange(6), augment=torch.neg)
    inputs, targets = data.batch(torch.tensor([4, 0, 4]))
    assert targets.tolist() == [4, 0, 4]
    for row, index in zip(inputs, targets.tolist(), strict=True):
        assert torch.equal(row, data[index][0])
        assert torch.equal(row, -data.inputs[index])
    assert len(data) == 6
    with pytest.raises(IndexError):
        data[6]
    with pytest.raises(ValueError, match="6 inputs but 5 targets"):
        Arrays(data.inputs, data.targets[:5])


def test_stratified_parts() -> None:
    targets = torch.tensor([0] * 40 + [1] * 20 + [3] * 10)[torch.randperm(70)]
    parts = stratified(targets, (0.5, 0.2), seed=1)
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(70))
    for part, share in zip(parts, (0.5, 0.2, 0.3), strict=True):
        counts = torch.bincount(targets[part], minlength=4).tolist()
        assert counts == [round(share * n) for n in (40, 20, 0, 10)]
    assert all(map(torch.equal, parts, stratified(targets, (0.5, 0.2), seed=1)))
    assert not torch.equal(parts[0], stratified(targets, (0.5, 0.2), seed=2)[0])


def test_crop_and_flip_is_a_shifted_or_mirrored_image() -> None:
    images = torch.rand(40, 3, 32, 32) + 1  # no zeros, so that the filling is told apart
    torch.manual_seed(0)
    found = cifar10.crop_and_flip(images)
    torch.manual_seed(0)
    assert torch.equal(found, cifar10.crop_and_flip(images))
    mirrored = 0
    for before, after in zip(images, found, strict=True):
        padded = torch.nn.functional.pad(before, (4, 4, 4, 4))
        crops = padded.unfold(1, 32, 1).unfold(2, 32, 1)  # (3, 9, 9, 32, 32)
        plain = (crops == after[:, None, None]).all(dim=(0, 3, 4)).any()
        flipped = (crops == after.flip(-1)[:, None, None]).all(dim=(0, 3, 4)).any()
        assert plain ^ flipped
        mirrored += int(flipped)
    assert 8 < mirrored < 32


def test_turning_keeps_heights_and_distances_from_the_axis() -> None:
    torch.manual_seed(0)
    points = torch.randn(5, 3, 200)
    found = modelnet10.turn_and_jitter(points)
    assert (found[:, 2] - points[:, 2]).abs().max() <= 0.05 + 1e-6
    assert (found[:, :2].norm(dim=1) - points[:, :2].norm(dim=1)).abs().max() < 0.075
    turns = torch.atan2(found[:, 1, 0], found[:, 0, 0]) - torch.atan2(
        points[:, 1, 0], points[:, 0, 0]
    )
    assert turns.std() > 0.1
