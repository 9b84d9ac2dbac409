"""How good a network is: a metric on some data, at one width or at many.

evaluation = Evaluation(valid_batches, ACCURACY)
evaluation(module)                                       # 0.981
evaluation.at(net, [net.widths(0.5), net.full()])        # all on the same batches
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
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
    has_statistics,
    noted,
    remembered,
)
from widthwise.errors import DataError
from widthwise.graph.sharded import whole
from widthwise.measure.data import pairs
from widthwise.measure.metric import Metric, as_metric
from widthwise.measure.running import measured
from widthwise.variant import AnyWidths

Batches = Iterable[tuple[Any, Any]]


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
        complete = [net.complete(w) for w in widths]
        alone = [recalibrate and bool(net.engine.statistics(w)) for w in complete]
        together = [w for w, own in zip(complete, alone, strict=True) if not own]
        values: list[float] = []
        if together:
            # Gathered once, since processes may not have as many batches.
            with whole(net), torch.no_grad():
                values = self._total(
                    net, lambda inputs: _each(net, together, inputs), len(together)
                )
        shared = iter(values)
        return [
            self(net.engine.recalibrated(net.engine.cut(w)[0], w)) if own else next(shared)
            for w, own in zip(complete, alone, strict=True)
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
