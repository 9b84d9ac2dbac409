"""Where the gain of OBD-SD comes from: the curvature, or the spread over batches.

    WIDTHWISE_DATA=... python bench/curvature.py --write        # a quarter of an hour on one core

Single weights of the networks of `minified.py`, trained and scored as there, with five seeds: every
curvature with every spread (0 is OBD), at 95 and 98 % of zeros over the whole network, as cut and
after a short fine-tuning. Test data; differences paired over seeds.
"""

from __future__ import annotations

import copy
import json
from itertools import product
from typing import Any, Final

from torch.nn import functional as F

from common import RESULTS, main
from minified import FOLDER
from minified_cells import SHORT, Reading, Trained
from paired import paired, summary
from widthwise.pruning import held_at_zero, keep, obd_sd

SEEDS: Final = 5
SPARSITIES: Final = {"mnist": (0.95, 0.98), "nsl-kdd": (0.98,)}
READINGS: Final = tuple(
    Reading(c, s) for c, s in product(("fisher", "hutchinson"), (0.0, 0.5, 1.0))
)
PAIRS: Final = {  # ours, theirs
    "the curvature alone": (Reading("hutchinson", 0.0), Reading("fisher", 0.0)),
    "the spread with Fisher": (Reading("fisher", 1.0), Reading("fisher", 0.0)),
    "the spread with the Hessian": (Reading("hutchinson", 0.5), Reading("hutchinson", 0.0)),
    "both": (Reading("hutchinson", 0.5), Reading("fisher", 0.0)),
}


def accuracies(task: str, seed: int, rates: dict[str, float]) -> dict[tuple[Reading, float], Any]:
    """(as cut, fine-tuned) by reading and sparsity, in per cent."""
    trained = Trained(task, seed, rates, READINGS[0], FOLDER, "test")
    found = {}
    for reading in READINGS:
        how: Any = {"curvature": reading.curvature, "spread": reading.spread}
        scores = obd_sd(
            trained.net, trained.batches, F.cross_entropy, of="weights", seed=seed, **how
        )
        for sparsity in SPARSITIES[task]:
            pruned = copy.deepcopy(trained.model)
            with held_at_zero(pruned, keep(scores, sparsity)):
                cut = trained.accuracy(pruned)
                found[reading, sparsity] = cut, trained.trained(pruned, "mask", SHORT)
        print(task, seed, reading, {s: found[reading, s] for s in SPARSITIES[task]}, flush=True)
    return found


def measured(task: str, rates: dict[str, float]) -> list[dict[str, Any]]:
    """A row for each sparsity: means by reading, differences by what they tell."""
    seeds = [accuracies(task, seed, rates) for seed in range(SEEDS)]
    rows = []
    for sparsity in SPARSITIES[task]:
        tuned = {r: [found[r, sparsity][1] for found in seeds] for r in READINGS}
        readings = [
            {"curvature": r.curvature, "spread": r.spread}
            | {"cut": summary([found[r, sparsity][0] for found in seeds])}
            | {"tuned": summary(tuned[r])}
            for r in READINGS
        ]
        differences = {name: paired(tuned[a], tuned[b]) for name, (a, b) in PAIRS.items()}
        row = {"task": task, "sparsity": sparsity, "readings": readings}
        rows.append(row | {"differences": differences})
    return rows


def all_tasks() -> dict[str, Any]:
    """Every task, at the learning rates that were chosen for `minified.py`."""
    rates = json.loads((RESULTS / "minified.json").read_text())["results"]["choices"]["rates"]
    return {"seeds": SEEDS, "rows": [r for task in SPARSITIES for r in measured(task, rates[task])]}


if __name__ == "__main__":
    raise SystemExit(main(__doc__, "curvature", all_tasks))
