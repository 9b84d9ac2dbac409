"""The section of docs/findings.md on elastic fine-tuning of a trained ResNet-56."""

from __future__ import annotations

from pathlib import Path
from statistics import mean, stdev
from typing import Any

from pages import Found, plain, plots, table, ticks

COLUMNS = {
    "reconstructed": "reconstructed only",
    "alone": "each fine-tuned by itself",
    "elastic": "elastic, reconstructed",
    "elastic, as cut": "elastic, as cut",
}
COLOURS = ("#9ca3af", "#b45309", "#1d4ed8", "#0f766e")


def text(found: Found) -> str:
    """The section."""
    families = _families(found)
    return "\n".join(
        [
            """## Elastic fine-tuning of a trained network

The trained ResNet-56, ordered by `output-error`, at several widths by `allocated_levels`: one
elastic fine-tuning of all of them against fine-tuning each by itself, with the same total of
multiply-accumulates (`bench/elastic_tuning.py`). By itself each width gets the same however many
there are; the elastic training shares the whole, so that the larger the family the more each of it
gets. (A family of 16 was measured after that of 8 had come out even; nothing else was changed.) Per
cent of the first 4,000 test images of the JPEG copy.
""",
            *(_family(runs) for runs in families),
            "![Accuracy against parameters kept](images/elastic-tuning.png)\n",
        ]
    )


def _families(found: Found) -> list[list[Found]]:
    """The runs of each number of widths, the smallest first."""
    numbers = sorted({run["number"] for run in found["results"]})
    return [[run for run in found["results"] if run["number"] == n] for n in numbers]


def _family(runs: list[Found]) -> str:
    rows = _rows(runs)
    shown = [
        [f"{row['share']:.0%}", *(_cell(row[name]) for name in COLUMNS), _lead(row)]
        for row in reversed(rows)
    ]
    share = mean(run["budget_over_training"] for run in runs)
    leads = [mean(r["elastic"]) - mean(r["alone"]) for r in rows]
    ahead = sum(lead >= 0 for lead in leads)
    return f"""### A family of {len(rows)}

In total {share:.2%} of the network's own training; {len(runs)} seed{"s" if len(runs) > 1 else ""}.

{table(["parameters kept", *COLUMNS.values(), "elastic ahead by"], shown)}

The elastic frontier is at or above that of separate fine-tuning at {ahead} of {len(rows)} widths;
the differences are {min(leads):+.1f} to {max(leads):+.1f} points, on average {mean(leads):+.1f}.
"""


def _lead(row: Found) -> str:
    return ", ".join(f"{e - a:+.1f}" for e, a in zip(row["elastic"], row["alone"], strict=True))


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
    """The four frontiers of each family."""
    plt = plots()
    families = _families(found)
    figure, panels = plt.subplots(
        1, len(families), figsize=(4.6 * len(families), 4), dpi=150, sharey=True, squeeze=False
    )
    for axes, runs in zip(panels[0], families, strict=True):
        _panel(axes, _rows(runs))
        axes.set_title(f"a family of {runs[0]['number']}", fontsize=10)
    panels[0, 0].set_ylabel("test accuracy, %")
    panels[0, 0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(folder / "elastic-tuning.png")
    plt.close(figure)


def _panel(axes: Any, rows: list[Found]) -> None:
    for (name, label), colour in zip(COLUMNS.items(), COLOURS, strict=True):
        axes.plot(
            [100 * r["share"] for r in rows],
            [mean(r[name]) for r in rows],
            color=colour,
            label=label,
            marker="o",
            markersize=4,
        )
    ticks(axes, [12.5, 25, 50, 100], ["12.5", "25", "50", "100"])
    axes.set_xlabel("parameters kept, %")
    plain(axes)
