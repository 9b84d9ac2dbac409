"""The pictures of `findings_minified.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from findings_minified import NAMES, percent
from pages import Found, plain, plots

COLOURS = {
    "random": "#9ca3af",
    "magnitude": "#b45309",
    "taylor": "#7c3aed",
    "obd": "#0f766e",
    "obd_hutchinson": "#65a30d",
    "obd_sd": "#1d4ed8",
}
LINES = {
    "from scratch": ("from scratch, 10 epochs", "#6b7280", "s", "-"),
    "obd_sd, tuned": ("OBD-SD, 2 epochs", "#b45309", "v", "--"),
    "obd_sd, tuned, long": ("OBD-SD, 10 epochs", "#b45309", "v", "-"),
    "ours, tuned": ("ours, 2 epochs", "#1d4ed8", "o", "--"),
    "ours, tuned, long": ("ours, 10 epochs", "#1d4ed8", "o", "-"),
    "ours, not reconstructed, tuned": ("ours, not reconstructed, 2 epochs", "#0f766e", "D", "--"),
    "ours, not reconstructed, tuned, long": (
        "ours, not reconstructed, 10 epochs",
        "#0f766e",
        "D",
        "-",
    ),
}


def pictures(found: Found, folder: Path) -> None:
    """The error against sparsity, and against width."""
    tasks = found["results"]["tasks"]
    _picture_of_weights(tasks, folder / "minified-weights.png")
    _picture_of_features(tasks, folder / "minified-features.png")


def _picture_of_weights(tasks: Found, path: Path) -> None:
    figure, grid = plots().subplots(2, len(tasks), figsize=(9, 6.6), dpi=150, squeeze=False)
    for column, (task, tables) in enumerate(tasks.items()):
        for row, state in enumerate(("cut", "tuned")):
            axes, values = grid[row, column], tables["weights"][state]
            for number, (selector, colour) in enumerate(COLOURS.items()):
                at = [i + 0.05 * (number - 2.5) for i in range(len(values))]  # side by side
                line = [v[selector] for v in values.values()]
                _errors(axes, at, line, color=colour, label=NAMES[selector], marker="o")
            axes.set_title(f"{task}, {'as cut' if state == 'cut' else 'fine-tuned'}", loc="left")
            axes.set_xticks(range(len(values)), [percent(s) for s in values])
            _plain(axes, tables)
    for axes in grid[1]:
        axes.set_xlabel("weights pruned")
    _finish(figure, grid, path)


def _picture_of_features(tasks: Found, path: Path) -> None:
    figure, grid = plots().subplots(1, len(tasks), figsize=(9, 4.4), dpi=150, squeeze=False)
    for axes, (task, tables) in zip(grid[0], tasks.items(), strict=True):
        rows = {int(w): row["accuracy"] for w, row in tables["features"].items()}
        for number, (name, (label, colour, marker, style)) in enumerate(LINES.items()):
            if name not in next(iter(rows.values())):
                continue
            at = [w * 1.02 ** (number - 2) for w in rows]
            line = [row[name] for row in rows.values()]
            _errors(axes, at, line, color=colour, label=label, marker=marker, linestyle=style)
        axes.set_xscale("log", base=2)
        axes.set_xticks(list(rows), [str(w) for w in rows])
        axes.set_xticks([], minor=True)
        axes.set_xlabel("width of both layers, or ours at as many parameters")
        axes.set_title(task, loc="left")
        _plain(axes, tables)
    _finish(figure, grid, path)


def _errors(axes: Any, at: list[float], line: list[Found], **style: Any) -> None:
    """A line of errors in per cent with their standard deviations."""
    errors = [100 - v["mean"] for v in line]
    down = [min(v["std"], 0.9 * e) for v, e in zip(line, errors, strict=True)]  # the axis is a log
    bars = [down, [v["std"] for v in line]]
    axes.errorbar(at, errors, bars, linewidth=1.3, markersize=4, capsize=2, **style)


def _plain(axes: Any, tables: Found) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    full = 100 - tables["full"]["mean"]
    axes.axhline(full, color="black", linewidth=0.8, linestyle=":", label="the full network")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    plain(axes)


def _finish(figure: Any, grid: Any, path: Path) -> None:
    for axes in grid[:, 0]:
        axes.set_ylabel("test error, %")
    handles, names = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, frameon=False, fontsize=8, ncols=4, loc="lower center")
    figure.tight_layout(rect=(0, 0.1, 1, 1))
    figure.savefig(path, metadata={"Software": None})
