"""The networks of a run, timed on this machine.

found = bench(Path("runs/digits"))
found.speeds.rows, found.granularities.rows         # benchmark.words says it
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from widthwise.app.report.curve import what_fits
from widthwise.app.report.picks import Pick, load_picks
from widthwise.app.runs.folder import Run, members, read_frontier
from widthwise.app.runs.opening import open_run
from widthwise.benchmark.granularity import Granularities, Granularity, granularity
from widthwise.benchmark.speed import REPEATS, Speed, Speeds, speeds
from widthwise.elastic.network import Elastic
from widthwise.measure.cost import onnx_runtime, runtime
from widthwise.measure.frontier import Frontier
from widthwise.variant import Widths

SHARES: Final = (0.5, 0.25, 0.1)  # of the full bytes, where nothing was picked yet


@dataclass(frozen=True)
class TimedNetwork:
    """One that is timed. bytes: of its file. smaller: the share of the full bytes it saves."""

    name: str
    widths: Widths
    bytes: int
    smaller: float


@dataclass(frozen=True)
class Timings:
    """What came out. networks: the full one first. examples: shapes and dtypes of one.

    picked: whether the networks are the run's picks, or the best within SHARES of the full size.
    """

    task: str
    networks: tuple[TimedNetwork, ...]
    picked: bool
    example: str
    machine: str
    threads: int
    repeats: int
    speeds: Speeds
    granularities: Granularities | None

    @property
    def notes(self) -> tuple[str, ...]:
        """What was not measured, and why."""
        more = self.granularities.notes if self.granularities else ()
        return tuple(dict.fromkeys((*self.speeds.notes, *more)))

    def to_dict(self) -> dict[str, Any]:
        """As JSON: milliseconds, ratios and verdicts; intervals hold the median in 95 of 100."""
        grains = self.granularities.rows if self.granularities else ()
        return {
            "task": self.task,
            "machine": self.machine,
            "runtimes": _versions(self),
            "threads": self.threads,
            "repeats": self.repeats,
            "example": self.example,
            "networks": [asdict(n) | {"widths": dict(n.widths)} for n in self.networks],
            "speeds": [_speed(row) for row in self.speeds.rows],
            "granularity": [_grain(row) for row in grains],
            "notes": list(self.notes),
        }


def bench(
    folder: Path,
    *,
    threads: int | None = None,
    repeats: int = REPEATS,
    granular: bool = True,
    progress: bool = False,
) -> Timings:
    """Time the picks of a run, or of the first of several seeds, beside its full network.

    Networks are cut to the widths of the picks: what a call takes does not depend on what a
    post-processing made of the weights, nor on zeros and bits, which save bytes and no time.
    granular: also find which multiples of widths are fast.

    Raises RunError where the run was not swept, and else as `open_run` and `speeds`.
    """
    first, frontier = members(folder)[0], read_frontier(folder)
    picks = load_picks(Run(folder).picks)
    opened = open_run(first)
    networks = chosen(opened.net, frontier, picks)
    modules = {n.name: _cut(opened.net, n.widths) for n in networks}
    args, kwargs = opened.net.engine.example()
    found = speeds(modules, args, kwargs, threads=threads, repeats=repeats, progress=progress)
    grains = None
    if granular:
        worked = tuple(dict.fromkeys(row.runtime for row in found.rows))
        grains = granularity(
            opened.net, threads=threads, repeats=repeats, runtimes=worked, progress=progress
        )
    return Timings(
        task=opened.task.name,
        networks=networks,
        picked=bool(picks),
        example=_form((args, kwargs)),
        machine=_machine(),
        threads=threads or torch.get_num_threads(),
        repeats=repeats,
        speeds=found,
        granularities=grains,
    )


def chosen(net: Elastic, frontier: Frontier, picks: list[Pick]) -> tuple[TimedNetwork, ...]:
    """The full network, then those that were picked, or the best within SHARES of its bytes.

    Picks of the same widths come once, under the names of all. Raises WidthError for picks of
    another network.
    """
    full = max(p.bytes for p in frontier.points)
    asked = [(pick.name, pick.widths, pick.bytes) for pick in picks] or [
        (f"{100 * share:g} %", point.widths, point.bytes)
        for share, point in what_fits(frontier, SHARES)
    ]
    names: dict[Widths, list[str]] = {net.full(): ["full"]}
    sizes = {net.full(): full}
    for name, widths, size in asked:
        kept = net.complete(widths)
        names.setdefault(kept, []).append(name)
        sizes.setdefault(kept, size)
    return tuple(
        TimedNetwork(", ".join(own), kept, sizes[kept], 1 - sizes[kept] / full)
        for kept, own in names.items()
    )


def _cut(net: Elastic, widths: Mapping[str, int]) -> nn.Module:
    """What `cut` stores: of the user's class where that is possible, else a graph module."""
    return net.engine.cut(widths)[0]


def _form(inputs: Any) -> str:
    """The inputs of one example: '8 x 8 float32'."""
    said = []
    for leaf in pytree.tree_leaves(inputs):
        if isinstance(leaf, Tensor):
            shape = " x ".join(map(str, leaf.shape[1:])) or "one"
            said.append(f"{shape} {str(leaf.dtype).removeprefix('torch.')}")
    return ", ".join(said)


def _machine() -> str:
    """The processor as far as Python knows it, and its vectors: 'x86_64, AVX512'."""
    return f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"


def _versions(found: Timings) -> list[str]:
    timed = {row.runtime for row in found.speeds.rows}
    said = [runtime()] if "PyTorch" in timed else []
    return said + ([onnx_runtime(found.threads)] if "ONNX Runtime" in timed else [])


def _speed(row: Speed) -> dict[str, Any]:
    return asdict(row) | {
        "samples_per_second": asdict(row.samples_per_second),
        "verdict": {"above": "faster", "below": "slower", "alike": "not faster"}.get(
            row.verdict, row.verdict
        ),
    }


def _grain(row: Granularity) -> dict[str, Any]:
    return asdict(row) | {"recommended": row.recommended}
