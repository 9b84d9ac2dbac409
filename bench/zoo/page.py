"""Write docs/coverage.md from bench/results/zoo.json.

    python -m bench.zoo.page            # write
    python -m bench.zoo.page --check    # exit 1 when the page is not what the results say

No figure and no explanation on that page is typed by hand.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from bench.zoo.names import FAMILIES, TOLERANCE, VERDICTS, engine
from scripts.pages import ROOT, main, table

RESULTS = ROOT / "bench" / "results" / "zoo.json"
PAGE = ROOT / "docs" / "coverage.md"
Row = dict[str, Any]

ABOUT = {
    "torchvision": "all classification models of torchvision",
    "timm": "at least one architecture of each family of timm",
    "transformers": "transformers, from small configurations",
    "detection": "segmentation and detection networks of torchvision, without the choice of boxes",
    "nets": "the tiny networks of the test set, one for each trait",
}
HEAD = """<!-- Written by bench/zoo/page.py from bench/results/zoo.json; change those. -->

# Coverage

What widthwise makes of {count} public architectures with random weights (`python -m bench.zoo`),
each in a process of its own. Nothing is edited in any of them and nothing is said about them: no
counts of heads, no list of layers.

- **traced**: captured in training and in evaluation mode, and related. **proven**: no axis had to
  be fixed because shuffling its features changed something.
- **cut = elastic**: the cut network computes what the elastic one computes at those widths, at
  three random settings of all widths and at half; in training outputs and batch statistics, with
  the same random numbers. Differences are at most {tolerance} of the largest output. Where
  training mode is another graph, the user's class is compared instead, at those of these widths
  that it can express; without any there is only evaluation to compare: *evaluation only*.
- **cut = zeros**: cutting gives what the full network gives with zeros in place of what is cut, on
  the axes whose features are not compared with each other (as a norm or a softmax does).
- **half**: `net.widths(0.5)`. **own class**: the cut is of the user's class. **by policy**: the
  same at the widths nearest to half that the class can express,
  `net.realizable(net.widths(0.5))`.
- **÷ export**: processor seconds of `Elastic(...)` with all proofs over those of `torch.export`
  alone, in evaluation mode.

"""


def rows_of(found: dict[str, Any], family: str) -> list[Row]:
    """The networks of a family."""
    return [r for r in found["networks"] if r["name"].startswith(f"{family}/")]


def traced(row: Row) -> bool:
    """Whether the network was captured and related."""
    return "free" in row


def proven(row: Row) -> bool:
    """Whether every axis passed the proof."""
    return traced(row) and not row["disproved"]


def agrees(row: Row, mode: str) -> bool:
    """Whether cut and elastic network were compared in a mode and compute the same."""
    found = row.get("differences", {}).get(mode)
    return found is not None and found <= TOLERANCE


def wrong(row: Row, mode: str) -> bool:
    """Whether they were compared and differ."""
    found = row.get("differences", {}).get(mode)
    return found is not None and not found <= TOLERANCE


def halves(row: Row) -> bool:
    """Whether half width removes at least half of the parameters."""
    return row.get("removed", 0.0) >= 0.5


def own(row: Row, key: str = "own_class") -> bool:
    """Whether the user's class came back and computes the same."""
    found = row.get(key) or {}
    return bool(found.get("own")) and found["difference"] <= TOLERANCE


def summary(found: dict[str, Any]) -> str:
    """One row for each family and one for all."""
    header = [
        "family",
        "networks",
        "traced",
        "proven",
        "cut = elastic, evaluation",
        "training",
        "(evaluation only)",
        "cut = zeros",
        "half removes ≥ 50 %",
        "own class at half",
        "own class by policy",
        "median ÷ export",
        "Torch-Pruning cuts as asked",
    ]
    families = [(f, rows_of(found, f)) for f in FAMILIES]
    every = [*families, ("**all**", found["networks"])]
    peer = {r["name"]: r["verdict"] for r in found["peer"]}
    return table(header, ([n, *_summary_cells(rows, peer)] for n, rows in every if rows)) + "\n"


def _summary_cells(rows: list[Row], peer: dict[str, str]) -> list[str]:
    def count(test: Callable[[Row], bool]) -> str:
        return str(sum(map(test, rows)))

    ratios = [r["trace_over_export"] for r in rows if "trace_over_export" in r]
    verdicts = [peer[r["name"]] for r in rows if r["name"] in peer]
    zeroable = [r for r in rows if r.get("differences", {}).get("zeroed") is not None]
    policy = [r for r in rows if r.get("realizable")]
    return [
        str(len(rows)),
        count(traced),
        count(proven),
        count(lambda r: agrees(r, "evaluation")),
        count(lambda r: agrees(r, "training")),
        count(lambda r: r.get("trained") == "nothing"),
        f"{sum(agrees(r, 'zeroed') for r in zeroable)} of {len(zeroable)}",
        count(halves),
        count(own),
        f"{sum(own(r, 'realizable') for r in policy)}" if policy else "",
        f"{statistics.median(ratios):.2f}" if ratios else "",
        f"{verdicts.count(VERDICTS[0])} of {len(verdicts)}" if verdicts else "",
    ]


def peer_table(found: dict[str, Any]) -> str:
    """What Torch-Pruning does, by family."""
    if not found["peer"]:
        return ""
    rows = []
    for family in (*FAMILIES, "**all**"):
        some = [
            r for r in found["peer"] if family == "**all**" or r["name"].startswith(f"{family}/")
        ]
        counts = Counter(r["verdict"] for r in some)
        rows.append([family, str(len(some)), *(str(counts[v]) for v in VERDICTS)])
    text = (
        f"## The nearest peer\n\nTorch-Pruning {found['peer_version']} on the same networks, asked "
        "for half of every channel group with the layers that make the outputs left whole, and "
        "told nothing by hand. *Cut as asked* means that the network still runs and that at least "
        "half of its other parameters are gone; whether it computes the right thing is not asked."
        "\n\n"
    )
    return text + table(["family", "networks", *VERDICTS], (r for r in rows if r[1] != "0")) + "\n"


def family_table(found: dict[str, Any], family: str) -> str:
    """One row for each network."""
    header = [
        "network",
        "parameters",
        "axes",
        "fixed",
        "half removes",
        "evaluation",
        "training",
        "zeros",
        "own class",
        "by policy (removes)",
        "trace s",
        "÷ export",
        "Torch-Pruning",
    ]
    peer = {r["name"]: r["verdict"] for r in found["peer"]}
    rows = [_cells(row, peer.get(row["name"], "")) for row in rows_of(found, family)]
    return f"## {family}\n\n{ABOUT[family].capitalize()}.\n\n{table(header, rows)}\n"


def _cells(row: Row, verdict: str) -> list[str]:
    name = row["name"].partition("/")[2] + (f" ({row['note']})" if row.get("note") else "")
    if not traced(row):
        return [name, *["not traced"], *[""] * 10, verdict]
    policy = row.get("realizable")
    return [
        name,
        f"{row['parameters']:,}" if "parameters" in row else "",
        str(row["free"]),
        str(sum(f["axes"] for f in row["fixed"])),
        percent(row["removed"]) if "removed" in row else "",
        *(_compared(row, mode) for mode in ("evaluation", "training", "zeroed")),
        "yes" if own(row) else "no",
        f"{'yes' if own(row, 'realizable') else 'no'} ({percent(policy['removed'])})"
        if policy
        else "",
        f"{row['trace_seconds']:.1f}",
        f"{row['trace_over_export']:.1f}" if "trace_over_export" in row else "",
        verdict,
    ]


def _compared(row: Row, mode: str) -> str:
    if mode == "training" and row.get("trained") == "nothing":
        return "—"
    found = row.get("differences", {}).get(mode)
    return "" if found is None else "=" if found <= TOLERANCE else f"{found:.0e}"


def percent(share: float) -> str:
    """A share in per cent."""
    return f"{100 * share:.0f} %"


def _states(found: dict[str, Any]) -> str:
    """How many rows are of the engine as it is, and how many were taken before."""
    rows = found["networks"]
    earlier = sum(r.get("engine") != found.get("engine") for r in rows)
    if not earlier:
        return ""
    return (
        f"{earlier} of these {len(rows)} rows were taken by earlier states of the engine, while it "
        "was being changed, and have not been taken again.\n"
    )


def page(found: dict[str, Any]) -> str:
    """The page as Markdown."""
    from bench.zoo.exceptions import exceptions

    machine = found["machine"]
    versions = ", ".join(f"{k} {v}" for k, v in found["versions"].items())
    parts = [
        HEAD.format(count=len(found["networks"]), tolerance=TOLERANCE).rstrip() + "\n",
        _states(found),
        summary(found),
        peer_table(found),
        exceptions(found),
        *(family_table(found, f) for f in FAMILIES if rows_of(found, f)),
        f"Measured {found['date']} on {machine['processor']} ({machine['cores']} cores, one thread "
        f"each), Python {machine['python']}, {versions}.\n",
    ]
    return "\n".join(part for part in parts if part)


def store(rows: Iterable[Row]) -> None:
    """Write the findings and the page."""
    from importlib.metadata import version

    from bench.common import record

    rows = sorted(rows, key=lambda r: r["name"])
    path = record("zoo", None)
    found = json.loads(path.read_text())
    del found["results"]
    packages = ("torch", "torchvision", "timm", "transformers")
    found["engine"] = engine()
    found["versions"] = {p: version(p) for p in packages}
    found["peer_version"] = version("torch-pruning")
    found["networks"] = [r for r in rows if r["tool"] == "widthwise"]
    found["peer"] = [r for r in rows if r["tool"] != "widthwise"]
    path.write_text(_dump(found))
    PAGE.write_text(page(found))


def _dump(found: dict[str, Any]) -> str:
    """JSON with one network to a line, so that a change shows where it is."""
    text = json.dumps({k: v for k, v in found.items() if k not in ("networks", "peer")}, indent=1)
    lists = [
        f'"{key}": [\n' + ",\n".join(json.dumps(r) for r in found[key]) + "\n]"
        for key in ("networks", "peer")
    ]
    return text.removesuffix("\n}") + ",\n" + ",\n".join(lists) + "\n}\n"


if __name__ == "__main__":
    sys.exit(main(__doc__, lambda: {PAGE: page(json.loads(RESULTS.read_text()))}))
