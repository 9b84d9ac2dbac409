"""The section of docs/results.md on the parts of the training of a family."""

from __future__ import annotations

from statistics import mean

from pages import Found, table

Row = Found

DEFAULT = "default"
EARLIER = "a cycle for each phase"  # the default when the other arms were measured
UNIT = "three, one elastic epoch"  # the arm that is a plain training but for its last epoch
CUT, TAUGHT = "least squares", "0.2 of the epochs, by size"
SOLVED = f"{TAUGHT}, solved first"
SHARES = {
    "a tenth": "0.1 of the epochs, by size",
    "a fifth": TAUGHT,
    "three tenths": "0.3 of the epochs, by size",
}


def section(found: Found) -> str:
    """A table for each task. found: as `bench/recipe.py` stored it, with date and machine."""
    rows: list[Row] = found["results"]
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    parts = [_task([row for row in rows if row["task"] == task]) for task in tasks]
    return f"""## What each part of the training along levels is worth

The name of a training says what it changes in the default one, which has a warm-up of a quarter
of the epochs and then trains the full width and a level in turns: "three, a half" trains the full
width and two levels in every step, after a warm-up of half of the epochs. The default has one cycle
of the learning rate for both phases; it had a cycle for each, which is the arm of that name, when
the others were measured, and they have that too.
Accuracy on validation data in per cent, of the widest network along the levels that fits: cut and
fitted by least squares → taught for a fifth of the epochs. Cost is in trainings of the arm
*{UNIT}*, which is plain until its last epoch (`bench/recipe.py`); the arms ran at different times
beside other work, for which alone costs differ by up to a third, and none is told of arms that ran
on another processor. The second tables are of the default, or of what it was: its networks after
post-processing of three lengths.

{"".join(parts)}"""


def _task(rows: list[Row]) -> str:
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    sizes = list(rows[0]["widths"])
    unit = [row for row in rows if row["arm"] == UNIT]
    usual = DEFAULT if DEFAULT in arms else EARLIER
    default = [row for row in rows if row["arm"] == usual]
    lines = [_arm(arm, [row for row in rows if row["arm"] == arm], sizes, unit) for arm in arms]
    return f"""### {rows[0]["task"]}

{table(["training", "seeds", "cost", "full", *(f"{size} kB" for size in sizes)], lines)}

{_solved_first([row for row in default if SOLVED in row["valid"]])}{_longer(default)}"""


def _solved_first(rows: list[Row]) -> str:
    """What least squares before the post-processing are worth, in a sentence."""
    if not rows:
        return ""
    both = [
        (r["valid"][SOLVED][size], r["valid"][TAUGHT][size]) for r in rows for size in r["widths"]
    ]
    gains = [100 * (solved - plain) for solved, plain in both]
    ahead = sum(gain > 0 for gain in gains)
    seeds = len({row["seed"] for row in rows})
    behind = sum(gain < 0 for gain in gains)
    return f"""Taught from least squares instead of from the plain cut ({seeds} seeds): better in
{ahead} of {len(gains)} networks, worse in {behind}; {mean(gains):+.2f} points on average, from
{min(gains):+.1f} to {max(gains):+.1f}.

"""


def _longer(rows: list[Row]) -> str:
    """What longer post-processing are worth."""
    rows = [row for row in rows if all(label in row["valid"] for label in SHARES.values())]
    if not rows:
        return ""
    sizes = [size for size in rows[0]["widths"] if all(size in row["widths"] for row in rows)]
    lines = [
        [share, *(f"{100 * mean(row['valid'][label][size] for row in rows):.1f}" for size in sizes)]
        for share, label in SHARES.items()
    ]
    return f"""{table(["of the epochs", *(f"{size} kB" for size in sizes)], lines)}

"""


def _arm(arm: str, rows: list[Row], sizes: list[str], unit: list[Row]) -> list[str]:
    alike = len({row["machine"] for row in [*rows, *unit]}) == 1
    seconds, one = (mean(row["seconds"] for row in some) for some in (rows, unit))
    cells = [_cell(rows, size) for size in sizes]
    return [
        arm,
        str(len(rows)),
        f"{seconds / one:.2f}" if alike else "-",
        f"{100 * mean(row['full'] for row in rows):.2f}",
        *cells,
    ]


def _cell(rows: list[Row], size: str) -> str:
    there = [row["valid"] for row in rows if size in row["widths"]]
    if not there:
        return "-"
    cut, taught = (100 * mean(valid[what][size] for valid in there) for what in (CUT, TAUGHT))
    return f"{cut:.1f} → {taught:.1f}"
