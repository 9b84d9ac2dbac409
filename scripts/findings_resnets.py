"""The section of docs/findings.md on trained CIFAR ResNets beside Torch-Pruning."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from pages import Found, plain, plots, table

MEASURES = {
    "one_shot": "as cut",
    "statistics": "statistics re-estimated",
    "tuned": "fine-tuned",
}
COLOURS = {"widthwise": "#1d4ed8", "Torch-Pruning": "#b45309"}


def text(found: Found) -> str:
    """The section."""
    lines = {(s["network"], s["tool"], s["removed"]): s for s in found["results"]["summary"]}
    networks = list(dict.fromkeys(network for network, _, _ in lines))
    parts = [_HEAD]
    for network in networks:
        parts += [f"### {network}", "", _table(lines, network), "", _verdict(lines, network), ""]
    parts += ["![Accuracy against parameters removed](images/resnets.png)", ""]
    return "\n".join([*parts, _how(found["results"]["cells"])])


_HEAD = """## Trained ResNets, beside Torch-Pruning

CIFAR ResNets with published weights, without a tenth, a quarter and a half of their parameters
(`bench/resnets.py`). Ours: ordered by `output-error`, widths by `allocate`, reconstructed on 1,000
training images without their labels. Torch-Pruning 1.6.1: the best, on validation images, of its
magnitude, Taylor and Hessian importances, local and global, with its default normaliser and with
none. Same images to score on, same fine-tuning: one epoch of 10,000 images. *As cut* ours are
reconstructed already, with the statistics of the full network.

The images are a lossy JPEG copy, so accuracies are some ten points below published ones. Per cent of
the 10,000 test images, ± standard deviation over seeds (of the images drawn and their order).
"""


def _table(lines: Found, network: str) -> str:
    header = ["removed", *(f"{m}: {t}" for m in MEASURES.values() for t in ("ours", "peer"))]
    rows = []
    whole = lines[network, "unpruned", 0.0]
    cells = [c for m in MEASURES for c in (_cell(whole[m]), "")]
    rows.append(["nothing", *cells])
    for removed in _shares(lines, network):
        pair = [lines[network, tool, removed] for tool in COLOURS]
        cells = [_cell(line[m]) for m in MEASURES for line in pair]
        rows.append([f"{removed:.0%}", *cells])
    return table(header, rows)


def _cell(value: Found) -> str:
    spread = value["spread"]
    return f"{value['mean']:.1f}" + (f" ± {spread:.1f}" if spread is not None else "")


def _shares(lines: Found, network: str) -> list[float]:
    return sorted(r for n, tool, r in lines if n == network and tool == "widthwise")


def _verdict(lines: Found, network: str) -> str:
    """At how many points ours is ahead, and by how much."""
    leads = {
        (m, r): lines[network, "widthwise", r][m]["mean"]
        - lines[network, "Torch-Pruning", r][m]["mean"]
        for m in MEASURES
        for r in _shares(lines, network)
    }
    ahead = sum(lead > 0 for lead in leads.values())
    least = min(leads, key=lambda k: leads[k])
    seeds = lines[network, "widthwise", 0.25]["seeds"]
    return (
        f"Ours is ahead at {ahead} of {len(leads)} points, with {seeds} seed"
        f"{'s' if seeds > 1 else ''}: by {leads['one_shot', 0.25]:.1f} points as cut at 25 %, by "
        f"{leads['tuned', 0.5]:.1f} after fine-tuning at 50 %; least, by {leads[least]:.1f}, "
        f"{MEASURES[least[0]]} at {least[1]:.0%}."
    )


def _how(cells: list[Found]) -> str:
    used = Counter(c["how"] for c in cells if c["tool"] == "Torch-Pruning")
    chosen = "; ".join(f"{how} ({n})" for how, n in used.most_common())
    return f"Chosen for Torch-Pruning before fine-tuning, and how often: {chosen}."


def pictures(found: Found, folder: Path) -> None:
    """Accuracy against the share of parameters removed."""
    plt = plots()
    lines = {(s["network"], s["tool"], s["removed"]): s for s in found["results"]["summary"]}
    networks = list(dict.fromkeys(network for network, _, _ in lines))
    figure, grid = plt.subplots(
        len(networks), 3, figsize=(9, 3.2 * len(networks)), dpi=150, squeeze=False, sharey="row"
    )
    for row, network in zip(grid, networks, strict=True):
        for axes, (measure, label) in zip(row, MEASURES.items(), strict=True):
            whole = lines[network, "unpruned", 0.0][measure]["mean"]
            for tool, colour in COLOURS.items():
                shares = _shares(lines, network)
                values = [lines[network, tool, r][measure] for r in shares]
                axes.errorbar(
                    [0, *(100 * r for r in shares)],
                    [whole, *(v["mean"] for v in values)],
                    [0, *(v["spread"] or 0 for v in values)],
                    color=colour,
                    label=tool,
                    marker="o",
                    markersize=4,
                    capsize=2,
                )
            axes.set_title(f"{network.removeprefix('cifar10-')}, {label}", loc="left", fontsize=9)
            axes.set_xlabel("parameters removed, %")
            plain(axes)
        row[0].set_ylabel("test accuracy, %")
    grid[0][0].legend(frameon=False, loc="lower left")
    figure.tight_layout()
    figure.savefig(folder / "resnets.png")
    plt.close(figure)
