"""Cut networks as files: what is read back is the very network that was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from widthwise.app.runs.folder import Run
from widthwise.app.runs.measuring import evaluation, in_batches, same
from widthwise.app.tasks.noted import without_folder
from widthwise.common.atomic import atomic_replace
from widthwise.common.calling import outputs_for
from widthwise.common.modes import evaluating
from widthwise.elastic.network import Elastic
from widthwise.errors import FileError, TrainingError
from widthwise.quantization import Quantized
from widthwise.store.file import load, save
from widthwise.store.manifest import Measured
from widthwise.store.packed.tensors import Pack
from widthwise.task import Splits, Task


def store_checked(
    net: Elastic,
    widths: Mapping[str, int],
    module: nn.Module,
    path: Path,
    task: Task,
    data: Splits,
    pack: Pack = "none",
    bits: Mapping[str, Quantized] | None = None,
    *,
    valid: float | None = None,
) -> dict[str, float]:
    """Store a cut network, read it back, and measure what was read: split -> metric.

    module: the cut of `net` at `widths`, with weights that may have been changed since. pack, bits:
    as `save` takes them. valid: the metric of `module` on validation data, where it is known.

    Raises FileError, leaving what was at `path` before, when the network that is read back is not
    as good as the stored one, and TrainingError for a metric that is no number.
    """
    name = task.metric.name
    value = evaluation(task, data, "test")(module)
    if not math.isfinite(value):
        raise TrainingError(
            f"The {name} on the test split is {value}; look for classes or values that these data "
            "or the network's outputs lack, or give the task another metric."
        )
    with atomic_replace(path) as made:
        noted = Measured(name, value, "test")
        said = without_folder(task.reference)
        save(net, made, widths=widths, module=module, metric=noted, pack=pack, bits=bits, task=said)
        read = load(made, build=task.model)
        if not _alike(module, read, data):
            found = evaluation(task, data, "test")(read)
            if not same(found, value):
                raise FileError(
                    f"The network read back from {path.name} has {name} {found:.6g} and not "
                    f"{value:.6g}; its model's class may keep state that is no parameter or buffer."
                )
        if valid is None:
            valid = evaluation(task, data, "valid")(read)
    return {"valid": valid, "test": value}


def _alike(module: nn.Module, read: nn.Module, data: Splits) -> bool:
    """Whether two networks have the same tensors, and give the same outputs for a batch."""
    ours, theirs = module.state_dict(), read.state_dict()
    if ours.keys() != theirs.keys() or not all(torch.equal(ours[k], theirs[k]) for k in ours):
        return False
    inputs, _ = next(in_batches(data.test)())
    with evaluating(module), evaluating(read):
        given, again = (tree_leaves(outputs_for(m, inputs)) for m in (module, read))
    pairs = zip(given, again, strict=True)
    return all(torch.equal(a, b) for a, b in pairs if isinstance(a, Tensor))


def writable(out: Path) -> None:
    """Raise FileError, before the work is done, where no file can be put or a run has its own."""
    if out.is_dir():
        raise FileError(f"{out} is a folder; give the file to write.")
    if not out.parent.is_dir():
        raise FileError(f"There is no folder {out.parent}; make it, or give another file.")
    run = Run(out.resolve().parent)
    if run.record_file.exists() and out.resolve() in run.files:
        raise FileError(f"{out} belongs to the run in that folder; give another file.")


def inside(path: Path, folder: Path) -> str:
    """The name of a file, relative to the run folder when it lies in it; never a whole path."""
    path, folder = path.resolve(), folder.resolve()
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else path.name
