"""Large-sparse against small-dense against elastic, at equal stored bytes, on three architectures.

    WIDTHWISE_DATA=... python bench/ladders.py                       # all that is missing; hours
    WIDTHWISE_DATA=... python bench/ladders.py --only multi30k --seeds 3
    python bench/ladders.py --write                                  # store what is there

A depthwise-separable CNN, a word-level LSTM and a translating LSTM with attention, each trained for
less than its recipe has, so that a seed takes an hour or two of one core. It is `widthwise ladders`
with the arguments below; a run that is stopped goes on, and a fresh checkout begins with what was
stored.

Pruning was set up on Fashion-MNIST's validation data (MLP, seeds 0 and 1, 90 and 97 % zeros):
weights that compete in the whole network, from the first step to three quarters of the training,
were the best of five spans and two scopes. In the LSTMs embeddings have much larger weights than
all else, of which hardly any was left when all competed; there every tensor gets the same share, as
in the paper. The first networks, pruned the other way, were replaced.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from sacrebleu.metrics.bleu import BLEU

from common import RESULTS, record
from widthwise.app.compare.ladders import NAME, run
from widthwise.app.compare.plan import Cell, Kind, Plan, load, save
from widthwise.app.runs.folder import hold
from widthwise.app.tasks import BUILT_IN
from widthwise.pruning.gradual import Gradual
from widthwise.pruning.gradual.compete import Scope

FOLDER = Path(__file__).parents[1] / "build" / "ladders"


@dataclass(frozen=True)
class Setting:
    """The arguments of one task's ladders."""

    epochs: int
    fractions: tuple[float, ...]
    sparsities: tuple[float, ...]
    scope: Scope
    kinds: tuple[Kind, ...] = tuple(Kind)


SETTINGS = {
    "fashion-mnist-mobilenet": Setting(3, (1.0, 0.7, 0.5, 0.35, 0.25), (0.75, 0.9, 0.95), "global"),
    "ptb-lstm-small": Setting(2, (1.0, 0.5, 0.25, 0.125), (0.8, 0.9, 0.95), "tensor"),
    "multi30k": Setting(4, (1.0, 0.5, 0.25, 0.125), (0.8, 0.9, 0.95), "tensor"),
    # The paper's medium size: its own question alone, for an hour of one core.
    "ptb-lstm": Setting(2, (1.0, 0.3, 0.14), (0.8, 0.9), "tensor", (Kind.DENSE, Kind.SPARSE)),
}


def plan(task: str) -> Plan:
    """That of one task's ladders."""
    setting = SETTINGS[task]
    recipe = replace(BUILT_IN[task]().recipe, epochs=setting.epochs)
    pruning = Gradual(0.8, scope=setting.scope)
    return Plan(task, recipe, pruning, lowest=min(setting.fractions))


def begin(task: str) -> None:
    """Lay out what was stored, where nothing is there. Raises ValueError if of another plan."""
    path = FOLDER / task / NAME
    stored = json.loads((RESULTS / "ladders.json").read_text())["results"].get(task)
    if path.exists() or stored is None:
        return
    if stored["plan"] != json.loads(json.dumps(asdict(plan(task)))):
        raise ValueError(f"{task} was stored with another plan; take it out of the results first.")
    path.parent.mkdir(parents=True, exist_ok=True)
    save(path, plan(task), [Cell(**cell) for cell in stored["cells"]])


def measure(task: str, kinds: list[Kind], seeds: int) -> None:
    """Train and measure what is missing of these kinds."""
    setting = SETTINGS[task]
    folder = FOLDER / task
    with hold(folder):
        run(
            plan(task),
            folder,
            kinds=[kind for kind in kinds if kind in setting.kinds],
            fractions=setting.fractions,
            sparsities=setting.sparsities,
            seeds=seeds,
            progress=False,
            told=lambda line: print(f"{task}: {line}", flush=True),
        )


def stored() -> dict[str, Any]:
    """All that is there, by task."""
    found = {}
    for task in SETTINGS:
        cells = load(FOLDER / task / NAME, plan(task))
        if cells:
            found[task] = {
                "plan": asdict(plan(task)),
                "kinds": [kind.value for kind in SETTINGS[task].kinds],
                "cells": [asdict(c) for c in cells],
            }
            if cells[0].extra_metrics:
                found[task]["signature"] = signature()
    return found


def signature() -> str:
    """sacrebleu's description of the BLEU that `tasks.multi30k` computes."""
    metric = BLEU()
    metric.corpus_score(["a b c d"], [["a b c d"]])
    return str(metric.get_signature())


def main() -> None:
    """Measure, or store."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--kinds", nargs="+", type=Kind, choices=list(Kind), default=list(Kind))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="store what is there, train nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for task in SETTINGS:
        begin(task)
    if options.write:
        print(record("ladders", stored(), added=True))
        return
    for seeds in range(1, options.seeds + 1):
        for task in options.only:
            measure(task, options.kinds, seeds)


if __name__ == "__main__":
    main()
