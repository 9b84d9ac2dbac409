"""The section of docs/results.md on one training of a family against networks trained alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pages import Found, plain, plots, table, ticks

FAMILIES = {
    "mlp": "MNIST, MLP 784-256-256-10",
    "fashion_cnn": "Fashion-MNIST, 10,000 images, a CNN of two convolutions",
    "nsl_kdd": "NSL-KDD, MLP 122-256-256-2",
    "digits": "digits, MLP 64-64-64-10",
    "resnet": "CIFAR-10, 10,000 images, ResNet-20",
    "gpt": "Penn Treebank, a million characters, a GPT of three blocks",
}
WAYS = {
    "family": "one training, cut",
    "ours": "same shapes, each alone",
    "equal": "equal shares, each alone",
    "longer": "same shapes, each alone, twice as long",
}
LEAD = """## One training against many

What `widthwise train`, `sweep` and `cut` make by default, beside networks that are trained alone
with the same recipe; on test data, mean ± standard deviation over seeds, at files of so many bytes
(`bench/family.py`, which says what each column is). Accuracies are in per cent.

"""
REST = """**What is not reached.** Networks trained alone gain from longer trainings and from higher
learning rates than the full network's recipe has; the tables show them only where a column says so.
One or few seeds do not tell differences of a few tenths of a point apart.

"""


def section(found: Found) -> str:
    """From the heading on."""
    shown = [
        _family(title, found["results"][name])
        for name, title in FAMILIES.items()
        if name in found["results"]
    ]
    return f"{LEAD}{''.join(shown)}{REST}"


def rows(task: Found, ways: Sequence[str]) -> list[list[str]]:
    """One row for each size."""
    return [
        [_size(size), *(value(task, row.get(way)) for way in ways)]
        for size, row in task["sizes"].items()
    ]


def value(task: Found, cell: Found | None) -> str:
    """The metric, with the standard deviation where there are several seeds."""
    if cell is None:
        return ""
    times, places = (100, 2) if task["metric"]["name"] == "accuracy" else (1, 3)
    spread = "" if cell["spread"] is None else f" ± {times * cell['spread']:.{places}f}"
    return f"{times * cell['mean']:.{places}f}{spread}"


def _family(title: str, task: Found) -> str:
    ways = [way for way in WAYS if any(way in row for row in task["sizes"].values())]
    metric, full = task["metric"], task["full"]
    what = metric["name"] + ("" if metric["higher_is_better"] else ", lower is better")
    costs = ", ".join(f"{step} {c['mean']:.2f}" for step, c in task["costs"].items())
    alone = "".join(f"; {WAYS[w]}: {c['mean']:.1f}" for w, c in task["alone_costs"].items())
    lost = "".join(
        f"\nThe family is behind *{WAYS[way]}* at: {_behind(task, way)}."
        for way in ways
        if way != "family"
    )
    count = full["family"]["seeds"]
    seeds = f"{count} seed{'' if count == 1 else 's'}"
    return f"""### {title}

{what[0].upper()}{what[1:]}:

{table(["bytes at most", *(WAYS[way] for way in ways)], rows(task, ways))}

Full width: {value(task, full["family"])}, trained alone {value(task, full["plain"])}.
Cost in trainings of the full network alone: {task["cost"]["mean"]:.2f} for all sizes together
({costs}){alone}. {seeds}.{lost}

"""


def _behind(task: Found, way: str) -> str:
    """The sizes at which another way has a better mean than the family, as a text."""
    return ", ".join(_size(size) for size in _lost(task, way)) or "none"


def _lost(task: Found, way: str) -> list[str]:
    """The sizes at which another way has a better mean than the family."""
    sign = 1 if task["metric"]["higher_is_better"] else -1
    return [
        size
        for size, row in task["sizes"].items()
        if way in row and sign * row["family"]["mean"] < sign * row[way]["mean"]
    ]


def _size(size: str) -> str:
    return f"{int(size) / 1000:g} kB"


def sentence(task: Found) -> str:
    """How one training of a family did beside networks trained alone, in two sentences."""
    count = len(task["sizes"])
    level = {way: count - len(_lost(task, way)) for way in ("ours", "equal")}
    seeds = task["full"]["family"]["seeds"]
    full = {kind: value(task, cell) for kind, cell in task["full"].items()}
    return (
        f"One training, {seeds} seeds, mean ± standard deviation: at or above the same shapes "
        f"trained alone at {level['ours']} of {count} sizes, and equal shares of all layers "
        f"trained alone at {level['equal']};\nat full width {full['family']} %, trained alone "
        f"{full['plain']} %. All sizes together took as long as {task['cost']['mean']:.1f} "
        "trainings of the full network."
    )


def picture(task: Found, title: str, path: Path) -> None:
    """The metric against the bytes of the files, with error bars: a line for each way."""
    plt = plots()
    figure, axes = plt.subplots(figsize=(8, 4.4), dpi=150)
    looks = {"equal": ("#b45309", "v"), "ours": ("#6b7280", "s"), "family": ("#0f766e", "D")}
    sizes = [int(size) / 1000 for size in task["sizes"]]
    for way, (colour, marker) in looks.items():
        cells = [row.get(way) for row in task["sizes"].values()]
        shown = [(x, cell) for x, cell in zip(sizes, cells, strict=True) if cell is not None]
        axes.errorbar(
            [x for x, _ in shown],
            [100 * cell["mean"] for _, cell in shown],
            [100 * (cell["spread"] or 0.0) for _, cell in shown],
            label=WAYS[way], marker=marker, markersize=4, linewidth=1.4, capsize=2, color=colour,
        )  # fmt: skip
    at = [14, 20, 33, 55, 100, 190, 440]
    ticks(axes, at, [f"{size} kB" for size in at])
    axes.set_xlabel("bytes of the file")
    axes.set_ylabel("test accuracy, %")
    axes.set_title(title, loc="left", fontweight="bold")
    plain(axes)
    axes.legend(frameon=False, loc="lower right")
    figure.tight_layout()
    figure.savefig(path, metadata={"Software": None})
    plt.close(figure)
