"""The section of docs/results.md on how often masks are remade in gradual pruning."""

from __future__ import annotations

from statistics import mean

from pages import Found, table


def section(found: Found) -> str:
    """Accuracy by interval, with feedback and without. found: as `bench/dpf.py` stored it."""
    cells = found["results"]
    shares = list(dict.fromkeys(c["sparsity"] for c in cells))
    ways = list(dict.fromkeys((c["dpf"], c["frequency"]) for c in cells))
    by = {(c["dpf"], c["frequency"], c["sparsity"]): c for c in cells}
    rows = [
        ["with feedback" if way[0] else "without", f"{way[1]}"]
        + [f"{100 * mean(by[*way, share]['accuracy']):.2f}" for share in shares]
        for way in ways
    ]
    sizes = [mean(c["bytes"] for c in cells if c["sparsity"] == share) for share in shares]
    headers = [f"{100 * s:g} % zeros, {b / 1e3:.0f} kB" for s, b in zip(shares, sizes, strict=True)]
    seeds = len(cells[0]["accuracy"])
    return f"""## How often masks are remade

Gradual pruning of the MLP of mnist, 5 epochs, by LAMP, stored without its zeros: test accuracy
in %, mean over {seeds} seeds (`bench/dpf.py`). With feedback (DPF) a weight that was pruned
wrongly comes back when the masks are remade; by default that is every 4 steps, and without feedback
30 times in a training.

{table(["pruning", "steps between changes", *headers], rows)}
"""
