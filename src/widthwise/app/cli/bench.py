"""`widthwise bench RUN`: will its smaller networks be faster on this machine?"""

from typing import Annotated

import typer
from rich.table import Table

from widthwise.app.cli.common import AsJson, RunFolder, all_or_nothing, cli_errors
from widthwise.app.cli.output import console, line, note, print_json, table, watched
from widthwise.app.report import text
from widthwise.app.runs import timings
from widthwise.benchmark.speed import FASTER, REPEATS
from widthwise.benchmark.words import advice, interval, verdict_on
from widthwise.common.units import format_size

EXAMPLES = (
    "widthwise bench runs/digits",
    "widthwise bench runs/digits --threads 1 --repeats 31",
    "widthwise bench runs/digits --no-granularity --json > speed.json",
)


@cli_errors
def bench(
    run: RunFolder,
    threads: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="That a call may use; by default as many as torch takes."
        ),
    ] = None,
    repeats: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=6,
            help="Rounds, each with all networks; more tell smaller gains apart.",
        ),
    ] = REPEATS,
    granular: Annotated[
        bool,
        typer.Option(
            "--granularity/--no-granularity",
            help="Also find which multiples of widths are fast here, which takes longer.",
        ),
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Time a run's picks beside its full network on this machine's CPU, and say what is faster.

    PyTorch and ONNX Runtime, one example a call and 32. Without picks, the best networks within
    50, 25 and 10 % of the full size are timed. Nothing is written to the run.
    """
    with all_or_nothing():
        found = timings.bench(
            run, threads=threads, repeats=repeats, granular=granular, progress=watched()
        )
    if as_json:
        print_json({"run": run, **found.to_dict()})
        return
    console.print(f"[bold]{found.task}: how fast on this machine[/]")
    console.print(_rows(found))
    console.print(_how(found), markup=False, soft_wrap=True, style="dim")
    for sentence in _said(found):
        line(sentence)
    for remark in found.notes:
        note(remark)


def _rows(found: timings.Timings) -> Table:
    made = table(
        "runtime", "batch", "network", "size", "ms", "examples/s", "times as fast",
        names=("runtime",), text=("network",),
    )  # fmt: skip
    sizes = {network.name: network.bytes for network in found.networks}
    first = found.networks[0].name
    for row in found.speeds.rows:
        full = row.network == first
        made.add_row(
            row.runtime if full else "",
            str(row.batch) if full else "",
            row.network,
            format_size(sizes[row.network]),
            text.milliseconds(row.milliseconds.median),
            f"{row.samples_per_second.median:,.0f}",
            "" if full else interval(row.ratio),
            end_section=row.network == found.networks[-1].name,
        )
    return made


def _how(found: timings.Timings) -> str:
    """How it was measured, and what is called faster."""
    threads = f"{found.threads} thread{'s' if found.threads != 1 else ''}"
    return (
        f"{found.machine}, {threads}; an example is {found.example}. Medians of {found.repeats} "
        "rounds, in which all networks take turns, and in brackets where the true one lies in 95 "
        f"of 100 cases. Faster is what lies above 1, by at least {100 * FASTER:.0f} %."
    )


def _said(found: timings.Timings) -> list[str]:
    """A sentence for each network, then which widths to take."""
    rows = found.speeds.rows
    lines = [
        verdict_on(n.name, n.smaller, [row for row in rows if row.network == n.name])
        for n in found.networks[1:]
    ]
    if len(found.networks) == 1:
        lines = ["There is no smaller network to time; cut one, or sweep more widths."]
    return lines + (advice(found.granularities.rows) if found.granularities else [])
