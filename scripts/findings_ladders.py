"""The part of docs/findings.md on ladders at equal stored bytes."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from results_page import measured, table
from widthwise.app.compare import shown
from widthwise.app.compare.equal import against
from widthwise.app.compare.plan import Cell, Kind
from widthwise.app.tasks import BUILT_IN

LEAD = """## Large and sparse, small and dense, or elastic

"To prune, or not to prune" (Zhu & Gupta, 2017) holds a large network with zeros against a small one
without at equal memory. Here memory is the bytes of the stored file, read back and measured, and there are
two more ladders: *elastic*, one training that is cut to every width, and *elastic-sparse*, one training
that is pruned gradually besides ({sparsity:.0f} % zeros at every width), cut to every width
(`bench/ladders.py`; [how](design.md#zeros-pruninggradual)). All trainings of a task have the same recipe, shorter
than the task's own. What *formula* says is the paper's accounting of the same networks. Differences are
seed by seed, each network against the line between its neighbours of the other ladder; nothing is
extrapolated, so networks smaller than the smallest of the other ladder are not compared.

What was done after a first look: in the LSTMs all weights competed for the zeros at first, as is best for an MLP.
The weights of embeddings are much larger than all others there, of which hardly any were left, and the pruned
networks were far worse than they are now. They were replaced by ones with the same share of zeros in every tensor,
as in the paper.
"""

# What the paper reports of the same network, trained until it is done, by the share of zeros.
PUBLISHED = {"ptb-lstm": {0.0: 83.37, 0.8: 83.87, 0.9: 87.86}}


def text(stored: dict[str, Any]) -> str:
    """Markdown."""
    found = stored["results"]
    first = next(iter(found.values()))
    parts = [LEAD.format(sparsity=100 * first["plan"]["pruning"]["sparsity"]), _summary(found)]
    for name in found:
        parts.append(_task(name, found[name]))
    return "\n".join([*parts, measured(stored), ""])


def _summary(found: dict[str, Any]) -> str:
    """At how many sizes one ladder is ahead of another, by task."""
    rows = []
    for name, stored in found.items():
        cells, metric = _cells(stored), BUILT_IN[name]().metric
        row = [name, _seeds(cells)]
        for kind, other in shown.PAIRS:
            held = against(cells, kind, other, higher_is_better=metric.higher_is_better)
            ahead = sum(d.verdict == "ahead" for d in held)
            row.append(f"{ahead} of {len(held)}" if held else "-")
        rows.append(row)
    heads = [f"{kind.value} against {other.value}" for kind, other in shown.PAIRS]
    return "\n".join(
        [
            "At how many of the sizes that can be compared the first is ahead with every seed:\n",
            table(["task", "seeds", *heads], rows),
            "",
        ]
    )


def _task(name: str, found: dict[str, Any]) -> str:
    cells, task = _cells(found), BUILT_IN[name]()
    recipe = found["plan"]["recipe"]
    kinds = [kind for kind in found["kinds"] if not any(c.kind == kind for c in cells)]
    signed = f" BLEU by sacrebleu, `{found['signature']}`." if "signature" in found else ""
    missing = f" Not measured yet: {', '.join(kinds)}." if kinds else ""
    alike = found["plan"]["pruning"]["scope"] == "tensor"
    zeros = f"Pruned weights compete in {'each tensor' if alike else 'the whole network'}"
    head = [
        f"### {name}\n",
        f"{recipe['epochs']} epochs; seeds: {_seeds(cells)}; {task.metric.name} on test data "
        f"({'higher' if task.metric.higher_is_better else 'lower'} is better). {zeros}.{signed}"
        f"{missing}\n",
    ]
    extra_metrics = task.extra_metrics is not None
    columns = ["ladder", "kept, or zeros", "file", "formula", task.metric.name]
    columns += ["extra_metrics"] if extra_metrics else []
    rows = [list(row[: len(columns)]) for row in shown.rows(cells, task.metric)]
    verdicts = [f"- {line}." for line in shown.verdicts(cells, task.metric)]
    verdicts += [_beside(cells, PUBLISHED[name])] if name in PUBLISHED else []
    picture = f"\n![{task.metric.name} against stored bytes](images/ladders-{name}.png)\n"
    return "\n".join([*head, table(columns, rows), "", *verdicts, picture])


def _beside(cells: list[Cell], published: dict[float, float]) -> str:
    """Perplexities by the share of zeros, beside those of the paper."""
    here = {}
    for share in published:
        kind, amount = (Kind.SPARSE, share) if share else (Kind.DENSE, 1)
        some = [c.metric["test"] for c in cells if c.kind == kind and c.amount == amount]
        here[share] = statistics.fmean(some)
    same = sorted(here, key=lambda s: here[s]) == sorted(published, key=lambda s: published[s])
    shares = ", ".join(f"{100 * share:.0f} % zeros" if share else "dense" for share in published)
    return (
        f"- Test perplexities, {shares}: {', '.join(f'{v:.4g}' for v in here.values())} here, "
        f"{', '.join(f'{v:.4g}' for v in published.values())} as Zhu & Gupta report them of a training many "
        f"times as long: {'the same order' if same else 'another order'}."
    )


def _seeds(cells: list[Cell]) -> str:
    """How many, by ladder where they differ."""
    seeds = {kind: len({c.seed for c in cells if c.kind == kind}) for kind in Kind}
    counts = sorted({*seeds.values()} - {0}, reverse=True)
    if len(counts) == 1:
        return str(counts[0])
    return "; ".join(f"{n} ({', '.join(k for k in seeds if seeds[k] == n)})" for n in counts)


def pictures(stored: dict[str, Any], folder: Path) -> None:
    """One for each task."""
    for name, found in stored["results"].items():
        metric = BUILT_IN[name]().metric
        shown.draw(_cells(found), metric, folder / f"ladders-{name}.png", title=name)


def _cells(found: dict[str, Any]) -> list[Cell]:
    return [Cell(**cell) for cell in found["cells"]]
