"""The sections of docs/results.md on hostile files and hostile clients."""

from __future__ import annotations

from pages import Found, table

ANSWERS = {
    "0": "connection closed",
    "200": "answered",
    "206": "answered in part",
    "429": "asked to come again",
}


def files(found: Found) -> str:
    """What readers did with changed files. found: the stored result of `bench/hostile.py`."""
    rows = [
        [
            name,
            f"{row['files']:,}",
            f"{row['refused']:,}",
            f"{row['loaded']:,}",
            str(row["wrong"]),
            f"{row['slowest_seconds']:.2f} s",
            f"{row['most_megabytes']:.0f} MB",
        ]
        for name, row in found["results"].items()
    ]
    columns = ["reader", "files", "refused", "loaded", "wrong", "slowest", "most memory"]
    total = sum(row["files"] for row in found["results"].values())
    wrong = sum(row["wrong"] for row in found["results"].values())
    return f"""## Hostile files

{total:,} changed files (`bench/hostile.py`, which says how; [the promise](../SECURITY.md)): each
must be refused in one sentence, or load as what was written or, where its checksum was made right
again, as a network of the user's class. {wrong} did anything else.

{table(columns, rows)}
"""


def clients(found: Found) -> str:
    """How the picker's server holds. found: the stored result of `bench/serve_load.py`."""
    results = found["results"]
    refused = sum(n for s, n in results["statuses"].items() if s.startswith("4") and s != "429")
    failed = sum(n for s, n in results["statuses"].items() if s.startswith("5"))
    answers = [[what, f"{results['statuses'].get(s, 0):,}"] for s, what in ANSWERS.items()]
    answers += [["refused", f"{refused:,}"], ["failed (5xx)", str(failed)]]
    slower = results["times that, under load"]
    times = [
        [name, f"{idle:.0f} ms", *(f"{slower[name][p]:.0f}x" for p in ("p50", "p95", "p99"))]
        for name, idle in results["idle ms"].items()
    ]
    memory = results["memory MB"]
    mistakes = sum(results["mistakes"].values())
    return f"""## The picker under load

{results["clients"]} clients for {results["seconds"]:.0f} seconds, on loopback: pages, networks at
random widths, examples, drawings, downloads that are broken off and go on, and requests that are
malformed, oversized, endless, from elsewhere, or for files outside of the run
(`bench/serve_load.py`). {results["requests"]:,} requests, {mistakes} answered
otherwise than they should be.

{table(["answer", "requests"], answers)}

{table(["request", "idle", "median under load", "95 %", "99 %"], times)}

The server's memory: {memory["start"]} MB once everything was used, {memory["middle"]} in the
middle, {memory["end"]} at the end, {memory["peak"]} at most.
"""
