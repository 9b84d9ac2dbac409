"""Parameters that are sharded over processes (by `fully_shard`), whole where a graph reads them.

    fully_shard(net)         # an Elastic: gathered before its forward, as in any module

An elastic graph reads its tensors by name and never calls the modules that hold them. So what was
sharded with a part of the model, or is read outside of a forward (a cut, a file), is gathered here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Partial, distribute_tensor


def gathered(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """These tensors, sharded ones whole; all processes must ask for them together.

    A gradient is as in data parallel training: each process gets its own shard of the mean over
    the processes.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return tensors
    return [_gathered(t) if isinstance(t, DTensor) else t for t in tensors]


def _gathered(tensor: DTensor) -> Tensor:
    means = [Partial("avg")] * tensor.device_mesh.ndim
    whole: Tensor = tensor.full_tensor(grad_placements=means)
    return whole


@contextmanager
def whole(module: nn.Module) -> Iterator[None]:
    """Inside, a module holds copies of its sharded parameters that are whole; all processes enter.

    What is changed in the copies is lost.
    """
    held = make_whole(module)
    try:
        yield
    finally:
        for part, name, parameter in held:
            part._parameters[name] = parameter


def make_whole(module: nn.Module) -> list[tuple[nn.Module, str, Any]]:
    """Put whole copies in the place of a module's sharded parameters; all processes do.

    Returns what was replaced: the module that held it, its name there, and the parameter.
    """
    held: list[tuple[nn.Module, str, Any]] = [
        (part, name, parameter)
        for part in module.modules()
        for name, parameter in part._parameters.items()
        if isinstance(parameter, DTensor)
    ]
    copies: dict[int, nn.Parameter] = {}  # by parameter, so that tied ones stay tied
    for part, name, parameter in held:
        if id(parameter) not in copies:
            (full,) = gathered([parameter.detach()])
            copies[id(parameter)] = nn.Parameter(full, parameter.requires_grad)
        part._parameters[name] = copies[id(parameter)]
    return held


def summed(tensor: Tensor) -> Tensor:
    """The sum of what all processes give, on the device of this one's; they ask for it together."""
    total = tensor.clone()
    if dist.get_backend() == "nccl":  # which knows no others
        total = total.cuda()
    dist.all_reduce(total)
    return total.to(tensor.device)


def sharded_like(model: Tensor, value: Tensor) -> Tensor:
    """A whole tensor that all processes have, in shards as `model` is, or whole where that is."""
    if not isinstance(model, DTensor):
        return value
    placed = value.to(model.device)
    return distribute_tensor(placed, model.device_mesh, model.placements, src_data_rank=None)
