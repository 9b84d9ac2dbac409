"""What Torch-Pruning, the nearest peer, makes of the same network.

It is asked for half of every channel group, with the layers that make the outputs left whole, as
its manual does for a classifier. It is given nothing by hand (no counts of heads), since widthwise
is given nothing either.
"""

from __future__ import annotations

import time
import warnings
from typing import Any

import torch
import torch.utils._pytree as pytree
import torch_pruning as tp
from bench.zoo.names import VERDICTS
from bench.zoo.network import Made, Network
from torch import Tensor, nn


def judge(network: Network) -> dict[str, Any]:
    """The verdict on one network with seconds, and the share of parameters removed.

    As asked: the network still runs, and at least half of the parameters outside the layers that
    make the outputs is gone. Where the network returns features rather than what a layer makes of
    them, they may have become fewer; "outputs_changed" tells.
    """
    torch.manual_seed(0)
    row: dict[str, Any] = {"name": network.name, "failures": {}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = network.make()
        made[0].eval()
        row.update(_judge(made))
    return row


def _judge(made: Made) -> dict[str, Any]:
    model, args, kwargs = made
    outputs, before = _last_layers(made), _outputs(made)
    full = _parameters(model, outputs)
    row: dict[str, Any] = {}
    began = time.process_time()
    try:
        pruner = tp.pruner.BasePruner(
            model,
            (args, kwargs),
            tp.importance.MagnitudeImportance(),
            pruning_ratio=0.5,
            ignored_layers=outputs,
            forward_fn=lambda m, example: m(*example[0], **example[1]),
            output_transform=_learnt,
        )
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told
        return {"verdict": VERDICTS[3], "reason": _text(error)}
    row["build_seconds"] = round(time.process_time() - began, 3)
    began = time.process_time()
    try:
        pruner.step()
    except Exception as error:  # noqa: BLE001 - the same
        return {**row, "verdict": VERDICTS[4], "reason": _text(error)}
    row["prune_seconds"] = round(time.process_time() - began, 3)
    removed = 1 - _parameters(model, outputs) / full if full else 0.0
    row["removed"] = round(removed, 4)
    try:
        after = _outputs(made)
    except Exception as error:  # noqa: BLE001 - the same
        return {**row, "verdict": VERDICTS[5], "reason": _text(error)}
    row["outputs_changed"] = [t.shape for t in after] != [t.shape for t in before]
    verdict = VERDICTS[2] if removed == 0 else VERDICTS[0] if removed >= 0.5 else VERDICTS[1]
    return {**row, "verdict": verdict}


def _learnt(outputs: Any) -> list[Tensor]:
    """The outputs that depend on parameters, which is what its graph is built from."""
    return [
        t for t in pytree.tree_leaves(outputs) if isinstance(t, Tensor) and t.grad_fn is not None
    ]


def _outputs(made: Made) -> list[Tensor]:
    model, args, kwargs = made
    with torch.no_grad():
        found = model(*args, **kwargs)
    return [t for t in pytree.tree_leaves(found) if isinstance(t, Tensor)]


def _last_layers(made: Made) -> list[nn.Module]:
    """The layers that make outputs, or the last one that runs where none does so directly."""
    model = made[0]
    ran: list[tuple[nn.Module, int]] = []

    def note(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            ran.append((module, output.data_ptr()))

    layers = (nn.Linear, nn.modules.conv._ConvNd)
    hooks = [m.register_forward_hook(note) for m in model.modules() if isinstance(m, layers)]
    try:
        places = {t.data_ptr() for t in _outputs(made)}
    finally:
        for hook in hooks:
            hook.remove()
    found = [module for module, place in ran if place in places]
    return found or [module for module, _ in ran[-1:]]


def _parameters(model: nn.Module, without: list[nn.Module]) -> int:
    left_out = {id(p) for m in without for p in m.parameters()}
    return sum(p.numel() for p in model.parameters() if id(p) not in left_out)


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip()[:300]}"
