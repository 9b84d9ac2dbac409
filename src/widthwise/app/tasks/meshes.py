"""From ModelNet10's meshes to the point clouds that the task `modelnet10` reads.

    sample_meshes(Path("ModelNet10.zip"))     # writes both npz files into the cache folder

Takes some minutes and needs no unpacking: the meshes are read from within the zip.
"""

import operator
import os
import re
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from widthwise.app.tasks.data import cache_folder
from widthwise.errors import DataError

URL = "http://3dvision.princeton.edu/projects/2014/3DShapeNets/ModelNet10.zip"
_MEMBER = re.compile(
    r"ModelNet10/(?P<kind>[a-z_]+)/(?P<part>train|test)/(?P<name>(?P=kind)_\d+)\.off"
)
_LARGEST = 200_000_000  # bytes of one mesh; anything above is no ModelNet10


def sample_meshes(
    archive: str | Path, folder: Path | None = None, points: int = 1024, seed: int = 0
) -> list[Path]:
    """Sample points from the meshes of ModelNet10.zip and write the two npz files of the task.

    archive: the public zip, members ModelNet10/<class>/<train|test>/<class>_<number>.off.
    folder: where to write; None is modelnet10/ in the cache folder.
    points: per shape, uniform by area. seed: the same seed gives the same files.

    Each file holds `points` (N, points, 3) float16, centred on their mean and divided by the
    largest distance from it; `center` (N, 3) and `scale` (N,) float32, which undo that; `labels`
    (N,) uint8, `names` (N,) and `classes` (10 for the whole set).

    Returns the paths written. Raises DataError when the zip is not ModelNet10 or is damaged;
    nothing is written then.
    """
    archive = Path(archive)
    folder = cache_folder() / "modelnet10" if folder is None else folder
    try:
        with zipfile.ZipFile(archive) as opened:
            members = _members(opened)
            parts = {part: _sample(opened, found, points, seed) for part, found in members.items()}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"{archive} cannot be used as ModelNet10 ({error}); download it again from {URL}."
        ) from error
    folder.mkdir(parents=True, exist_ok=True)
    return [_write(folder / f"modelnet10_{part}.npz", arrays) for part, arrays in parts.items()]


def _members(opened: zipfile.ZipFile) -> dict[str, list[re.Match[str]]]:
    """The meshes of "train" and of "test", sorted by class and name."""
    found: dict[str, list[re.Match[str]]] = {"train": [], "test": []}
    for info in opened.infolist():
        match = _MEMBER.fullmatch(info.filename)
        if match is None:
            continue  # a folder, the read-me, or what an archiver left behind
        if info.file_size > _LARGEST:
            raise ValueError(f"{info.filename} unpacks to {info.file_size} bytes")
        found[match["part"]].append(match)
    if not found["train"] or not found["test"]:
        raise ValueError("it lacks ModelNet10/<class>/train/ or ModelNet10/<class>/test/ meshes")
    order = operator.itemgetter("kind", "name")
    return {part: sorted(rows, key=order) for part, rows in found.items()}


def _sample(
    opened: zipfile.ZipFile, members: list[re.Match[str]], points: int, seed: int
) -> dict[str, NDArray[Any]]:
    kinds = sorted({member["kind"] for member in members})
    clouds = np.empty((len(members), points, 3), np.float16)
    center = np.empty((len(members), 3), np.float32)
    scale = np.empty(len(members), np.float32)
    console = Console(stderr=True)
    for i, member in enumerate(track(members, "sampling", console=console, transient=True)):
        try:
            corners = parse_off(opened.read(member.string))
            # Seeded by name, so that a shape's points do not depend on the others in the zip.
            cloud = sample_surface(corners, points, [seed, *member["name"].encode()])
        except ValueError as error:
            raise ValueError(f"{member.string}: {error}") from error
        center[i] = cloud.mean(axis=0)
        cloud -= center[i]
        scale[i] = np.linalg.norm(cloud, axis=1).max()
        clouds[i] = cloud / scale[i]
    return {
        "points": clouds,
        "center": center,
        "scale": scale,
        "labels": np.array([kinds.index(member["kind"]) for member in members], np.uint8),
        "names": np.array([member["name"] for member in members]),
        "classes": np.array(kinds),
    }


def parse_off(text: bytes) -> NDArray[np.float64]:
    """An OFF file -> the corners of its triangles, (F, 3 corners, 3 coordinates) float64.

    Faces with more than three corners are split into a fan. Raises ValueError when the text is
    not a complete OFF mesh.
    """
    if not text.startswith(b"OFF"):
        raise ValueError("it is not an OFF mesh")
    # Some files of the ModelNet family lack the line break after "OFF".
    try:
        numbers = np.array(text[3:].split(), dtype=np.float64)
    except ValueError:
        raise ValueError("it holds something other than numbers") from None
    if len(numbers) < 3 or not np.isfinite(numbers).all():
        raise ValueError("its header is cut short or its numbers are not finite")
    vertices, faces = int(numbers[0]), int(numbers[1])
    end = 3 + 3 * vertices
    if vertices < 3 or faces < 1 or len(numbers) < end + 4 * faces:
        raise ValueError("it is cut short")
    corners = numbers[3:end].reshape(vertices, 3)
    triangles = _triangles(numbers[end:], faces)
    if triangles.min() < 0 or triangles.max() >= vertices:
        raise ValueError("it has a face with a vertex that is not there")
    return corners[triangles]


def _triangles(numbers: NDArray[np.float64], faces: int) -> NDArray[np.int64]:
    """The face list of an OFF file, each `count v1 ... vcount` -> (F, 3) vertex numbers."""
    rows = numbers[: 4 * faces].reshape(faces, 4)
    if (rows[:, 0] == 3).all():  # as in nearly all of ModelNet
        return rows[:, 1:].astype(np.int64)
    found, at = [], 0
    for _ in range(faces):
        count = int(numbers[at]) if at < len(numbers) else 0
        if count < 3 or at + count >= len(numbers):
            raise ValueError("its faces are cut short or have fewer than three corners")
        face = numbers[at + 1 : at + 1 + count].astype(np.int64)
        found += [(face[0], face[k], face[k + 1]) for k in range(1, count - 1)]
        at += 1 + count
    return np.array(found, np.int64)


def sample_surface(
    corners: NDArray[np.float64], points: int, seed: Sequence[int]
) -> NDArray[np.float64]:
    """Points spread uniformly by area over triangles (F, 3, 3) -> (points, 3) float64.

    Raises ValueError when the triangles have no area.
    """
    a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]  # each (F, 3)
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    if not (np.isfinite(area).all() and area.sum() > 0):
        raise ValueError("its surface has no area")
    generator = np.random.default_rng(seed)
    chosen = generator.choice(len(area), size=points, p=area / area.sum())
    # The square root makes the density uniform over a triangle (Osada et al., 2002).
    r = np.sqrt(generator.random((points, 1)))
    s = generator.random((points, 1))
    return (1 - r) * a[chosen] + r * (1 - s) * b[chosen] + r * s * c[chosen]


def _write(path: Path, arrays: dict[str, NDArray[Any]]) -> Path:
    part = path.with_name(f"{path.stem}.{os.getpid()}.part.npz")
    try:
        np.savez_compressed(part, allow_pickle=False, **arrays)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path
