"""Measure a network at many widths.

    evaluation = Evaluation(valid_batches, ACCURACY)
    frontier = sweep(net, evaluation)                        # every width, or 16 of them
    frontier = sweep(net, evaluation, [net.widths(0.5)])     # these

All widths are evaluated together: the batches are gone through once, and what the widths have in
common is computed once for a batch (`Elastic.each`), so that all 256 widths of a small MLP take
the time of twenty to fifty full passes. Where each cut is changed before it is measured (statistics
re-estimated, post-processing), each is evaluated by itself.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from widthwise.common.calling import batch_size
from widthwise.common.modes import evaluating
from widthwise.elastic.network import Elastic
from widthwise.elastic.recalibration import (
    Recalibrate,
    StatisticsWarning,
)
from widthwise.errors import TrainingError
from widthwise.measure.cost import latency_ms, one_example, runtime
from widthwise.measure.evaluation import AtWidths, Evaluation, Judged, judged
from widthwise.measure.even_levels import usual_widths
from widthwise.measure.frontier import Frontier, Point
from widthwise.measure.shape_costs import Costs
from widthwise.store.file import Stored
from widthwise.store.packed.tensors import Pack
from widthwise.store.shapes import Shapes
from widthwise.variant import AnyWidths, Widths

CutChange = Callable[[nn.Module, Widths], nn.Module]
"""(cut network, its widths) -> the network to measure, of the same shapes; may be the same."""


class NotMeasuredWarning(UserWarning):
    """A width is missing from a frontier because its metric is not a finite number."""


def sweep(
    net: Elastic,
    evaluation: Evaluation | Judged,
    widths: Sequence[AnyWidths] | None = None,
    *,
    latency: bool = True,
    recalibrate: Recalibrate = True,
    post_process: CutChange | None = None,
    pack: Pack = "none",
    progress: bool = False,
) -> Frontier:
    """Measure a network at many widths: its metric and what each costs.

    A width whose metric is not finite is left out with a NotMeasuredWarning.

    Args:
        net: the network, left as it is.
        evaluation: an `Evaluation`, for which all widths run together; or `Evaluation.by` a
            function of a module, which is called once for each width.
        widths: of each network, or its fraction; by default `usual_widths(net)`.
        latency: also measure the time of one call on one example with this machine's PyTorch.
        recalibrate: running statistics (batch norms) are re-estimated for each width, as
            `Elastic.cut` does it and takes it; every width is then cut and evaluated by itself. A
            network that remembers no data sees the `Evaluation`'s; a cut later gets the same
            statistics.
        post_process: changes each cut before it is measured, after its statistics were
            estimated, such as `pruning.reconstruct_`; every width is then evaluated by itself, too.
        pack: how files are written whose bytes are told, as `save` takes it.
        progress: say on stderr what is being measured.

    Raises:
        WidthError: For widths that the network cannot have.
        DataError: When there is no data.
        TrainingError: When no width has a metric.
    """
    judged(evaluation)
    named = (Widths(w) if isinstance(w, Mapping) else net.widths(w) for w in widths or ())
    chosen = usual_widths(net) if widths is None else list(dict.fromkeys(named))
    for w in chosen:
        net.complete(w)
    say = _Progress(progress, len(chosen))
    if not isinstance(recalibrate, bool):
        net.engine.recalibrated(net, net.full(), recalibrate)
    elif recalibrate and isinstance(evaluation, Evaluation):
        evaluation.show(net)
    own = recalibrate is not False and any(net.engine.statistics(w) for w in chosen)
    together = post_process is None and not own
    values = _metrics(net, evaluation, chosen, say) if together else []
    meter = Meter(net, latency)
    shapes = Shapes(net, chosen)
    points: list[Point] = []
    for i, w in enumerate(chosen):
        say(i, "cost" if together else "metric and cost")
        module = shapes.module(w) if latency or pack != "none" or not together else None
        if module is not None and not together:
            module = net.engine.recalibrated(module, w, recalibrate is not False)
            module = module if post_process is None else post_process(module, w)
            values.append(evaluation(module))
        if math.isfinite(values[i]):
            stored = shapes.stored(w)
            stored = stored.holding(module, pack) if pack != "none" else stored
            points.append(meter.point(w, values[i], stored, module))
        else:
            message = f"{dict(w)} is left out: its metric is {values[i]}."
            warnings.warn(message, NotMeasuredWarning, stacklevel=2)
    say.done()
    if not points:
        raise TrainingError("The metric is not a number at any width; train the network again.")
    return Frontier(
        points=tuple(points),
        metric=evaluation.metric.name,
        higher_is_better=bool(evaluation.metric.higher_is_better),
        split=evaluation.split,
        runtime=runtime(net),
        batch=meter.batch,
    )


class Meter:
    """What cuts of a network cost, all on the same example."""

    def __init__(self, net: Elastic, latency: bool = True) -> None:
        self.net = net
        self.latency = latency
        self.costs = Costs(net, "macs")
        self.example = net.engine.example()
        self.timed, self.batch = one_example(*self.example), 1
        if not _runs(net, self.timed):
            self.timed, self.batch = self.example, batch_size(self.example) or 1

    def point(
        self, widths: Widths, metric: float, stored: Stored, module: nn.Module | None
    ) -> Point:
        """The point of a cut. stored: what its file holds. module: the cut, which is timed."""
        return Point(
            widths=widths,
            metric=metric,
            spread=None,
            bytes=stored.bytes,
            params=stored.params,
            macs=self.macs(widths),
            latency_ms=self.latency_ms(module) if self.latency and module is not None else None,
            own_class=stored.reason is None,
        )

    def macs(self, widths: AnyWidths) -> int:
        """Multiply-accumulates for one example."""
        return int(self.costs.total(self.net.complete(widths)))

    def latency_ms(self, module: nn.Module) -> float:
        """Milliseconds for one call, in a look of 20 of them."""
        return latency_ms(module, *self.timed, seconds=0.02)


def _metrics(
    net: Elastic,
    evaluation: Evaluation | Judged,
    widths: Sequence[Widths],
    say: _Progress,
) -> list[float]:
    if isinstance(evaluation, Evaluation):
        say(0, "metric")
        return evaluation.at(net, widths, recalibrate=False)
    values = []
    for i, w in enumerate(widths):
        say(i, "metric")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", StatisticsWarning)  # these were asked for
            values.append(evaluation(AtWidths(net, w)))
    return values


def _runs(module: nn.Module, example: tuple[tuple[Any, ...], dict[str, Any]]) -> bool:
    """Whether a network takes these inputs; one may have been captured for one batch size."""
    try:
        with evaluating(module):
            module(*example[0], **example[1])
    except Exception:  # noqa: BLE001  a module may fail in any way
        return False
    return True


class _Progress:
    """One line on stderr, written over again."""

    def __init__(self, wanted: bool, total: int) -> None:
        self.wanted = wanted
        self.total = total

    def __call__(self, done: int, what: str) -> None:
        if self.wanted:
            sys.stderr.write(f"\r{what}: {done + 1} of {self.total} widths ")
            sys.stderr.flush()

    def done(self) -> None:
        if self.wanted:
            sys.stderr.write("\n")
