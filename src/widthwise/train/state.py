"""The tensors of a run under way, by name: model, moving average and optimizer."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from widthwise.train.ema import Average


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, each tensor once; buffers that are not persistent too."""
    return dict(module.named_parameters()) | dict(module.named_buffers())


def gather(
    module: nn.Module, optimizer: torch.optim.Optimizer, average: Average | None
) -> dict[str, Tensor]:
    """Copies on the CPU of everything that training changes."""
    named = {f"model/{name}": t for name, t in state_of(module).items()}
    if average is not None:
        named |= {f"average/{name}": t for name, t in state_of(average.model.module).items()}
        named["average_count"] = average.model.n_averaged
    for name, parameter in module.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            named[f"optimizer/{name}/{key}"] = torch.as_tensor(value)
    return {
        name: t.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, t in named.items()
    }


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
    order = [names[id(p)] for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer/"):
            name, _, part = key.removeprefix("optimizer/").rpartition("/")
            state.setdefault(order.index(name), {})[part] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _put(module: nn.Module, prefix: str, tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in state_of(module).items():
        tensor.copy_(tensors[prefix + name])
