"""What timed networks come to, in plain words. Every word follows from measured numbers.

verdict_on("small", 0.61, rows)   # 'small: 61 % smaller; in PyTorch no faster at batch 1, ...'
advice(granularities)             # ['Take multiples of 16 in PyTorch at batch 32: ...']
"""

from collections.abc import Sequence

from widthwise.benchmark.granularity import TOLERANCE, Granularity
from widthwise.benchmark.speed import Speed
from widthwise.benchmark.timing import Spread


def verdict_on(name: str, smaller: float, rows: Sequence[Speed]) -> str:
    """One sentence on a network: how much smaller it is, and where it is faster, if anywhere.

    smaller: the share of the full network's bytes that it does without. rows: its own.
    """
    size = f"{100 * smaller:.0f} % smaller"
    if all(row.verdict in ("alike", "below") for row in rows):
        slower = [row for row in rows if row.verdict == "below"]
        end = f"; it is slower {_places(slower)}" if slower else ""
        return f"{name}: {size} but not faster here{end}."
    parts = []
    for runtime in dict.fromkeys(row.runtime for row in rows):
        own = [row for row in rows if row.runtime == runtime]
        alike: dict[str, list[str]] = {}
        for row in own:
            alike.setdefault(_how_fast(row), []).append(str(row.batch))
        said = [f"{how} at batch {_joined(batches)}" for how, batches in alike.items()]
        parts.append(f"in {runtime} {_joined(said)}")
    return f"{name}: {size}; {', '.join(parts)}."


def _how_fast(row: Speed) -> str:
    said = {
        "above": f"{times(row.ratio.median)} times as fast",
        "below": f"slower ({times(row.ratio.median)} times as fast)",
        "alike": "no faster",
        "unclear": f"too noisy to tell ({_range(row.ratio)} times as fast)",
    }
    return said[row.verdict]


def times(ratio: float) -> str:
    """A ratio, in two or three figures: '0.83', '1.42', '2.9', '12'."""
    return f"{ratio:.2f}" if ratio < 1.995 else f"{ratio:.1f}" if ratio < 9.95 else f"{ratio:.0f}"


def interval(ratio: Spread) -> str:
    """'1.42 (1.39-1.46)'."""
    return f"{times(ratio.median)} ({times(ratio.low)}-{times(ratio.high)})"


def _range(ratio: Spread) -> str:
    return f"{times(ratio.low)} to {times(ratio.high)}"


def _joined(said: Sequence[str]) -> str:
    return said[0] if len(said) == 1 else f"{', '.join(said[:-1])} and {said[-1]}"


def _places(rows: Sequence[Speed | Granularity]) -> str:
    """Where: 'in PyTorch at batch 1 and 32, in ONNX Runtime at batch 1'."""
    runtimes = dict.fromkeys(row.runtime for row in rows)
    batches = {name: [str(r.batch) for r in rows if r.runtime == name] for name in runtimes}
    return ", ".join(f"in {name} at batch {_joined(batches[name])}" for name in runtimes)


def advice(rows: Sequence[Granularity]) -> list[str]:
    """Which widths to choose, one sentence for each answer that came out."""
    said = []
    for multiple in sorted({row.recommended or 0 for row in rows}, reverse=True):
        own = [row for row in rows if (row.recommended or 0) == multiple]
        where = "" if len(own) == len(rows) else f" {_places(own)}"
        if multiple == 0:
            said.append(f"Which widths are fast is too noisy to tell{where}.")
        elif multiple == 1:
            coarsest = max(row.coarsest for row in own)
            said.append(
                f"Any width is as good here{where}: multiples of up to {coarsest} gain less than "
                f"{100 * TOLERANCE:.0f} %."
            )
        else:
            most = " (the coarsest tried)" if multiple in {row.coarsest for row in own} else ""
            said.append(
                f"Take multiples of {multiple}{most}{where}: other widths take up to "
                f"{100 * _lost(own, multiple):.0f} % longer than their size needs."
            )
    return said


def _lost(rows: Sequence[Granularity], recommended: int) -> float:
    """The share of time that finer widths take longer, where they take longest."""
    return max(r.median - 1 for row in rows for g, r in row.longer.items() if g < recommended)
