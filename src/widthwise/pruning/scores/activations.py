"""What the features of an axis are on data, where they are first read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from widthwise.common.modes import evaluating
from widthwise.elastic.network import Elastic
from widthwise.errors import ScoreError
from widthwise.graph.capture.form import Form
from widthwise.graph.dims import free_factors
from widthwise.graph.relate import Related
from widthwise.measure.shape_costs import is_recurrent
from widthwise.pruning.paired import Side, flattened
from widthwise.pruning.scores.gates import entries_of, labels
from widthwise.pruning.scores.gradients import Batches, nonempty
from widthwise.pruning.scores.progress import finite, shown


@dataclass(frozen=True)
class Reading:
    """An operator that sums over the features of an axis.

    source: what makes the value that it reads. dim: of the value, where the features are.
    entries: (features, entries of a feature) int64, where in the dim each feature is.
    """

    node: fx.Node
    source: fx.Node
    dim: int
    entries: Tensor

    def values(self, x: Tensor) -> Tensor:
        """The features as (rows, features), real.

        The entries of a feature are rows too, and so are the two parts of a complex number.
        """
        if x.is_complex():
            x = torch.stack([x.real, x.imag], dim=-1).movedim(-1, 0)
            flat = x.movedim(self.dim + 1, -1).flatten(0, -2)
        else:
            flat = x.movedim(self.dim, -1).reshape(-1, x.shape[self.dim])  # (rows, entries)
        return flat[:, self.entries.T.to(x.device)].flatten(0, 1)


def first_readings(net: Elastic) -> dict[str, Reading]:
    """For each free axis the first operator that sums over its features, where there is one.

    Raises ScoreError where there is none for any axis.
    """
    found: dict[str, Reading] = {}
    # What is computed of weights alone is the same on all data, and so comes last.
    for of_data in (True, False):
        for name, node, source, dim in _where(net, of_data):
            if name not in found:
                found[name] = _reading(net, name, node, source, dim)
    if not found:
        raise ScoreError(
            "Nothing in the network sums over features that can be cut, so their values cannot be "
            "judged; use a score that needs none, such as magnitude."
        )
    return found


def every_reading(net: Elastic) -> dict[str, list[Reading]]:
    """For each free axis all operators that sum over its features, where data is read."""
    found: dict[str, list[Reading]] = {}
    for name, node, source, dim in _where(net, True):
        found.setdefault(name, []).append(_reading(net, name, node, source, dim))
    return found


def _where(net: Elastic, of_data: bool) -> Iterator[tuple[str, fx.Node, fx.Node, int]]:
    """(axis, operator, the value that it reads, the dim of that), of values that are of data."""
    related = net.engine.evaluation
    depends = _of_data(related)
    for node in related.contracted:
        wanted = {f for term in related.contracted[node] for f in free_factors(term)}
        for source in _read(related, node):
            if (source in depends) is not of_data:
                continue
            for dim, term in enumerate(related.dims[source]):
                if isinstance(term, list):
                    continue
                for name in {net.engine.table.of.get(f) for f in free_factors(term) if f in wanted}:
                    if name is not None:
                        yield name, node, source, dim


def _reading(net: Elastic, name: str, node: fx.Node, source: fx.Node, dim: int) -> Reading:
    return Reading(node, source, dim, _entries(net, name, net.engine.evaluation.dims[source][dim]))


def _read(related: Related, node: fx.Node) -> Iterator[fx.Node]:
    """The values that an operator reads, other than parameters and buffers."""
    # What a recurrent layer reads of its own features is the state that it starts from.
    for source in node.all_input_nodes[: 1 if is_recurrent(node) else None]:
        if source.name not in related.program.state and isinstance(related.dims.get(source), list):
            yield source


def _of_data(related: Related) -> set[fx.Node]:
    """The values that depend on the inputs."""
    found: set[fx.Node] = set()
    for node in related.program.graph.nodes:
        given = node.op == "placeholder" and node.name not in related.program.state
        if given or not found.isdisjoint(node.all_input_nodes):
            found.add(node)
    return found


def _entries(net: Elastic, name: str, term: Any) -> Tensor:
    feature = labels(term, {f for f, of in net.engine.table.of.items() if of == name})
    return entries_of(feature, net.free[name].size)


def feature_values(
    net: Elastic, batches: Batches, what: str, progress: bool
) -> Iterator[dict[str, Tensor]]:
    """For each batch the features of every axis where they are first read, (rows, features)."""
    readings = {name: [reading] for name, reading in first_readings(net).items()}
    form = Form(net.model, net.engine.evaluation.program)
    for inputs, _ in shown(nonempty(batches, net), batches, what, progress):
        found: dict[str, Tensor] = {}
        read_values(net, readings, flattened(form, inputs), found.__setitem__)
        yield found


def read_values(
    net: Elastic,
    readings: Mapping[str, Sequence[Reading]],
    leaves: list[Any],
    see: Callable[[str, Tensor], object],
) -> None:
    """Run the network on one batch, and give each axis with its features at each reading to `see`.

    leaves: the inputs as its graph takes them. The features come as (rows, features).
    """
    program = net.engine.evaluation.program
    wanted: dict[fx.Node, list[tuple[str, Reading]]] = {}
    for axis, each in readings.items():
        for reading in each:
            wanted.setdefault(reading.node, []).append((axis, reading))
    with evaluating(net.model):
        side = Side(program.graph, list(program.state.values()), net.engine.state(), [leaves])
        for node in program.graph.nodes:
            if node.op != "call_function":
                continue
            for axis, reading in wanted.get(node, ()):
                # Before the operator runs, which may write over what it reads.
                see(axis, reading.values(side[reading.source][0]))
            side.run(node)
            side.forget(node)


@dataclass(frozen=True)
class Moments:
    """What the features x of an axis are like together, over rows, float64.

    mean: E x, (features,). products: E x x', (features, features).
    """

    mean: Tensor
    products: Tensor

    @property
    def covariance(self) -> Tensor:
        """E (x - E x) (x - E x)', (features, features)."""
        return self.products - torch.outer(self.mean, self.mean)


def moments(net: Elastic, batches: Batches, *, progress: bool = False) -> dict[str, Moments]:
    """Means and products of the features of each axis, where they are first read.

    Axes whose features evaluation never sums over are not among them.

    Args:
        net: the network, left as it is.
        batches: (inputs, target), whose targets are not used.
        progress: a bar on standard error.

    Returns:
        By axis, moments in float64: means (size,) and products (size, size).

    Raises:
        ScoreError: Where that is so for all, where there is no batch, and for inputs of another
            form than the example.
    """
    sums: dict[str, tuple[Tensor, Tensor, int]] = {}
    for values in feature_values(net, batches, "moments", progress):
        for axis, x in values.items():
            wide = x.double()
            total, products, rows = sums.get(axis, (0, 0, 0))
            sums[axis] = (total + wide.sum(0), products + wide.T @ wide, rows + len(x))
    return {axis: Moments(t / rows, p / rows) for axis, (t, p, rows) in sums.items()}


def activation(
    net: Elastic,
    batches: Iterable[tuple[Any, Any]],
    *,
    statistic: str = "variance",
    progress: bool = False,
) -> dict[str, Tensor]:
    """How large, or how varied, each feature's values are where they are first read.

    Axes whose features evaluation never sums over (of an auxiliary head) have no scores.

    Args:
        statistic: "mean" of the absolute values, or "variance".

    Raises:
        ScoreError: For another statistic.
        ValueError: For another statistic.
    """
    if statistic not in ("mean", "variance"):
        raise ValueError(f"The statistic is {statistic!r}; give 'mean' or 'variance'.")
    sums: dict[str, Tensor] = {}
    rows: dict[str, int] = {}
    for values in feature_values(net, batches, "activations", progress):
        for axis, x in values.items():
            x = x.double()
            total = torch.stack([x.abs().sum(0), x.sum(0), x.square().sum(0)])
            sums[axis] = sums[axis] + total if axis in sums else total
            rows[axis] = rows.get(axis, 0) + len(x)
    means = {axis: total / rows[axis] for axis, total in sums.items()}
    if statistic == "mean":
        return finite({axis: m[0].float() for axis, m in means.items()})
    return finite({axis: (m[2] - m[1].square()).float() for axis, m in means.items()})


__all__ = [
    "Moments",
    "Reading",
    "activation",
    "every_reading",
    "feature_values",
    "first_readings",
    "moments",
    "read_values",
]
