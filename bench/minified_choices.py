"""The choices of `minified.py`, made on validation data with seeds of their own.

Peak learning rates are chosen by what is trained:

    full               the network
    mask               a pruned network, for a short time; "mask, long": as long as the network
    mask anew          a mask with new random weights
    shape              a cut network, for a short time; "shape, long": as long as the network
    shape anew         a small network with new random weights
    distilled          a cut network on what the full one says; "distilled, long"

and then which reading of OBD-SD: the one with the highest accuracy after fine-tuning, on average
over sparsities, seeds and tasks.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import minified_cells
from cells import Cells
from minified_cells import LONG, SHORT, Found, Rates, Reading, Trained, weights
from widthwise.pruning import held_at_zero, keep, order_, reconstruct_

SEEDS = (100, 101)
CANDIDATES: dict[str, tuple[float, ...]] = {
    "full": (1e-3, 2e-3, 4e-3),
    "mask": (2e-3, 5e-3, 1e-2, 2e-2),
    "mask, long": (5e-3, 1e-2, 2e-2),
    "mask anew": (5e-3, 1e-2, 2e-2),
    "shape": (2e-3, 5e-3, 1e-2, 2e-2),
    "shape, long": (5e-3, 1e-2, 2e-2),
    "shape anew": (5e-3, 1e-2, 2e-2),
    "distilled": (2e-3, 5e-3, 1e-2, 2e-2),
    "distilled, long": (5e-3, 1e-2, 2e-2),
}
READINGS = tuple(Reading(c, s) for c in ("fisher", "hutchinson") for s in (0.5, 1.0, 2.0))
TRIED_SPARSITIES, TRIED_WIDTHS = (0.95,), (16,)


def trial(trained: Trained, kind: str) -> float:
    """The mean validation accuracy of what is trained at the rate of this kind."""
    if kind == "full":
        return trained.accuracy(trained.model)
    tried = _masks if kind.startswith("mask") else _shapes
    return statistics.mean(tried(trained, kind, LONG if kind[-4:] in ("long", "anew") else SHORT))


def _masks(trained: Trained, kind: str, epochs: int) -> list[float]:
    found = []
    for sparsity in TRIED_SPARSITIES:
        masks = keep(trained.scores("obd", "weights"), sparsity)
        anew = kind == "mask anew"
        module = trained.fresh({}) if anew else copy.deepcopy(trained.model)
        with held_at_zero(module, masks):
            found.append(trained.trained(module, kind, epochs))
    return found


def _shapes(trained: Trained, kind: str, epochs: int) -> list[float]:
    found = []
    net = trained.elastic()
    order_(net, trained.scores("output-error", "features"))
    for width in TRIED_WIDTHS:
        widths = {"fc1": width, "fc2": width}
        if kind == "shape anew":
            found.append(trained.trained(trained.fresh(widths), kind, epochs))
            continue
        small = net.cut(widths)
        if not kind.startswith("distilled"):  # as cut for the selectors, reconstructed for ours
            found.append(trained.trained(copy.deepcopy(small), kind, epochs))
        reconstruct_(small, net, widths, trained.batches)
        train = trained.distilled if kind.startswith("distilled") else trained.trained
        found.append(train(small, kind, epochs))
    return found


def choose_rates(task: str, folder: Path, cells: Cells) -> tuple[Rates, Found]:
    """The best rate of each kind, and the validation accuracy of all."""
    rates: Rates = {}
    table: Found = {}
    networks: dict[tuple[int, float], Trained] = {}

    def network(seed: int, full: float) -> Trained:
        if (seed, full) not in networks:
            first = {"full": full}
            networks[seed, full] = Trained(task, seed, first, READINGS[0], folder, "valid")
        return networks[seed, full]

    def tried(seed: int, kind: str, rate: float) -> Found:
        trained = network(seed, rates.get("full", rate))
        trained.rates = {**rates, kind: rate}
        return {"accuracy": trial(trained, kind)}

    for kind, candidates in CANDIDATES.items():
        table[kind] = {}
        for rate in candidates:
            found = [
                cells.get(
                    ("choose", task, seed, kind, rate),
                    [settings(), rates.get("full", rate)],
                    lambda seed=seed, kind=kind, rate=rate: tried(seed, kind, rate),
                )
                for seed in SEEDS
            ]
            table[kind][f"{rate:g}"] = round(statistics.mean(f["accuracy"] for f in found), 3)
        rates[kind] = max(candidates, key=lambda r: table[kind][f"{r:g}"])
    return rates, table


def try_readings(task: str, rates: Rates, folder: Path, cells: Cells) -> dict[Reading, Found]:
    """The mean validation accuracy of every reading of OBD-SD, as cut and fine-tuned."""
    networks: dict[int, Trained] = {}

    def tried(seed: int, reading: Reading) -> Found:
        if seed not in networks:
            networks[seed] = Trained(task, seed, rates, reading, folder, "valid")
        networks[seed].reading = reading
        networks[seed].scored.clear()
        return weights(networks[seed], "obd_sd")

    table: dict[Reading, Found] = {}
    for reading in READINGS:
        found = [
            cells.get(
                ("choose", task, seed, "reading", reading.curvature, reading.spread),
                [settings(), rates["full"], rates["mask"]],
                lambda seed=seed, reading=reading: tried(seed, reading),
            )
            for seed in SEEDS
        ]
        table[reading] = {
            name: round(statistics.mean(a for f in found for a in f[name].values()), 3)
            for name in ("cut", "tuned")
        }
    return table


def choose(tasks: Sequence[str], folder: Path, name: str) -> Found:
    """All choices, with the tables that they were made from."""
    trials = sum(map(len, CANDIDATES.values())) + len(READINGS)
    cells = Cells(folder, name, trials * len(SEEDS) * len(tasks))
    found: Found = {"rates": {}, "rates_tried": {}, "readings_tried": {}}
    tables: dict[str, Mapping[Reading, Found]] = {}
    for task in tasks:
        rates, found["rates_tried"][task] = choose_rates(task, folder, cells)
        found["rates"][task] = rates
        tables[task] = try_readings(task, rates, folder, cells)
        found["readings_tried"][task] = {
            f"{r.curvature} {r.spread:g}": row for r, row in tables[task].items()
        }
    best = max(READINGS, key=lambda r: statistics.mean(t[r]["tuned"] for t in tables.values()))
    found["reading"] = {"curvature": best.curvature, "spread": best.spread}
    return found | {"seeds": list(SEEDS)}


def settings() -> Found:
    """What all results depend on besides the choices."""
    names = ("SPARSITIES", "WIDTHS", "LONG", "SHORT", "ROUNDS", "BATCH", "SAMPLES", "SCORED")
    return {name: getattr(minified_cells, name) for name in names}
