"""The part of the coverage page that tells what does not hold, network by network, and why."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from bench.zoo.names import TOLERANCE
from bench.zoo.page import Row, agrees, halves, own, percent, wrong

CLASS_REASON = re.compile(r"is a graph module and not a \w+, because (.*?)\.?$", re.DOTALL)


def exceptions(found: dict[str, Any]) -> str:
    """Every exception with its explanation."""
    rows = found["networks"]
    parts = [
        _section(title, [(r["name"], text) for r in rows for text in explain(r)])
        for title, explain in _SECTIONS
    ]
    return "\n".join(["## Exceptions\n", *(p for p in parts if p)])


def _section(title: str, items: list[tuple[str, str]]) -> str:
    """Networks with the same explanation share a line."""
    if not items:
        return ""
    names: dict[str, list[str]] = {}
    for name, text in items:
        names.setdefault(text, []).append(name)
    count = len({name for name, _ in items})
    lines = [f"- {', '.join(some)}: {text}" for text, some in names.items()]
    return f"### {title} ({count})\n\n" + "\n".join(lines) + "\n"


def _failures(row: Row) -> Iterable[str]:
    return (f"{stage}: {_line(text)}" for stage, text in row["failures"].items())


def _unknown(row: Row) -> Iterable[str]:
    if row.get("unknown"):
        yield ", ".join(f"{op} (in {path})" if path else op for op, path in row["unknown"].items())


def _disproved(row: Row) -> Iterable[str]:
    if row.get("disproved"):
        yield f"{len(row['disproved'])} axes, among them {', '.join(row['disproved'][:3])}"


def _differs(row: Row) -> Iterable[str]:
    modes = {"evaluation": "in evaluation", "training": "in training", "zeroed": "from zeros"}
    for mode, words in modes.items():
        if wrong(row, mode):
            yield f"differs {words} by {row['differences'][mode]:.1e}, in {row['dtype']}"


def _vacuous(row: Row) -> Iterable[str]:
    if row.get("moved", 1.0) < 10 * TOLERANCE:
        yield f"at random weights the widths change the outputs by {row['moved']:.1e} only"


def _narrow(row: Row) -> Iterable[str]:
    if "narrowest" in row:
        yield "one feature alone gives no number there; compared from two features up"


def _noisy(row: Row) -> Iterable[str]:
    if row.get("dtype") == "float64" and agrees(row, "evaluation"):
        yield "float32 rounds too coarsely with random weights; compared in float64"


def _evaluation_only(row: Row) -> Iterable[str]:
    if row.get("trained") == "nothing":
        reason = (row.get("own_class") or {}).get("reason")
        yield f"the class at half: {class_reason(reason)}" if reason else "at random widths only"


def _small(row: Row) -> Iterable[str]:
    if "removed" not in row or halves(row):
        return
    stays = "; ".join(
        f"{percent(s['share'])} of the parameters are in {s['layer']}, where {_where(s)}"
        for s in row["stays"]
    )
    counts: Counter[str] = Counter()
    for fixed in row["fixed"]:
        counts[re.sub(r" in [\w.]+", "", fixed["reason"])] += fixed["axes"]
    fixed = "; ".join(f"{n} because {reason}" for reason, n in counts.most_common(3))
    total = row["free"] + sum(counts.values())
    yield (
        f"{percent(row['removed'])} removed. "
        + (f"More than half stays of some tensors: {stays}. " if stays else "")
        + f"Fixed axes: {sum(counts.values())} of {total} ({fixed})"
    )


def _where(stays: dict[str, Any]) -> str:
    return str(stays["reason"]).replace("; ", " and ")


def _not_own(row: Row) -> Iterable[str]:
    found = row.get("own_class")
    if found and not own(row):
        yield class_reason(found["reason"])


def _not_by_policy(row: Row) -> Iterable[str]:
    found = row.get("realizable")
    if found and not own(row, "realizable"):
        yield class_reason(found["reason"])


def _slow(row: Row) -> Iterable[str]:
    if row.get("trace_over_export", 0.0) > 3:
        yield f"{row['trace_over_export']:.1f} times torch.export ({row['trace_seconds']:.1f} s)"


def class_reason(text: str | None) -> str:
    """What a GraphModuleWarning gives as the reason."""
    if not text:
        return "no reason was given"
    found = CLASS_REASON.search(text)
    return _line(found[1] if found else text)


def _line(text: str) -> str:
    """One line that cannot be taken for Markdown."""
    return re.sub(r"\s+", " ", text).strip()[:300].replace("|", "\\|").replace("<", "\\<")


_SECTIONS: tuple[tuple[str, Callable[[Row], Iterable[str]]], ...] = (
    ("What failed", _failures),
    ("Operators without a rule", _unknown),
    ("Axes that the proof refused", _disproved),
    ("Cuts that compute something else", _differs),
    ("Not compared at width 1", _narrow),
    ("Comparisons that say little", _vacuous),
    ("Compared in double precision", _noisy),
    ("Compared in evaluation only", _evaluation_only),
    ("Half removes less than half", _small),
    ("A graph module at half", _not_own),
    ("A graph module at widths that should be realizable", _not_by_policy),
    ("Traced in more than three times the time of torch.export", _slow),
)
