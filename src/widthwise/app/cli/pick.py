"""`widthwise pick RUN`: the best measured width within a budget."""

from widthwise.app.cli.common import (
    AnyClass,
    AsJson,
    Int8,
    MaxBytes,
    MaxLatency,
    MaxMacs,
    MaxParams,
    MinMetric,
    RunFolder,
    Shipped,
    cli_errors,
    pick_within,
    shipped_words,
    size_of,
)
from widthwise.app.cli.documents import of_point
from widthwise.app.cli.output import line, print_json
from widthwise.app.report import text
from widthwise.app.runs import opening
from widthwise.app.runs.folder import members, read_frontier
from widthwise.common.units import format_size
from widthwise.measure.budget import Budget

EXAMPLES = (
    "widthwise pick runs/digits --max-bytes 10kB",
    "widthwise pick runs/digits --max-bytes 20kB --format onnx",
    "widthwise pick runs/digits --min-metric 0.95 --max-latency-ms 0.5 --json",
)


@cli_errors
def pick(
    run: RunFolder,
    max_bytes: MaxBytes = None,
    max_params: MaxParams = None,
    max_macs: MaxMacs = None,
    max_latency_ms: MaxLatency = None,
    min_metric: MinMetric = None,
    form: Shipped = "safetensors",
    int8: Int8 = False,
    any_class: AnyClass = False,
    as_json: AsJson = False,
) -> None:
    """Print the best measured width that meets every limit given; of equals, the smallest.

    With --format, the bytes are counted in a real file of that format, exported to see. In runs
    trained along levels, widthwise cut fills --max-bytes: it goes on from there to the widest
    network that fits, where no other limit is given.
    """
    frontier = read_frontier(run)
    counted = None
    if form != "safetensors" or int8:
        counted = size_of(opening.open_run(members(run)[0]), form, int8)
    budget = Budget(max_bytes, max_params, max_macs, max_latency_ms, min_metric)
    point = pick_within(budget, frontier, counted, any_class=any_class)
    shipped = {} if counted is None else {shipped_words(form, int8): counted(point)}
    if as_json:
        file = {} if counted is None else {"format": form, "shipped_bytes": counted(point)}
        print_json({"run": run, **of_point(frontier, point), **file})
        return
    rows = {
        f"{frontier.metric} ({frontier.split})": text.value(
            frontier.metric, point.metric, point.spread
        ),
        "size": format_size(point.bytes),
        **{f"as {name}": format_size(size) for name, size in shipped.items()},
        "parameters": text.count(point.params),
        "MACs": text.count(point.macs),
        "latency": f"{text.milliseconds(point.latency_ms)} ms" if point.latency_ms else "-",
        "widths": text.widths(point.widths),
        **({"post-processing": frontier.post_process} if frontier.post_process else {}),
    }
    longest = max(map(len, rows))
    for label, said in rows.items():
        line(f"{label:<{longest}}  {said}")
