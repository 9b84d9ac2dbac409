"""Save a network at any width, load it with nothing but the file and the user's own class.

    save(net, "half.safetensors", widths=net.widths(0.5))
    small = load("half.safetensors", build=make_model)     # make_model() -> the full-size module

    save(net, "sparse.safetensors", pack="zeros")          # without the zeros, where there are many
    record = quantization.quantize_(net, quantization.Uniform(4))
    save(net, "few.safetensors", bits=record)              # in four bits each

The file holds only the cut tensors. Loading builds the user's model as it always is, sets the
sizes that the cut changed and puts the tensors in; where the class cannot express the cut, its
graph is captured and cut again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, fx, nn

from widthwise.common.units import parse_size
from widthwise.elastic.network import Elastic
from widthwise.errors import BudgetError, FileError
from widthwise.graph.rebuild.module import Patch, held_sizes
from widthwise.quantization.quantized import Quantized
from widthwise.store import inputs, tensorfile
from widthwise.store.install import attributes, expected, installed, tensors_of
from widthwise.store.manifest import Manifest, Measured, from_text, to_text
from widthwise.store.packed import container
from widthwise.store.packed.coded import code_tensors, decode_tensors
from widthwise.store.packed.forms import Parts
from widthwise.store.packed.tensors import Pack, as_they_are, pack_tensors, unpack_tensors
from widthwise.store.progressive.layout import FIRST, progressive
from widthwise.store.progressive.ranges import Begun, on_the_web, opened, whole
from widthwise.store.progressive.reader import Progressive, is_progressive, load_progressive
from widthwise.variant import AnyWidths, Widths

# The sizes of torch's layers that a cut can change; of the user's classes every integer counts.
_LAYER_SIZES = frozenset(
    """embed_dim embedding_dim groups head_dim hidden_size in1_features in2_features in_channels
    in_features input_size kdim normalized_shape num_channels num_embeddings num_features num_groups
    num_heads out_channels out_features proj_size vdim""".split()
)


@dataclass(frozen=True)
class Stored:
    """A network as a file would hold it.

    module: the cut network. tensors: by name, shared ones once. parts: of a packed file, the parts
    of each tensor; none where the tensors are stored as they are. reason: why the cut is a graph
    module; None where it is of the user's class.
    """

    module: nn.Module
    manifest: Manifest
    tensors: Mapping[str, Tensor]
    parts: Mapping[str, Parts] = field(default_factory=dict)
    reason: str | None = None

    @property
    def bytes(self) -> int:
        """Bytes of the file that `save` writes."""
        if self.manifest.version > 1:
            return container.size(self.manifest)
        return tensorfile.size(self.tensors, to_text(self.manifest))

    @property
    def params(self) -> int:
        """Numbers in its parameters; shared ones count once."""
        return sum(t.numel() for t in self.tensors.values() if isinstance(t, nn.Parameter))

    @property
    def data_bytes(self) -> int:
        """How many of them are tensors or their parts: all but the header and the manifest."""
        stored: Iterable[Tensor] = self.tensors.values()
        if self.manifest.version > 1:
            stored = (part for parts in self.parts.values() for part in parts.values())
        return sum(tensor.nbytes for tensor in stored)

    def holding(
        self,
        module: nn.Module | None = None,
        pack: Pack = "none",
        bits: Mapping[str, Quantized] | None = None,
    ) -> Stored:
        """The same cut, not packed yet, with a module's tensors as they are now, packed.

        Nothing is cut again. Arguments are as for `save`. Raises FileError.
        """
        stored = self if module is None else _with_tensors_of(module, self)
        return _packed(stored, pack, bits or {})

    def write(
        self, path: str | os.PathLike[str], metric: Measured | None = None, task: str = ""
    ) -> Path:
        """Write it to one file, whole or not at all; returns the path. Raises FileError."""
        manifest = replace(self.manifest, measured=metric, task=task)
        if manifest.version > 1:
            return container.write(path, manifest, self.parts)
        return tensorfile.write(path, self.tensors, to_text(manifest))


def save(
    net: nn.Module,
    path: str | os.PathLike[str],
    *,
    widths: AnyWidths | None = None,
    module: nn.Module | None = None,
    metric: Measured | None = None,
    pack: Pack = "none",
    bits: Mapping[str, Quantized] | None = None,
    task: str = "",
) -> Path:
    """Write one safetensors file with the network at these widths; returns its path.

    The file appears whole or not at all.

    Args:
        net: an `Elastic`, which is cut to `widths` (or a fraction; full where they are not given).
            Or a module of the user's own class, cut or not, without its network; `widths` is then
            only noted.
        module: the network's cut at these widths, whose tensors are stored in the place of the
            network's, for example fine-tuned. Without one, the network is cut here, as
            `Elastic.cut` does it.
        metric: what was measured of it, noted in the file; it does not change the file's size.
        pack: "zeros" stores tensors without their zeros, each in its smallest form; "zstd"
            compresses that too, and needs the package zstandard. The network that is loaded has the
            same bits.
        bits: what `quantization.quantize_` returned for the network that is stored, whose tensors
            then take as many bits as their codes, and no bytes for zeros where that is smaller.
        task: the task that made it, such as "digits" or "mine.py:task", noted in the file too.

    Raises:
        WidthError: For widths that the network cannot have.
        FileError: When it cannot be written or the network cannot be stored.

    Example:
        save(net, path, widths=w)                   # cut and stored
        save(net, path, widths=w, module=small)     # small = net.cut(w), trained further since
    """
    stored = prepare(net, widths, module, pack, bits)
    if module is None and isinstance(net, Elastic):
        net.engine.recalibrated(stored.module, net.complete(widths or {}))
    return stored.write(path, metric, task)


def load(
    path: str | os.PathLike[str],
    build: Callable[[], nn.Module],
    *,
    max_bytes: int | str | None = None,
) -> nn.Module:
    """The stored network, in eval mode, on the CPU.

    Args:
        path: of a file that `save` or `save_progressive` wrote, or its http or https address.
        build: () -> the user's model at full size; its weights are not used.
        max_bytes: the most that may be read. Of a progressive file it is the widest network in its
            first so many bytes, and no more are read; without it, the widest of all. Of any other
            file on a server, without it, no more are read than the full network would take.

    Raises:
        FileError: When the file is missing, damaged or not one of widthwise, or when it does not
            fit what `build` makes.
        BudgetError: When it holds no network of so few bytes.

    Example:
        load("net.safetensors", make_model)
        load("https://example.org/net.safetensors", make_model, max_bytes="300kB")
    """
    if on_the_web(path):
        return _from_web(str(path), build, None if max_bytes is None else parse_size(max_bytes))
    if is_progressive(path):
        return load_progressive(path, build, max_bytes=max_bytes)
    if max_bytes is not None:
        _small_enough(path, parse_size(max_bytes))
    module = build()
    tensors, manifest = _tensors(*tensorfile.read(path), path, module)
    return installed(module, manifest, tensors, str(path))


def _small_enough(path: str | os.PathLike[str], most: int) -> None:
    """Raise BudgetError for a file of more bytes; one that is missing is for `read` to find."""
    size = Path(path).stat().st_size if Path(path).is_file() else 0
    if size > most:
        raise _too_large(path, size, most)


def _too_large(path: str | os.PathLike[str], size: int, most: int) -> BudgetError:
    return BudgetError(
        f"{path} holds one network of {size} bytes, which is more than {most}; allow as many, or "
        "give a file that save_progressive wrote."
    )


def _from_web(url: str, build: Callable[[], nn.Module], most: int | None) -> nn.Module:
    """As `load`. most: bytes that may be read."""
    with closing(opened(url)) as source:
        first = source.read(0, FIRST if most is None else min(FIRST, most))
        begun = Begun(source, first)
        if progressive(first):
            return Progressive(begun, most).load(build, max_bytes=most)
        module = build()
        held = sum(tensor.nbytes for tensor in tensors_of(module, []).values())
        # Twice, for a cut that has tensors of its own besides, such as biases.
        data = whole(begun, 2 * held + tensorfile.MAX_HEADER if most is None else most)
    if data is None and most is not None:
        raise _too_large(url, source.size or 0, most)
    if data is None:
        raise FileError(
            f"{url} is larger than any network of {type(module).__name__}; check the address, or "
            "allow more with max_bytes."
        )
    tensors, manifest = _tensors(*tensorfile.unpacked(data, url), url, module)
    return installed(module, manifest, tensors, url)


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], Manifest]:
    """The tensors of a file by name, on the CPU, shared ones once, and its manifest.

    Of a progressive file it is the widest network, shared tensors by each of their names.
    Raises FileError.
    """
    if is_progressive(path):
        with Progressive.open(path) as file:
            manifest, tensors = file.read(len(file.levels) - 1)
        return tensors, manifest
    return _tensors(*tensorfile.read(path), path)


def _tensors(
    stored: dict[str, Tensor],
    text: str,
    path: str | os.PathLike[str],
    module: nn.Module | None = None,
) -> tuple[dict[str, Tensor], Manifest]:
    """module: the user's, at full size; nothing larger is then unpacked of a small file."""
    if not container.packed(text):
        return stored, from_text(text, str(path))
    manifest, parts = container.read(stored, text, path)
    if module is not None:
        shapes = {name: form.shape for name, form in manifest.packed.items()}
        shapes |= {name: form.shape for name, form in manifest.coded.items()}
        expected(module, manifest, shapes, str(path))
    tensors = unpack_tensors(manifest.packed, parts, path)
    tensors |= decode_tensors(manifest.coded, parts, path)
    return tensors | {n: torch.tensor(v) for n, v in manifest.scalars.items()}, manifest


def read_manifest(path: str | os.PathLike[str]) -> Manifest:
    """What a file says of itself, after checking that it is whole. Raises FileError."""
    if is_progressive(path):
        return read(path)[1]
    stored, text = tensorfile.read(path)
    if not container.packed(text):
        return from_text(text, str(path))
    return container.read(stored, text, path)[0]


def prepare(
    net: nn.Module,
    widths: AnyWidths | None = None,
    module: nn.Module | None = None,
    pack: Pack = "none",
    bits: Mapping[str, Quantized] | None = None,
) -> Stored:
    """The network at these widths as `save` would store it. Raises WidthError, FileError."""
    return _whole(net, widths).holding(module, pack, bits)


def _packed(stored: Stored, pack: Pack, bits: Mapping[str, Quantized]) -> Stored:
    coded = code_tensors(stored.tensors, bits)
    left = {name: t for name, t in stored.tensors.items() if name not in coded}
    packed = pack_tensors(left, pack)
    if not coded and not packed:
        return stored
    left = {name: t for name, t in left.items() if name not in packed}
    numbers = {name: t for name, t in left.items() if t.dim() == 0 and t.dtype == torch.int64}
    packed |= as_they_are({name: t for name, t in left.items() if name not in numbers})
    manifest = replace(
        stored.manifest,
        packed={name: form for name, (form, _) in packed.items()},
        coded={name: how for name, (how, _) in coded.items()},
        scalars={name: int(t) for name, t in numbers.items()},
    )
    parts = {name: some for name, (_, some) in (packed | coded).items()}
    return replace(stored, manifest=manifest, parts=parts)


def _whole(net: nn.Module, widths: AnyWidths | None) -> Stored:
    """The cut with the network's own tensors, none packed."""
    if isinstance(net, Elastic):
        return _from_net(net, net.complete({} if widths is None else widths))
    if isinstance(net, fx.GraphModule):
        raise FileError(
            "A graph module cannot be stored without the network it was cut from; save it with "
            "save(net, path, widths=widths, module=module)."
        )
    plain = [name for name, t in attributes(net) if t.grad_fn is None]
    tensors, tied = _untied(tensors_of(net, plain))
    manifest = Manifest(
        kind="class",
        class_name=type(net).__name__,
        widths=Widths(widths),  # type: ignore[arg-type]  # refused where it is a fraction
        patches=tuple(_snapshot(net)),
        tied=tied,
    )
    return Stored(net, manifest, tensors)


def _from_net(net: Elastic, widths: Widths) -> Stored:
    module, patches, reason = net.engine.cut(widths)
    known = net.engine.state()
    plain = [name for name, _ in attributes(module) if name in known]
    tensors, tied = _untied(tensors_of(module, plain))
    full = {
        n: tuple(known[n].shape)
        for n, t in tensors.items()
        if n in known and known[n].shape != t.shape
    }
    manifest = Manifest(
        kind="class" if reason is None else "graph",
        class_name=type(net.model).__name__,
        widths=widths,
        sizes=dict(net.full()),
        patches=patches,
        full=full,
        tied=tied,
        inputs=None if reason is None else inputs.describe(net.engine.example()),
        constraints=net.constraints,
        outputs=net.outputs,
    )
    return Stored(module, manifest, tensors, reason=reason)


def _with_tensors_of(module: nn.Module, stored: Stored) -> Stored:
    """The same with another module's tensors, which must be of the same names and sizes."""
    names = {*stored.tensors, *stored.manifest.tied}
    mine = tensors_of(module, [n for n, _ in attributes(module) if n in names])
    tensors = {n: mine[n] for n in stored.tensors if n in mine}
    if mine.keys() != names or any(
        t.shape != stored.tensors[n].shape or t.dtype != stored.tensors[n].dtype
        for n, t in tensors.items()
    ):
        raise FileError(
            "The module is not the network's cut at these widths; pass the widths it was cut to."
        )
    return replace(stored, module=module, tensors=tensors)


def _untied(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Each tensor once, and which further names it has."""
    first: dict[int, str] = {}
    tied: dict[str, str] = {}
    for name, tensor in tensors.items():
        if first.setdefault(id(tensor), name) != name:
            tied[name] = first[id(tensor)]
    return {n: t for n, t in tensors.items() if n not in tied}, tied


def _snapshot(module: nn.Module) -> Iterator[Patch]:
    """The sizes that a module and its layers hold."""
    for patch in held_sizes(module):
        own = not type(module.get_submodule(patch.module)).__module__.startswith("torch.nn.")
        if patch.attribute in _LAYER_SIZES or (own and not patch.attribute.startswith("_")):
            yield patch
