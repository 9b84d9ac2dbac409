"""Where the files of a data set are: the user's folder, the cache, or its public home.

A data set is a folder of files. `fetch` looks for a file in

    $WIDTHWISE_DATA/<data set>/<file>            # if that variable is set
    ~/.cache/widthwise/<data set>/<file>         # or $XDG_CACHE_HOME/widthwise/...

and otherwise downloads it into the cache. A file counts only when its SHA-256 is the published
one, wherever it was found, so that two machines that train on "mnist" train on the same bytes.
What has no download is placed there by hand, and `find` looks for it in the same folders.
"""

import gzip
import hashlib
import http.client
import os
import urllib.error
import urllib.request
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from widthwise.errors import DataError

VARIABLE = "WIDTHWISE_DATA"
_TIMEOUT = 30.0  # seconds without a byte before a download is given up
_CHUNK = 1 << 18  # bytes


@dataclass(frozen=True)
class Published:
    """One file of a public data set: where it lives and what its bytes are.

    data_set: the folder it belongs in, for example "mnist".
    name: its file name.
    url: its public home; must be https.
    sha256: checksum, 64 lower-case hexadecimal digits.
    size: bytes.
    """

    data_set: str
    name: str
    url: str
    sha256: str
    size: int


def cache_folder() -> Path:
    """The folder that downloads are kept in: $XDG_CACHE_HOME/widthwise or ~/.cache/widthwise."""
    # The XDG specification says that a relative path is to be ignored.
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "widthwise"


def folders(data_set: str) -> list[Path]:
    """The folders that may hold `data_set`, first choice first; they need not exist.

    Raises DataError when WIDTHWISE_DATA names something that is not a folder.
    """
    found = [cache_folder() / data_set]
    named = os.environ.get(VARIABLE)
    if named:
        root = Path(named).expanduser()
        if not root.is_dir():
            raise DataError(
                f"{VARIABLE} is set to {named!r}, which is not a folder; set it to the folder that"
                f" holds {data_set}/, or unset it to use {found[0]}."
            )
        found.insert(0, root / data_set)
    return found


def fetch(file: Published) -> Path:
    """The local path of `file`, downloaded into the cache first if it is nowhere else.

    Raises DataError when a local copy has the wrong checksum, or when the download fails; a
    failed download leaves no file behind.
    """
    places = folders(file.data_set)
    for place in places:
        path = place / file.name
        if path.is_file():
            _check(path, file)
            return path
    target = places[-1] / file.name
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _open(file.url) as source:
            _save(source, file, target)
    except urllib.error.HTTPError as error:
        error.close()  # it is the response too, and holds the connection
        raise _unavailable(file, str(error)) from error
    except (OSError, http.client.HTTPException) as error:
        raise _unavailable(file, str(error)) from error
    return target


def content(file: Published) -> bytes:
    """The bytes of `file`; a gzipped copy, called `<name>.gz`, serves as well as the file itself.

    Raises DataError as `fetch` does, and when the copy cannot be unpacked.
    """
    for place in folders(file.data_set):
        packed = place / f"{file.name}.gz"
        if (place / file.name).is_file():
            break
        if packed.is_file():
            return _unpacked(packed, file)
    return fetch(file).read_bytes()


def find(data_set: str, name: str) -> Path | None:
    """The file `name` of `data_set` where it lies, unchecked; None where it does not.

    Raises DataError when WIDTHWISE_DATA names something that is not a folder.
    """
    paths = (folder / name for folder in folders(data_set))
    return next((path for path in paths if path.is_file()), None)


def by_hand(data_set: str) -> str:
    """Where to put a file that is not downloaded, as a part of a sentence."""
    return (
        f"put it into {cache_folder() / data_set} or into {data_set}/ of the folder that"
        f" {VARIABLE} names"
    )


def remedy(file: Published) -> str:
    """What to do about a damaged copy of `file`, as the second half of a sentence."""
    return (
        f"delete it to have {file.name} downloaded from {file.url} into"
        f" {cache_folder() / file.data_set}, or put the right file into {file.data_set}/ of the"
        f" folder that {VARIABLE} names"
    )


def _unavailable(file: Published, reason: str) -> DataError:
    return DataError(
        f"{file.name} of {file.data_set} could not be downloaded from {file.url} ({reason}); run"
        f" again when the connection works, or put that file into"
        f" {cache_folder() / file.data_set}, or into {file.data_set}/ of the folder that"
        f" {VARIABLE} names."
    )


def _check(path: Path, file: Published) -> None:
    try:
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}); make it readable.") from error
    if found != file.sha256:
        raise _altered(path, found, file)


def _unpacked(path: Path, file: Published) -> bytes:
    try:
        data = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be unpacked ({error}); {remedy(file)}.") from error
    found = hashlib.sha256(data).hexdigest()
    if found != file.sha256:
        raise _altered(path, found, file)
    return data


def _altered(path: Path, found: str, file: Published) -> DataError:
    return DataError(
        f"{path} is not the published file (SHA-256 {found[:12]}..., expected"
        f" {file.sha256[:12]}...); {remedy(file)}."
    )


def _open(url: str) -> BinaryIO:
    """The body of an https response. Raises OSError for any other scheme, redirects included."""
    opener = urllib.request.OpenerDirector()
    # The default opener also speaks http, ftp and file, and follows redirects into them.
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    headers = {"User-Agent": "widthwise"}
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - the opener is https only
    response: BinaryIO = opener.open(request, timeout=_TIMEOUT)
    return response


def _save(source: BinaryIO, file: Published, target: Path) -> None:
    """Copy `source` to `target` if its bytes are those published; else raise and leave nothing."""
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    digest, received = hashlib.sha256(), 0
    try:
        with part.open("wb") as sink, progress:
            bar = progress.add_task(f"{file.data_set}/{file.name}", total=file.size)
            # A server that sends without end must not fill the disk.
            while received <= file.size and (chunk := source.read(_CHUNK)):
                sink.write(chunk)
                digest.update(chunk)
                received += len(chunk)
                progress.update(bar, completed=received)
        if received != file.size:
            more = "more than " if received > file.size else f"{received} of "
            raise _unavailable(file, f"the server sent {more}{file.size} bytes")
        if digest.hexdigest() != file.sha256:
            raise _unavailable(file, "the server sent a file with another checksum")
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
