"""How often masks should be remade in gradual pruning, with feedback (DPF) and without.

    WIDTHWISE_DATA=... python bench/dpf.py --write       # a quarter of an hour on one core

The MLP of mnist (784-256-256-10) is trained from new weights by its task's recipe for 5 epochs and
pruned until three quarters of them, weights competing by LAMP. It is stored without its zeros, and
evaluated on test data.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any, Final

import torch

import widthwise as ww
from common import main
from widthwise.app.runs.measuring import evaluation
from widthwise.app.tasks import BUILT_IN
from widthwise.train.batches import planned

EPOCHS: Final = 5
SEEDS: Final = 2
SHARES: Final = (0.97, 0.992)  # of weights that are zero: about 46 and 15 kB
PLAIN: Final = (78, 4)  # steps between two changes of the masks
DPF: Final = (1, 4, 16, 78)


def measured(share: float, dpf: bool, frequency: int) -> dict[str, Any]:
    """Accuracies of all seeds."""
    task = BUILT_IN["mnist"]()
    data = task.splits()
    recipe = replace(task.recipe, epochs=EPOCHS)
    accuracies, sizes = [], []
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        module = task.model().train()
        steps = planned(data.train, recipe.batch_size, seed).steps * EPOCHS
        schedule = ww.Schedule(share, end=round(0.75 * steps), frequency=frequency)
        pruner = ww.GradualPruner(module, schedule, scope="lamp", dpf=dpf)
        ww.fit(
            module,
            data.train,
            task.loss,
            recipe=recipe,
            compress=pruner,
            run=ww.RunConfig(seed=seed, progress=False),
        )
        accuracies.append(round(float(evaluation(task, data, "test")(module.eval())), 4))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "pruned.safetensors"
            ww.save(module, path, pack="zeros")
            sizes.append(path.stat().st_size)
    return {
        "sparsity": share,
        "dpf": dpf,
        "frequency": frequency,
        "accuracy": accuracies,
        "bytes": round(mean(sizes)),
    }


def all_ways() -> list[dict[str, Any]]:
    """Every share, with feedback and without, at its intervals."""
    ways = [(False, n) for n in PLAIN] + [(True, n) for n in DPF]
    return [measured(share, *way) for share in SHARES for way in ways]


if __name__ == "__main__":
    raise SystemExit(main(__doc__, "dpf", all_ways))
