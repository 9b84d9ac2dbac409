"""Cut a checkpoint without loading it: tensor by tensor, from safetensors to one smaller file.

    with torch.device("meta"):                          # shapes, no weights
        net = Elastic(make_model(), (x,))
    cut_file(net, "full/", "half.safetensors", widths=net.widths(0.5))
    small = load("half.safetensors", build=make_model)

Of every tensor only the kept rows are read where these are the first ones; memory holds one tensor
at a time. The file is the one that `save` writes of a network with weights.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from widthwise.common.jsonfile import contents, parsed
from widthwise.elastic.network import Elastic
from widthwise.elastic.recalibration import caller, no_data
from widthwise.errors import FileError
from widthwise.graph.slicing import KeptDim, part, simple
from widthwise.store import tensorfile
from widthwise.store.file import prepare
from widthwise.store.manifest import to_text

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


def cut_file(
    net: Elastic,
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    widths: Mapping[str, int],
) -> Path:
    """Cut the weights in `source` to these widths and write them to `path`; returns the path.

    Running statistics (batch norms) stay the full width's, which a StatisticsWarning says.
    Tensors are stored in the types that the model has them in. The file appears whole or not at
    all, and `load` reads it.

    Args:
        net: the elastic network, whose weights are not used and may be on the meta device.
        source: full-size weights under their names in `state_dict()`, as a safetensors file, the
            index of several (model.safetensors.index.json), or a folder that holds either, as
            Hugging Face writes them. Of tied tensors one is enough. What it lacks, such as buffers
            that the model computes for itself, is taken from the model where it has values.

    Raises:
        WidthError: For widths that the network cannot have.
        FileError: When a tensor is missing or of another shape, or a file cannot be read or
            written.
    """
    stored = prepare(net, widths)
    if names := net.engine.statistics(widths):
        remedy = "load the file, give it to recalibrate(module, batches), and save it again"
        warnings.warn(no_data(names, remedy), stacklevel=caller())
    cut = _Cut(net.engine.state(), _files(Path(source)), net.engine.kept(widths), str(source))
    for name in stored.tensors:
        cut.check(name)
    return tensorfile.write_one_by_one(path, stored.tensors, to_text(stored.manifest), cut.tensor)


@dataclass(frozen=True)
class _Cut:
    """Where full-size tensors come from and what is kept of them.

    full: the model's tensors, for their shapes. files: name -> the file that holds it.
    kept: name -> what is kept of its dims. source: named in messages.
    """

    full: Mapping[str, Tensor]
    files: Mapping[str, Path]
    kept: Mapping[str, tuple[KeptDim, ...]]
    source: str

    def check(self, name: str) -> None:
        """Find out before anything is written that a tensor is there and fits."""
        known = self._stored_as(name)
        if known is None:
            if self.full[name].is_meta:
                raise FileError(
                    f"{self.source} lacks {name}, and the model has no values for it; give the "
                    "checkpoint of this model, or a model that holds such buffers on the CPU."
                )
            return
        with _opened(self.files[known]) as file:
            found = tuple(file.get_slice(known).get_shape())
        wanted = tuple(self.full[name].shape)
        if found != wanted:
            raise FileError(
                f"{self.source} holds {known} of shape {found}, but the model's is {wanted}; give "
                "the checkpoint of this model at full size."
            )

    def tensor(self, name: str) -> Tensor:
        """The kept part of a tensor, in the type that the model has it in."""
        full, kept, known = self.full[name], self.kept.get(name, ()), self._stored_as(name)
        with torch.no_grad():
            if known is None:
                value = part(full.detach(), tuple((k.dim, k.layout) for k in kept)).clone()
            else:
                with _opened(self.files[known]) as file:
                    value = _part(file.get_slice(known), full.dim(), kept)
            value = value.to(full.dtype)
            for k in kept:
                if k.scale != 1.0:
                    value *= k.scale
        return value

    def _stored_as(self, name: str) -> str | None:
        """The name of this tensor in the source, where tied ones go by one of their names."""
        if name in self.files:
            return name
        same = (n for n, t in self.full.items() if t is self.full[name] and n in self.files)
        return next(same, None)


def _part(stored: Any, dims: int, kept: tuple[KeptDim, ...]) -> Tensor:
    """Read the kept part of a tensor in a file; dims: how many it has."""
    first = {k.dim: k.layout[0][1] for k in kept if simple(k.layout)}
    read: Tensor = stored[tuple(slice(first.get(d)) for d in range(dims))]
    rest = tuple((k.dim, k.layout) for k in kept if k.dim not in first)
    return part(read, rest).clone(memory_format=torch.contiguous_format)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A safetensors file, open for one tensor only: what was read of it stays in memory till then.

    Raises FileError.
    """
    try:
        with safe_open(path, "pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise FileError(
            f"{path} cannot be read as safetensors ({error}); copy or download it again."
        ) from error


def _files(source: Path) -> dict[str, Path]:
    """Which file holds which tensor. Raises FileError."""
    if source.is_dir():
        found = [source / name for name in (INDEX, SINGLE) if (source / name).is_file()]
        found = found or sorted(source.glob("*.safetensors"))
        if len(found) != 1 and not (found and found[0].name == INDEX):
            raise FileError(
                f"{source} holds {len(found)} safetensors files and no {INDEX}; give the file or "
                "the index."
            )
        source = found[0]
    if source.suffix == ".json":
        return _indexed(source)
    with _opened(source) as file:
        return dict.fromkeys(file.keys(), source)


def _indexed(index: Path) -> dict[str, Path]:
    """The files that an index names, which lie beside it."""
    try:
        table = parsed(contents(index))["weight_map"]
        files = {str(name): str(file) for name, file in table.items()}
    except OSError as error:
        raise FileError(
            f"{index} cannot be read ({error.strerror or error}); copy or download it again."
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileError(
            f"{index} is not an index of safetensors files; copy or download it again."
        ) from error
    outside = [file for file in files.values() if not _beside(file)]
    if outside:
        raise FileError(
            f"{index} names the file {outside[0]!r}, which is not beside it; correct it."
        )
    return {name: index.parent / file for name, file in files.items()}


def _beside(file: str) -> bool:
    """Whether a name is of a file in the same folder, on any system."""
    return file not in ("", ".", "..") and Path(file).name == file and not {*file} & {*"\\:\0"}
