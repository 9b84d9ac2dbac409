"""The section of docs/findings.md on elastic fine-tuning of a trained ResNet-56."""

from __future__ import annotations

from pathlib import Path
from statistics import mean, stdev
from typing import Any

from results_page import measured, table

Found = dict[str, Any]
COLUMNS = {
    "compensated": "compensated only",
    "alone": "each fine-tuned by itself",
    "elastic": "elastic, compensated",
    "elastic, as cut": "elastic, as cut",
}
COLOURS = ("#9ca3af", "#b45309", "#1d4ed8", "#0f766e")


def text(found: Found) -> str:
    """The section."""
    runs = found["results"]
    rows = _rows(runs)
    shown = [
        [f"{row['share']:.0%}", *(_cell(row[name]) for name in COLUMNS)] for row in reversed(rows)
    ]
    above = sum(mean(r["elastic"]) >= mean(r["alone"]) for r in rows)
    leads = [mean(r["elastic"]) - mean(r["alone"]) for r in rows]
    share = mean(run["budget_over_training"] for run in runs)
    return f"""## Elastic fine-tuning of a trained network

The trained ResNet-56, ordered by `reconstruction`, at {len(rows)} widths by `allocated_ladder`:
one elastic fine-tuning of all of them against fine-tuning each by itself, with the same total of
multiply-accumulates, {share:.2%} of the network's own training (`bench/elastic_tuning.py`,
{len(runs)} seed{"s" if len(runs) > 1 else ""}). Per cent of the first 4,000 test images of the
JPEG copy.

{table(["parameters kept", *COLUMNS.values()], shown)}

The elastic frontier is at or above that of separate fine-tuning at {above} of {len(rows)} widths;
the differences are {min(leads):+.1f} to {max(leads):+.1f} points.

![Accuracy against parameters kept](images/elastic-tuning.png)

{measured(found)}
"""


def _rows(runs: list[Found]) -> list[Found]:
    """For each width its share of the parameters, and the accuracies of all seeds."""
    found = []
    for widths in zip(*(run["widths"] for run in runs), strict=True):
        row: Found = {name: [w[name] for w in widths] for name in COLUMNS}
        found.append(row | {"share": mean(w["share"] for w in widths)})
    return found


def _cell(values: list[float]) -> str:
    return f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def pictures(found: Found, folder: Path) -> None:
    """The four frontiers."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    rows = _rows(found["results"])
    figure, axes = plt.subplots(figsize=(6.4, 4), dpi=150)
    for (name, label), colour in zip(COLUMNS.items(), COLOURS, strict=True):
        axes.plot(
            [100 * r["share"] for r in rows],
            [mean(r[name]) for r in rows],
            color=colour,
            label=label,
            marker="o",
            markersize=4,
        )
    axes.set_xscale("log")
    axes.set_xticks([12.5, 25, 50, 100], ["12.5", "25", "50", "100"])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("parameters kept, %")
    axes.set_ylabel("test accuracy, %")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(folder / "elastic-tuning.png")
    plt.close(figure)
