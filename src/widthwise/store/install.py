"""Stored tensors put into the module that the user's own function builds.

The sizes that the cut changed are set; where the class cannot express the cut, its graph is
captured and cut again.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from widthwise.elastic.network import Elastic, NothingToCutWarning
from widthwise.elastic.zeros import mean
from widthwise.errors import FileError, WidthwiseError
from widthwise.graph.rebuild.module import apply_patches, held_sizes
from widthwise.store import inputs
from widthwise.store.manifest import Manifest

_CONSTANTS = 1_000_000  # numbers that a captured graph may hold beside the tensors of its module


def installed(
    module: nn.Module, manifest: Manifest, tensors: Mapping[str, Tensor], path: str
) -> nn.Module:
    """The module, in eval mode, as what is stored says; another one where it is stored as a graph.

    module: the user's at full size, which is changed. tensors: by name, shared ones once. path:
    named in messages. Raises FileError when they do not fit each other.
    """
    try:
        tensors = {**tensors, **{n: tensors[to] for n, to in manifest.tied.items()}}
    except KeyError as error:
        raise FileError(f"{path} lacks the tensor {error}; save it again.") from error
    if manifest.kind == "graph":
        module = _recut(module, manifest, path)
    else:
        _fits(module, manifest, {n: tuple(t.shape) for n, t in tensors.items()}, path)
        _set_sizes(module, manifest, path)
    _install(module, manifest, tensors, path)
    named = dict(module.named_parameters(remove_duplicate=False))
    sparse = [n for n, how in manifest.packed.items() if how.form != "dense" and n in named]
    mean(module, (n for n in sparse if named[n].dim() > 1))
    return module.eval()


def expected(
    module: nn.Module, manifest: Manifest, stored: Mapping[str, tuple[int, ...]], path: str
) -> None:
    """Raise FileError for tensors that are none of this module's, before any of them is read.

    stored: name -> shape, of tensors by each of their names. So nothing is read that is larger than
    the module itself, whatever a file promises.
    """
    mine = tensors_of(module, [name for name, _ in attributes(module)])
    _fits(module, manifest, stored, path)
    made = {name for name in stored if name in mine and _makes(module, name)}
    further = {n: shape for n, shape in stored.items() if n not in mine or n in made}
    if manifest.kind == "class":
        for name in further:
            _holder(module, name, manifest, path)
    most = sum(t.numel() for t in mine.values()) + _CONSTANTS
    if sum(map(math.prod, further.values())) > most:
        raise _misfit(path, manifest, "it has more besides than the model itself")


def tensors_of(module: nn.Module, plain: list[str]) -> dict[str, Tensor]:
    """All parameters and buffers, and the plain attributes named."""
    found: dict[str, Tensor] = dict(module.named_parameters(remove_duplicate=False))
    found |= dict(module.named_buffers(remove_duplicate=False))
    found |= {name: t for name, t in attributes(module) if name in plain}
    return found


def attributes(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Tensors held as plain attributes, by dotted name."""
    for path, sub in module.named_modules():
        for name, value in vars(sub).items():
            if isinstance(value, Tensor):
                yield (f"{path}.{name}" if path else name), value


def _misfit(path: str, manifest: Manifest, problem: str) -> FileError:
    return FileError(
        f"{path} holds {manifest.class_name}, which does not fit what build() makes ({problem}); "
        "pass the function that builds the full-size model it was saved from."
    )


def _fits(
    module: nn.Module, manifest: Manifest, shapes: Mapping[str, tuple[int, ...]], path: str
) -> None:
    """Check that the full-size module is the one that was cut. shapes: of what is stored."""
    mine = tensors_of(module, [name for name, _ in attributes(module)])
    for name in (n for n in mine if n in shapes and not _makes(module, n)):
        here, stored = tuple(mine[name].shape), shapes[name]
        if manifest.full is not None:
            wanted = tuple(manifest.full.get(manifest.tied.get(name, name), stored))
            if here != wanted:
                raise _misfit(path, manifest, f"{name} is {here} there, {wanted} is needed")
        if len(here) != len(stored) or any(n > m for n, m in zip(stored, here, strict=True)):
            raise _misfit(path, manifest, f"{name} is {here} there, {stored} in the file")


def _set_sizes(module: nn.Module, manifest: Manifest, path: str) -> None:
    held = {(patch.module, patch.attribute) for patch in held_sizes(module)}
    for patch in manifest.patches:
        if (patch.module, patch.attribute) not in held:
            name = f"{patch.module}.{patch.attribute}".lstrip(".")
            raise _misfit(path, manifest, f"it has no size {name}")
    apply_patches(module, manifest.patches)


def _recut(full: nn.Module, manifest: Manifest, path: str) -> nn.Module:
    """Capture the full-size module on an example of the stored form, and cut its graph."""
    try:
        args, kwargs = inputs.example(manifest.inputs)
        # The proof was made when the file was: it is needed only where it refused an axis.
        for prove in (False, True):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", NothingToCutWarning)
                net = Elastic(
                    full.eval(),
                    tuple(args),
                    dict(kwargs),
                    prove=prove,
                    constraints=manifest.constraints,
                    outputs=manifest.outputs,
                )
            if dict(net.full()) == dict(manifest.sizes):
                return net.engine.cut(manifest.widths, same_class=False)[0]
    except (ValueError, TypeError, RecursionError) as error:
        raise FileError(
            f"{path} holds inputs that cannot be made ({error}); save it again."
        ) from error
    except WidthwiseError as error:
        raise _misfit(path, manifest, str(error).rstrip(".")) from error
    raise _misfit(path, manifest, "its axes are others")


def _install(
    module: nn.Module, manifest: Manifest, tensors: Mapping[str, Tensor], path: str
) -> None:
    """Put the stored tensors in the place of the module's own; tied ones stay tied."""
    plain = dict(attributes(module))
    mine = tensors_of(module, list(plain))
    missing = [n for n in mine if n not in tensors and n not in plain]
    if missing:
        raise _misfit(path, manifest, f"the file lacks {missing[0]}")
    made: dict[int, Tensor] = {}
    for name, tensor in tensors.items():
        if manifest.kind == "graph" and name not in mine:
            continue  # a table that the saved model had made, and that this graph makes by itself
        holder, last = _holder(module, name, manifest, path)
        old = mine.get(name)
        if old is not None and old.dtype != tensor.dtype:
            types = f"{old.dtype} there, {tensor.dtype} in the file"
            raise _misfit(path, manifest, f"{name} is {types}")
        if old is not None and manifest.kind == "graph" and old.shape != tensor.shape:
            raise _misfit(path, manifest, f"{name} has another shape")
        value = made.get(id(tensor), tensor)
        if old is None and isinstance(value, nn.Parameter):
            raise _misfit(path, manifest, f"it has no tensor {name}")  # tables are no parameters
        if isinstance(old, nn.Parameter) and not isinstance(value, nn.Parameter):
            value = nn.Parameter(value, requires_grad=old.requires_grad)
        made[id(tensor)] = value
        setattr(holder, last, value)


def _holder(module: nn.Module, name: str, manifest: Manifest, path: str) -> tuple[nn.Module, str]:
    """The submodule that holds a tensor of this name, and its name there."""
    where, _, last = name.rpartition(".")
    try:
        holder = module.get_submodule(where)
    except AttributeError:
        raise _misfit(path, manifest, f"it has no {name}") from None
    if not _makes(module, name) and not isinstance(getattr(holder, last, None), Tensor):
        raise _misfit(path, manifest, f"it has no tensor {name}")
    return holder, last


def _makes(module: nn.Module, name: str) -> bool:
    """Whether this may be a table that a module makes for itself, at its first call, say.

    Then it may be absent, None, or of another size in a module that was not called yet.
    """
    where, _, last = name.rpartition(".")
    try:
        holder = module.get_submodule(where)
    except AttributeError:
        return False
    held = last in holder._parameters or last in holder._modules
    if held or not last.isidentifier() or last.startswith("__") or hasattr(type(holder), last):
        return False
    if last in holder._buffers:
        return holder._buffers[last] is None
    return isinstance(vars(holder).get(last), (Tensor, type(None)))
