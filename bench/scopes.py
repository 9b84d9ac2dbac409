"""How weights of different tensors should compete: one-shot magnitude pruning of trained networks.

    WIDTHWISE_DATA=... python bench/scopes.py --write       # after bench/ladders.py, comparisons.py

Prunes the weights that `prunable` names to the same share of zeros by each scope, without any
training, and evaluates on test data; None where nothing would be left of a tensor. The networks are
the full dense ones of the ladders and of the comparison, seed 0, and the ResNet-20 that comes with
the data. That LAMP is the default for magnitudes was decided on validation data.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Final

import torch

from common import record
from widthwise.app.runs.measuring import evaluation
from widthwise.app.runs.sources import find, model_of
from widthwise.app.tasks import BUILT_IN
from widthwise.errors import ScoreError
from widthwise.pruning import held_at_zero, keep
from widthwise.pruning.gradual import prunable
from widthwise.pruning.gradual.compete import SCOPES

BUILD: Final = Path(__file__).parents[1] / "build"
NETWORKS: Final = {
    "mnist": BUILD / "comparisons" / "mnist" / "trained" / "plain-0.safetensors",
    "cifar10-resnet20": None,  # the task has weights
    "fashion-mnist-mobilenet": BUILD
    / "ladders"
    / "fashion-mnist-mobilenet"
    / "dense-1-0.safetensors",
    "ptb-lstm-small": BUILD / "ladders" / "ptb-lstm-small" / "dense-1-0.safetensors",
    "multi30k": BUILD / "ladders" / "multi30k" / "dense-1-0.safetensors",
}
SHARES: Final = (0.5, 0.6, 0.7, 0.8)


def measured(name: str) -> dict[str, Any]:
    """One network: its metric dense, and by share and scope."""
    task = BUILT_IN[name]()
    module = model_of(task, find(task, NETWORKS[name])).eval()
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


def main() -> None:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = [measured(name) for name in options.only]
    if options.write:
        record("scopes", found)


if __name__ == "__main__":
    main()
