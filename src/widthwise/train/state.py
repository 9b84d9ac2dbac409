"""The tensors of a run under way, by name: model, moving average and optimizer."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from widthwise.graph.sharded import gathered, sharded_like
from widthwise.train.ema import Average


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, each tensor once; buffers that are not persistent too."""
    return dict(module.named_parameters()) | dict(module.named_buffers())


def gather(
    module: nn.Module, optimizer: torch.optim.Optimizer, average: Average | None
) -> dict[str, Tensor]:
    """Copies on the CPU of everything that training changes.

    Of sharded tensors, whole ones: all processes must ask for them together.
    """
    named = {f"model/{name}": t for name, t in state_of(module).items()}
    if average is not None:
        named |= {f"average/{name}": t for name, t in state_of(average.model.module).items()}
        named["average_count"] = average.model.n_averaged
    for name, parameter in module.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            named[f"optimizer/{name}/{key}"] = torch.as_tensor(value)
    made = {}
    for name, tensor in named.items():  # one by one, so that no more than one is whole on a GPU
        (full,) = gathered([tensor.detach()])
        made[name] = full.to("cpu", copy=True, memory_format=torch.contiguous_format)
    return made


@torch.no_grad()
def restore(
    tensors: Mapping[str, Tensor],
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: Average | None,
) -> None:
    """Put back what `gather` found, into a module, optimizer and average of the same form."""
    _put(module, "model/", tensors)
    if average is not None:
        _put(average.model.module, "average/", tensors)
        average.model.n_averaged.copy_(tensors["average_count"])
    names = {id(p): name for name, p in module.named_parameters()}
    learning = [p for group in optimizer.param_groups for p in group["params"]]
    order = [names[id(p)] for p in learning]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer/"):
            name, _, part = key.removeprefix("optimizer/").rpartition("/")
            at = order.index(name)
            # What has the parameter's shape is sharded like it; a count of steps is not.
            like = learning[at] if value.shape == learning[at].shape else value
            state.setdefault(at, {})[part] = sharded_like(like, value)
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _put(module: nn.Module, prefix: str, tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in state_of(module).items():
        tensor.copy_(sharded_like(tensor, tensors[prefix + name]))
