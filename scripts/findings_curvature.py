"""The section of docs/findings.md on where the gain of OBD-SD comes from."""

from __future__ import annotations

from findings_minified import interval, percent, verdict
from pages import Found, table

CURVATURES = {"fisher": "Fisher", "hutchinson": "Hessian"}


def text(found: Found) -> str:
    """The section. found: as `bench/curvature.py` stored it, with date and machine."""
    results = found["results"]
    rows = results["rows"]
    readings = [(r["curvature"], r["spread"]) for r in rows[0]["readings"]]
    accuracies = [
        [_case(row), *(f"{r['tuned']['mean']:.2f}" for r in row["readings"])] for row in rows
    ]
    names = list(rows[0]["differences"])
    differences = [[_case(row), *(interval(row["differences"][n]) for n in names)] for row in rows]
    headers = [f"{CURVATURES[c]}, {s:g}" for c, s in readings]
    return f"""## OBD-SD: the curvature or the spread

The scores of OBD-SD are mean + spread × standard deviation over batches of a saliency, whose curvature is that of
the empirical Fisher information or of the Hessian along random signs. Spread 0 is OBD. Single weights pruned
and fine-tuned for 2 epochs, as above, test accuracy in per cent, {results["seeds"]} seeds (`bench/curvature.py`):

{table(["network, zeros", *headers], accuracies)}

What each adds, paired over seeds, with 95 % intervals:

{table(["network, zeros", *names], differences)}

{_told(rows)} The default of `pruning.obd_sd`, `--score obd-sd` and `compare` is the reading that was chosen on
validation data: Hessian, 0.5.
"""


def _case(row: Found) -> str:
    return f"{row['task']}, {percent(row['sparsity'])}"


def _told(rows: list[Found]) -> str:
    """Whether the gain is the curvature's, as far as the intervals say."""
    names = ("the curvature alone", "the spread with the Hessian")
    said = {n: [verdict(row["differences"][n]) for row in rows] for n in names}
    counts = {
        n: f"above in {v.count('above')} of {len(v)} cases, below in {v.count('below')}, not decided "
        f"in {v.count('open')}"
        for n, v in said.items()
    }
    curvature, spread = (said[n].count("above") for n in names)
    gain = {
        (True, False): "Where a gain is decided, it is the curvature's",
        (False, True): "Where a gain is decided, it is the spread's",
        (True, True): "Both add to the gain",
        (False, False): "No gain is decided",
    }[curvature > 0, spread > 0]
    return (
        f"{gain}: the Hessian against Fisher, without a spread, is {counts[names[0]]}; a spread of 0.5 "
        f"against none, with the Hessian, is {counts[names[1]]}."
    )
