"""A comparison as files: page, table and pictures.

publish(folder, outcomes, ACCURACY, title="MNIST", facts={"recipe": "10 epochs of AdamW"})
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from widthwise.app.compare.outcome import Outcome
from widthwise.app.compare.report import csvfile, page, picture
from widthwise.app.compare.report.chart import ways
from widthwise.app.compare.report.summary import Comparison, compare
from widthwise.common.atomic import write_whole
from widthwise.measure.metric import Metric


def publish(
    folder: Path,
    outcomes: Sequence[Outcome],
    metric: Metric,
    *,
    title: str,
    facts: Mapping[str, str],
) -> Comparison:
    """Write comparison.html, comparison.csv and the pictures into a folder.

    The pictures are comparison.png, and latency.png and cost.png where these were measured.
    facts: what is said about the comparison on the page, label -> text. Returns what was shown.
    Raises RunError for outcomes that cannot be compared, and FileError when a file cannot be
    written.
    """
    comparison = compare(outcomes, metric, title=title)
    write_whole(folder / "comparison.csv", [csvfile.rows(comparison).encode()])
    picture.draw(comparison, folder / "comparison.png")
    for across, name in (("latency_ms", "latency.png"), ("seconds", "cost.png")):
        if across in ways(comparison):
            picture.draw(comparison, folder / name, across=across)
    page.write(comparison, folder / "comparison.html", facts=facts)
    return comparison
