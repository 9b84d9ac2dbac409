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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from widthwise.common.calling import outputs_for
from widthwise.common.modes import evaluating
from widthwise.elastic.network import Elastic
from widthwise.elastic.recalibration import (
    Recalibrate,
    StatisticsWarning,
    has_statistics,
    noted,
    remembered,
)
from widthwise.errors import DataError, TrainingError, WidthError
from widthwise.graph.axes import Grid
from widthwise.graph.sharded import whole
from widthwise.measure.cost import batch_size, latency_ms, one_example, runtime
from widthwise.measure.data import pairs
from widthwise.measure.frontier import Frontier, Point
from widthwise.measure.metric import Metric, as_metric
from widthwise.measure.running import measured
from widthwise.measure.shape_costs import Costs
from widthwise.sampling.levels import along
from widthwise.store.file import Stored
from widthwise.store.packed.tensors import Pack
from widthwise.store.shapes import Shapes
from widthwise.variant import AnyWidths, Widths

Batches = Iterable[tuple[Any, Any]]
PostProcess = Callable[[nn.Module, Widths], nn.Module]
"""(cut network, its widths) -> the network to measure, of the same shapes; may be the same."""


class NotMeasuredWarning(UserWarning):
    """A width is missing from a frontier because its metric is not a finite number."""


@dataclass(frozen=True)
class Evaluation:
    """How good a network is on some data.

    Args:
        batches: data in any form (`measure.data`) that can be gone through again (a DataLoader, a
            list of batches, a Dataset) or a function that returns some. inputs: a tensor, a tuple
            of arguments or a dict. They are moved to the network's device.
        metric: what is measured: a Metric, or what `as_metric` makes one of, such as an object of
            torchmetrics or a function of sklearn.metrics. It is one of all the data, the same
            whatever the size of the batches.
        split: the name of the data.
        shared: between the processes of torch.distributed, each of which takes every n-th batch;
            all of them evaluate together, on the same batches, and get the same values.

    Example:
        Evaluation(valid_loader, ACCURACY)(module)      # 0.981
    """

    batches: Callable[[], Batches] | Batches
    metric: Metric  # or what `as_metric` takes
    split: str = "valid"
    shared: bool = False

    @staticmethod
    def by(
        function: Callable[[nn.Module], float],
        *,
        higher_is_better: bool,
        name: str | None = None,
        split: str = "valid",
    ) -> Judged:
        """How good a network is by a function of the module, in the place of data and a metric.

        Args:
            function: (module in evaluation mode) -> a number.
            higher_is_better: the direction of that number.
            name: what the number is called; by default the function's name.
            split: the name of the data that the function uses.

        Returns:
            What `sweep` and `search` take in the place of an `Evaluation`.

        Example:
            Evaluation.by(bleu_of, higher_is_better=True, name="BLEU")
        """
        called = name or str(getattr(function, "__name__", type(function).__name__))
        return Judged(function, Metric(called, function, higher_is_better), split)

    def again(self) -> Batches:
        """The batches, from the first one."""
        return self.batches() if callable(self.batches) else self.batches

    def __post_init__(self) -> None:
        object.__setattr__(self, "metric", as_metric(self.metric))

    def __call__(self, module: nn.Module) -> float:
        """The metric of a module, in evaluation mode; its modes are then as before.

        Raises DataError when there is no data, TrainingError for a metric that does not fit.
        """
        see, remember = noted(_owner(module))
        with evaluating(module):
            (value,) = self._total(module, lambda inputs: [outputs_for(module, see(inputs))], 1)
        remember()
        return value

    def at(
        self, net: Elastic, widths: Sequence[AnyWidths], *, recalibrate: bool = True
    ) -> list[float]:
        """The metric of a network at each of several widths, as what `cut` returns has it.

        Widths that have running statistics of their own are cut and measured one by one, all others
        together.

        Args:
            net: the network, left as it is.
            widths: as `net.cut` takes them.
            recalibrate: False leaves every width with the running statistics of full width.

        Returns:
            The metric at each of `widths`.

        Raises:
            DataError: When there is no batch.
        """
        if recalibrate:
            self.show(net)
        alone = [recalibrate and bool(net.statistics(w)) for w in widths]
        together = [w for w, own in zip(widths, alone, strict=True) if not own]
        values: list[float] = []
        if together:
            # Gathered once, since processes may not have as many batches.
            with whole(net), torch.no_grad():
                values = self._total(
                    net, lambda inputs: _each(net, together, inputs), len(together)
                )
        shared = iter(values)
        return [
            self(net.recalibrated(net.cut_with_patches(w)[0], w)) if own else next(shared)
            for w, own in zip(widths, alone, strict=True)
        ]

    def show(self, net: Elastic) -> None:
        """Let a network that remembers no data see these, for its running statistics."""
        if remembered(net.model) or not has_statistics(net.model):
            return
        batches = self.again()
        see, remember = noted(net.model)
        if iter(batches) is not batches:  # what can be gone through once is left for the metric
            for inputs, _ in pairs(batches, net):
                see(inputs)
            remember()

    def _total(
        self, module: nn.Module, outputs: Callable[[Any], Iterable[Any]], number: int
    ) -> list[float]:
        """The metric of `number` networks, whose outputs for a batch's inputs are given."""

        def batches() -> Iterable[tuple[Iterable[Any], Any]]:
            return ((outputs(inputs), target) for inputs, target in self._share(module))

        found = measured(self.metric, batches, number, self._several())
        if number and not found:
            raise DataError(
                f"There is no batch to evaluate on in split {self.split!r}; give batches that can "
                "be gone through again, such as a DataLoader or a list."
            )
        return found

    def _several(self) -> bool:
        return self.shared and dist.is_available() and dist.is_initialized()

    def _share(self, module: nn.Module) -> Iterable[tuple[Any, Any]]:
        """The batches of this process."""
        batches = pairs(self.again(), module)
        if not self._several():
            return batches
        return islice(batches, dist.get_rank(), None, dist.get_world_size())


@dataclass(frozen=True)
class Judged:
    """How good a network is by a function of a module, in the place of an `Evaluation`.

    function: module -> number, called with the module in evaluation mode. metric: the name and
    direction of that number. split: the name of the data.
    """

    function: Callable[[nn.Module], float]
    metric: Metric
    split: str = "valid"

    def __call__(self, module: nn.Module) -> float:
        """The number of a module; its modes are then as before."""
        with evaluating(module):
            return float(self.function(module))


def judged(given: Evaluation | Judged) -> Evaluation | Judged:
    """What users gave. Raises ValueError for a function, which does not tell its direction."""
    if isinstance(given, Evaluation | Judged):
        return given
    name = getattr(given, "__name__", type(given).__name__)
    raise ValueError(
        f"Whether a higher {name} is better cannot be told from a function; give "
        f"Evaluation.by({name}, higher_is_better=True), or False."
    )


def _owner(module: nn.Module) -> nn.Module:
    """The user's own module, which remembers data."""
    net = module.net if isinstance(module, AtWidths) else module
    return net.model if isinstance(net, Elastic) else net


def _each(net: Elastic, widths: Sequence[AnyWidths], inputs: Any) -> Iterable[Any]:
    outputs: Iterable[Any] = outputs_for(partial(net.each, widths), inputs)
    return outputs


class AtWidths(nn.Module):
    """A network seen at fixed widths: a module that shares everything with the network.

        AtWidths(net, net.widths(0.5))(x)      # as net(x, widths=net.widths(0.5))

    Raises WidthError for widths that the network cannot have.
    """

    def __init__(self, net: Elastic, widths: AnyWidths) -> None:
        super().__init__()
        self.net = net
        self.widths = net.complete(widths)
        self.training = net.training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The network's outputs at the widths."""
        return self.net(*args, widths=self.widths, **kwargs)


def even_levels(
    net: Elastic,
    count: int | None = None,
    *,
    lowest: float = 1 / 16,
    multiple_of: int = 1,
    drawn: bool = True,
) -> list[Widths]:
    """Widths from narrow to full, all axes together.

    Where all axes have the same size (an MLP 784-256-256-10) and no count is given: every width
    from 1 to that size. Otherwise `count` (16) fractions from `lowest` to 1, each the same factor
    above the last, because budgets are thought of in factors; those that round to the same widths
    come once. Axes inside another (a head size) stay full, as in `net.widths`; all widths are ones
    that the network's constraints allow.

    Args:
        drawn: no axis is narrower than training draws it (`net.lowest`). False for widths that a
            training is still to draw from.

    Raises:
        WidthError: For a count below 1 or a fraction outside (0, 1].
    """
    axes = {name: axis for name, axis in net.free.items() if axis.inner_of is None}
    sizes = {name: axis.size for name, axis in axes.items()}
    if not sizes:
        return [Widths()]
    if count is None and len(set(sizes.values())) == 1:
        steps = range(1, max(sizes.values()) + 1)
        every = [Widths({n: a.near(w, multiple_of) for n, a in axes.items()}) for w in steps]
        return _raised(net, every, multiple_of, drawn)
    count = 16 if count is None else count
    if count < 1:
        raise WidthError(f"The number of widths is {count}; give at least 1.")
    if not 0 < lowest <= 1:
        raise WidthError(f"The lowest fraction is {lowest}; give a number above 0, at most 1.")
    fractions = [lowest ** (i / max(1, count - 1)) for i in reversed(range(count))]
    found = [net.widths(f, multiple_of) for f in fractions[:-1]]
    return _raised(net, [*found, Widths(sizes)], multiple_of, drawn)


def _raised(net: Elastic, widths: Iterable[Widths], multiple_of: int, drawn: bool) -> list[Widths]:
    """These widths, none below what training draws; those that become the same come once."""
    lowest: dict[str, int] = {}
    for name, width in net.lowest.items() if drawn else ():
        axis = net.free[name]
        grid = Grid(math.lcm(multiple_of, axis.grid.multiple_of), axis.grid.at_least)
        lowest[name] = min(axis.size, grid.up(width))
    raised = (Widths({n: max(w, lowest.get(n, w)) for n, w in some.items()}) for some in widths)
    return list(dict.fromkeys(raised))


def usual_widths(net: Elastic, count: int | None = None) -> list[Widths]:
    """Widths from narrow to full: along the levels that the network was trained at, else levels.

    count: how many; None is every level, and two more between any two of them where all widths are
        measured together; or what `even_levels` chooses. Raises WidthError for a count below 1.
    """
    if not net.levels:
        return even_levels(net, count)
    if count is not None and count < 1:
        raise WidthError(f"The number of widths is {count}; give at least 1.")
    if count is None:
        # With statistics of its own, each width costs as much as a validation.
        count = len(net.levels) if has_statistics(net.model) else 3 * len(net.levels) - 2
    return along(net.free, net.levels, count)


def sweep(
    net: Elastic,
    evaluation: Evaluation | Judged,
    widths: Sequence[AnyWidths] | None = None,
    *,
    latency: bool = True,
    recalibrate: Recalibrate = True,
    post_process: PostProcess | None = None,
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
        net.recalibrated(net, net.full(), recalibrate)
    elif recalibrate and isinstance(evaluation, Evaluation):
        evaluation.show(net)
    own = recalibrate is not False and any(net.statistics(w) for w in chosen)
    together = post_process is None and not own
    values = _metrics(net, evaluation, chosen, say) if together else []
    meter = Meter(net, latency)
    shapes = Shapes(net, chosen)
    points: list[Point] = []
    for i, w in enumerate(chosen):
        say(i, "cost" if together else "metric and cost")
        module = shapes.module(w) if latency or pack != "none" or not together else None
        if module is not None and not together:
            module = net.recalibrated(module, w, recalibrate is not False)
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
        self.example = net.example()
        self.timed, self.batch = one_example(*self.example), 1
        if not _runs(net, self.timed):
            self.timed, self.batch = self.example, batch_size(*self.example)

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
