"""How weights of different tensors should compete: one-shot magnitude pruning of trained networks.

    WIDTHWISE_DATA=... python bench/scopes.py --write       # after the comparison of mnist

Prunes the weights that `prunable` names to the same share of zeros by each scope, without any
training, and evaluates on test data; None where nothing would be left of a tensor. The networks are
that of the comparison of mnist, seed 0, the ResNet-20 that comes with the data, and three that are
trained here for a few epochs. That LAMP is the default was decided on validation data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from common import main
from widthwise.app.compare.layout import channels_last
from widthwise.app.runs.measuring import evaluation
from widthwise.app.runs.sources import find, model_of
from widthwise.app.tasks import BUILT_IN
from widthwise.errors import ScoreError
from widthwise.pruning import held_at_zero, keep
from widthwise.pruning.gradual import prunable
from widthwise.pruning.gradual.compete import SCOPES
from widthwise.task import Task
from widthwise.train.config import RunConfig
from widthwise.train.fit import fit

MNIST: Final = Path(__file__).parents[1] / "build/comparisons/mnist/trained/plain-0.safetensors"
EPOCHS: Final = {"fashion-mnist-mobilenet": 3, "ptb-lstm-small": 2, "multi30k": 4}
NETWORKS: Final = ("mnist", "cifar10-resnet20", *EPOCHS)
SHARES: Final = (0.5, 0.6, 0.7, 0.8)


def trained(name: str, task: Task) -> nn.Module:
    """A whole network."""
    if name not in EPOCHS:
        return model_of(task, find(task, MNIST if name == "mnist" else None)).eval()
    torch.manual_seed(0)
    module = channels_last(task.model().train())
    recipe = replace(task.recipe, epochs=EPOCHS[name])
    fit(
        module, task.splits().train, task.loss, recipe=recipe, run=RunConfig(seed=0, progress=False)
    )
    return module.cpu().eval()


def measured(name: str) -> dict[str, Any]:
    """One network: its metric dense, and by share and scope."""
    task = BUILT_IN[name]()
    module = trained(name, task)
    value = evaluation(task, task.splits(), "test")
    state = {n: t.clone() for n, t in module.state_dict().items()}
    chosen = {*prunable(module)}
    scores = {n: p.detach().abs() for n, p in module.named_parameters() if n in chosen}
    found: dict[str, dict[str, float | None]] = {}
    for share in SHARES:
        row = found[f"{share:g}"] = {}
        for scope in SCOPES:
            module.load_state_dict(state)
            try:
                masks = keep(scores, share, scope=scope)
            except ScoreError:  # nothing would be left of a tensor
                row[scope] = None
                continue
            with held_at_zero(module, masks):
                row[scope] = float(value(module))
            print(name, share, scope, row[scope], flush=True)
    module.load_state_dict(state)
    return {
        "network": name,
        "metric": task.metric.name,
        "higher_is_better": task.metric.higher_is_better,
        "dense": float(value(module)),
        "pruned": found,
    }


def all_networks(only: Sequence[str]) -> list[dict[str, Any]]:
    """Every network."""
    return [measured(name) for name in only]


if __name__ == "__main__":
    raise SystemExit(main(__doc__, "scopes", all_networks, only=NETWORKS))
