"""The three directions of "Magnificent Minified Models" (Harang & Sanders, 2023), measured again.

    python bench/minified.py --choose     # learning rates and the reading of OBD-SD; 10 minutes
    python bench/minified.py              # five seeds; half an hour; goes on where it was stopped
    python bench/minified.py --write      # and store them in bench/results/minified.json

On `mnist` (MLP 784-256-256-10) and `nsl-kdd` (MLP 122-256-256-2):

    a   which single weights to prune: six selectors at 80 to 98 % sparsity over the whole network,
        as cut and after a short fine-tuning; OBD at once and in rounds
    b   fine-tuning the pruned network against training its mask from new random weights
    c   which neurons to prune: seven selectors at equal widths, as cut, reconstructed, fine-tuned;
        against training the small shape from new random weights, and against ours: reconstruction,
        widths allocated at as many parameters, reconstruction, fine-tuning or distillation

A whole training is 10 epochs, a short fine-tuning 2, both Adam with one cycle, batch 256; "long" is
fine-tuned for 10 epochs too. Scores are computed on 10,000 training samples. Differences are paired
over seeds, with 95 % confidence intervals by Student's t, each by itself.

All choices are made on validation data with other seeds (`minified_choices.py`); where --choose has
not been run, they are those of the stored result. Accuracy is reported on the test data.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path

import torch

from cells import Cells
from common import RESULTS, record
from minified_cells import (
    CELLS,
    FEATURE_SELECTORS,
    LONG_CELLS,
    SPARSITIES,
    WEIGHT_SELECTORS,
    WIDTHS,
    Found,
    Reading,
    Trained,
)
from minified_choices import choose, settings
from paired import paired, summary

TASKS = ("mnist", "nsl-kdd")
FOLDER = Path("build") / "minified"
CHOICES = FOLDER / "choices.json"
Results = Mapping[str, Sequence[Found]]  # by the name of the cell, one for each seed


def measure(
    tasks: Sequence[str], seeds: Sequence[int], choices: Found, cells: Cells, stored: bool
) -> dict[str, Results]:
    """All cells, by task; those of long fine-tuning one after the other behind all others.

    stored: leave out those of long fine-tuning that are not there for every seed.
    """
    found: dict[str, dict[str, list[Found]]] = {task: {} for task in tasks}
    reading = Reading(**choices["reading"])
    signed = {t: [settings(), choices["rates"][t], choices["reading"]] for t in tasks}
    for stage in (CELLS, *({name: cell} for name, cell in LONG_CELLS.items())):
        names = [(t, s, name) for s in seeds for t in tasks for name in stage]
        if stored and stage is not CELLS and not all(cells.has(n, signed[n[0]]) for n in names):
            continue
        for seed in seeds:
            for task in tasks:
                rates = choices["rates"][task]
                # Trained, or loaded, when the first cell needs it.
                network = cache(partial(Trained, task, seed, rates, reading, FOLDER, "test"))
                for name, cell in stage.items():
                    value = cells.get(
                        (task, seed, name), signed[task], partial(_made, cell, network)
                    )
                    found[task].setdefault(name, []).append(value)
    return found


def _made(cell: Callable[[Trained], Found], network: Callable[[], Trained]) -> Found:
    return cell(network())


def by_weights(results: Results) -> Found:
    """Direction a: each selector, and by how much obd_sd is above it."""

    def values(selector: str, state: str, sparsity: float) -> list[float]:
        return [found[state][str(sparsity)] for found in results[f"weights {selector}"]]

    table: Found = {}
    for state in ("cut", "tuned"):
        table[state] = {
            str(sparsity): {
                s: summary(values(s, state, sparsity))
                | {"obd_sd_above": _above(values, "obd_sd", s, state, sparsity)}
                for s in WEIGHT_SELECTORS
            }
            for sparsity in SPARSITIES
        }
    return table


def _above(
    values: Callable[[str, str, float], list[float]], ours: str, other: str, state: str, at: float
) -> Found | None:
    return None if ours == other else paired(values(ours, state, at), values(other, state, at))


def in_rounds(results: Results) -> Found:
    """OBD at once and in rounds."""
    values = {"at once": [f["tuned"]["0.95"] for f in results["weights obd"]]}
    values |= {n: [f[n] for f in results["rounds"]] for n in results["rounds"][0]}
    others = {n: paired(values["in rounds"], v) for n, v in values.items() if n != "in rounds"}
    return {n: summary(v) for n, v in values.items()} | {"in_rounds_above": others}


def by_masks(results: Results) -> Found:
    """Direction b: masks of obd_sd, fine-tuned and from scratch."""
    table: Found = {}
    for sparsity in map(str, SPARSITIES):
        values = {
            "tuned": [f["tuned"][sparsity] for f in results["weights obd_sd"]],
            "from scratch": [f["from scratch"][sparsity] for f in results["masks anew"]],
        }
        if "masks long" in results:
            long = [f["tuned, long"][sparsity] for f in results["masks long"]]
            values["tuned, long"] = long
        table[sparsity] = _against_scratch(values)
    return table


def _against_scratch(values: dict[str, list[float]]) -> Found:
    anew = values["from scratch"]
    return {
        name: summary(v) | ({} if v is anew else {"above_scratch": paired(v, anew)})
        for name, v in values.items()
    }


def by_features(results: Results) -> Found:
    """Direction c: each selector at each width, against from scratch, and ours."""
    return {str(width): _of_width(results, str(width)) for width in WIDTHS}


def _of_width(results: Results, width: str) -> Found:
    values = _accuracies(results, width)
    others = [s for s in FEATURE_SELECTORS if s != "obd_sd"]
    mine = results["ours"]
    trained = [n for n in values if n.startswith("ours, ") and n not in _UNTRAINED]
    return {
        "accuracy": _against_scratch(values),
        "obd_sd_above": {
            state: {s: paired(values[f"obd_sd, {state}"], values[f"{s}, {state}"]) for s in others}
            for state in ("cut", "tuned", "reconstructed, tuned")
        },
        "reconstructed_above": {
            then: {
                s: paired(values[f"{s}, {then}"], values[f"{s}, {first}"])
                for s in FEATURE_SELECTORS
            }
            for first, then in (("cut", "reconstructed"), ("tuned", "reconstructed, tuned"))
        },
        "ours_above_its_shape_from_scratch": {
            name: paired(values[name], values["ours, from scratch"]) for name in trained
        },
        "shape_of_ours": {
            "widths": [f["widths"][width] for f in mine],
            "parameters": summary([f["parameters"][width] for f in mine]),
        },
    }


_UNTRAINED = ("ours, cut", "ours, reconstructed", "ours, from scratch")


def _accuracies(results: Results, width: str) -> dict[str, list[float]]:
    """Over seeds, by "selector, state"."""
    values = {"from scratch": [f["from scratch"][width] for f in results["shapes anew"]]}
    cells = {f"features {s}": s for s in FEATURE_SELECTORS}
    cells |= {"features long": "obd_sd"}
    cells |= dict.fromkeys(("ours", "ours long", "ours not reconstructed"), "ours")
    for cell, name in cells.items():
        found = results.get(cell, [{}])
        states = [s for s in found[0] if s not in ("widths", "parameters")]
        values |= {f"{name}, {s}": [f[s][width] for f in found] for s in states}
    return values


def tables(results: Results) -> Found:
    """All that is reported of a task."""
    return {
        "full": summary([f["accuracy"] for f in results["full"]]),
        "weights": by_weights(results),
        "rounds": in_rounds(results),
        "masks": by_masks(results),
        "features": by_features(results),
    }


def choices_made() -> Found:
    """Those of the last --choose, or else of the stored result."""
    chosen: Found
    if CHOICES.exists():
        chosen = json.loads(CHOICES.read_text())
    else:
        chosen = json.loads((RESULTS / "minified.json").read_text())["results"]["choices"]
    return chosen


def shown(found: Found) -> None:
    """Print what matters most."""
    for task, table in found["tasks"].items():
        print(f"{task}: full {table['full']}")
        for state in ("cut", "tuned"):
            for sparsity, row in table["weights"][state].items():
                cells = (f"{s} {v['mean']:.2f}" for s, v in row.items())
                print(f"  {state} at {sparsity}: {', '.join(cells)}")
        print(f"  {json.dumps(table['rounds'])}")
        rows = list(table["masks"].items())
        rows += [(width, row["accuracy"]) for width, row in table["features"].items()]
        for size, row in rows:
            for name, v in row.items():
                if "above_scratch" in v:
                    d = v["above_scratch"]
                    interval = f"{d['mean']:+.2f} [{d['low']:+.2f}, {d['high']:+.2f}]"
                    print(f"  {size:>4} {name:34} {v['mean']:6.2f}  above scratch {interval}")


def main() -> int:
    """Choose, or measure what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--choose", action="store_true", help="on validation data, other seeds")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--stored", action="store_true", help="only the long cells that are there")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    # Processes started for different tasks do not write to one file.
    name = f"{'-'.join(options.tasks)}.jsonl"
    if options.choose:
        chosen = choose(options.tasks, FOLDER, name)
        print(json.dumps(chosen, indent=1))
        if tuple(options.tasks) == TASKS:
            CHOICES.write_text(json.dumps(chosen, indent=1))
        return 0
    choices = choices_made()
    seeds = range(options.seeds)
    cells = Cells(FOLDER, name, (len(CELLS) + len(LONG_CELLS)) * len(seeds) * len(options.tasks))
    found = measure(options.tasks, seeds, choices, cells, options.stored)
    done: Found = {"seeds": len(seeds), "settings": settings(), "choices": choices}
    done["tasks"] = {task: tables(results) for task, results in found.items()}
    shown(done)
    if options.write:
        print(record("minified", done))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
