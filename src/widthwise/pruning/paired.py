"""Running the full network and a cut of it side by side, operator by operator, on all batches.

Each operator runs on every batch before the next one does, so that something can be fitted to all
the data at one operator before those behind it run: one pass does what would take one for each
layer. In memory are the values that are still needed, of all batches.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from widthwise.common.calling import outputs_for
from widthwise.elastic.network import Elastic
from widthwise.errors import CaptureError, ScoreError
from widthwise.graph.capture.form import Form
from widthwise.graph.rewrite import cut_graph


class Side:
    """One graph and the values that it has for each batch.

    values: for each batch, by node, what has been computed and is still needed.
    """

    def __init__(
        self, graph: fx.Graph, names: Sequence[str], tensors: Mapping[str, Tensor], inputs: Any
    ) -> None:
        placeholders = graph.find_nodes(op="placeholder")
        state = [tensors[name] for name in names]
        # Where the parameters are; constants, and what operators make, may have been elsewhere.
        self.device = state[0].device if state else torch.device("cpu")
        state = [t.to(self.device) for t in state]
        self.values: list[dict[fx.Node, Any]] = [
            dict(zip(placeholders, [*state, *leaves], strict=True)) for leaves in inputs
        ]
        self.last = _last_uses(graph)

    def run(self, node: fx.Node) -> None:
        """Run an operator on every batch."""
        assert callable(node.target)
        for values in self.values:
            args, kwargs = fx.node.map_aggregate(
                (node.args, dict(node.kwargs)), partial(_value, values)
            )
            if "device" in kwargs:
                kwargs = {**kwargs, "device": self.device}
            values[node] = node.target(*args, **kwargs)

    def forget(self, node: fx.Node) -> None:
        """Drop what no operator behind this one needs."""
        for values in self.values:
            for done in self.last.get(node, ()):
                values.pop(done, None)

    def __getitem__(self, node: fx.Node) -> list[Any]:
        """A node's value for each batch."""
        return [values[node] for values in self.values]


class Lockstep:
    """The evaluation graph of a network and of its cut, on the same batches.

        for node, twin in lockstep: ...      # both have just run

    net: at full width. state: the tensors of the cut by name, read at every operator, so that they
    may be changed in place for the operators to come. inputs: one set for each batch. wanted:
    operators of the full graph, behind the last of which nothing runs: what comes after, such as
    a language model's logits, may be the largest of all.
    """

    def __init__(
        self,
        net: Elastic,
        widths: Mapping[str, int],
        state: Mapping[str, Tensor],
        inputs: Sequence[Any],
        wanted: Collection[fx.Node],
    ) -> None:
        program = net.engine.evaluation.program
        names = list(program.state.values())
        form = Form(net.model, program)
        leaves = [flattened(form, x) for x in inputs]
        self.graph = cut_graph(net.engine.evaluation, net.engine.table, widths)
        self.twins = _twins(program.graph, self.graph)
        self.full = Side(program.graph, names, net.engine.state(), leaves)
        self.cut = Side(self.graph, names, state, leaves)
        self.count = max(
            (i for i, n in enumerate(self.twins.values(), 1) if n in wanted), default=0
        )

    def __iter__(self) -> Iterator[tuple[fx.Node, fx.Node]]:
        left = self.count
        with torch.no_grad():
            for node in self.graph.nodes:
                if left == 0:
                    return
                if node.op != "call_function":
                    continue
                original = self.twins.get(node)
                if original is not None:
                    self.full.run(original)
                self.cut.run(node)
                if original is not None:
                    yield original, node
                    left -= 1
                    self.full.forget(original)
                self.cut.forget(node)

    def __len__(self) -> int:
        return self.count


def flattened(form: Form, inputs: Any) -> list[Any]:
    """A batch's inputs as the graph takes them; raises ScoreError for another form."""
    try:
        return list(outputs_for(lambda *args, **kwargs: form.flatten(args, kwargs), inputs))
    except CaptureError as error:
        raise ScoreError(f"A batch does not fit. {error}") from error


def _twins(graph: fx.Graph, cut: fx.Graph) -> dict[fx.Node, fx.Node]:
    """Which operator of the full graph each of the cut graph was copied from."""
    originals = {n.name: n for n in graph.nodes if n.op == "call_function"}
    # What a cut adds are computations of sizes, under names that the full graph does not have.
    pairs = ((n, originals.get(n.name)) for n in cut.nodes if n.op == "call_function")
    return {node: original for node, original in pairs if original is not None}


def _value(values: Mapping[fx.Node, Any], argument: Any) -> Any:
    return values[argument] if isinstance(argument, fx.Node) else argument


def _last_uses(graph: fx.Graph) -> dict[fx.Node, list[fx.Node]]:
    """For each node, the nodes whose values are used there for the last time."""
    last: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        last[node] = node
        for source in node.all_input_nodes:
            last[source] = node
    found: dict[fx.Node, list[fx.Node]] = {}
    for source, node in last.items():
        found.setdefault(node, []).append(source)
    return found
