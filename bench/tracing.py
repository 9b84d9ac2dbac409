"""How long Elastic(...) takes beside torch.export alone, on a fixed sample of the zoo.

    python -m bench.tracing                          # a few minutes; 1 when the bound is not kept
    python -m bench.tracing --only nets/gpt timm/levit_128s
    python -m bench.tracing --write                  # and store bench/results/tracing.json

Times are processor seconds of one thread in a process of its own for each network, so that other
work on the machine matters little: the least of several runs in turns, after a warm-up, with
Python's collection of garbage switched off, as timeit does, for it falls on either. Export
leaves the same sizes free as widthwise does, in evaluation mode, once; Elastic(...) captures both
modes and checks outputs, gradients and axes.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
import warnings
from typing import Any

from bench.zoo.names import engine
from bench.zoo.runner import Row, look_at_all

BOUND = 2.0  # of the median over all networks
NETS = ("nets/mlp_batchnorm", "nets/resnet", "nets/gpt", "nets/lstm", "nets/unet")


def measure(network: Any, runs: int = 3) -> dict[str, Any]:
    """Processor seconds of torch.export, of Elastic(...), and of Elastic(..., prove=False)."""
    import torch
    from bench.zoo.check import export_seconds

    import widthwise as ww

    torch.manual_seed(0)
    made = network.make()
    made[0].eval()

    def traced(prove: bool) -> float:
        gc.collect()
        began = time.process_time()
        ww.Elastic(*made, prove=prove)
        return time.process_time() - began

    taken: list[tuple[float, float, float]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.disable()
        for _ in range(runs + 1):
            taken.append((export_seconds(made), traced(True), traced(False)))
    export, trace, unproven = (min(column) for column in zip(*taken[1:], strict=True))
    return {
        "name": network.name,
        "engine": engine(),
        "export_seconds": round(export, 3),
        "trace_seconds": round(trace, 3),
        "trace_without_proof_seconds": round(unproven, 3),
        "trace_over_export": round(trace / export, 2),
    }


def summary(rows: list[Row]) -> dict[str, Any]:
    """The figures of a run."""
    ratios = [r["trace_over_export"] for r in rows if "trace_over_export" in r]
    return {
        "networks": len(rows),
        "median_trace_over_export": round(statistics.median(ratios), 2) if ratios else None,
        "largest": max(ratios, default=None),
        "rows": sorted(rows, key=lambda r: r["name"]),
    }


def main() -> int:
    """Measure, print, and store when asked; 1 when the bound is not kept."""
    from bench.common import record
    from bench.zoo.families import SAMPLE

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", default=(*NETS, *SAMPLE), metavar="NAME")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--limit", type=float, default=300, metavar="SECONDS", help="of processor")
    parser.add_argument("--write", action="store_true", help="store the figures")
    options = parser.parse_args()
    rows = []
    for row in look_at_all([("tracing", n) for n in options.only], options.jobs, options.limit):
        rows.append(row)
        print(json.dumps(row), flush=True)
    found = summary(rows)
    median = found["median_trace_over_export"]
    print(f"median {median} times torch.export, largest {found['largest']}")
    if options.write:
        print(f"written to {record('tracing', found)}")
    return 0 if median is not None and median <= BOUND else 1


if __name__ == "__main__":
    raise SystemExit(main())
