"""LSTM, GRU and plain recurrent layers: rows of their weights are gates x hidden units."""

from __future__ import annotations

from collections.abc import Callable

from torch import fx

from widthwise.graph.dims import Dims, Term, resolve, size, split
from widthwise.graph.rules.op import Op, Result


def _units(op: Op, rows: Term, gates: int) -> Term:
    """Rows of a recurrent weight are gates x units; returns the units."""
    pair = split(rows, gates, size(rows) // gates)
    if pair is None:
        op.fix(rows, "its parts do not fall on whole gates")
        pair = split(rows, gates, size(rows) // gates)
    assert pair is not None
    op.fix(pair[0], "it counts gates")
    return resolve(pair[1])


def _directions(op: Op, units: Term, count: int) -> Term:
    return (*op.fixed([count], "it counts directions")[0], *units)


def layers(gates: int) -> Callable[[Op], Result]:
    """lstm, gru, rnn: all layers and directions of one call share their hidden units.

    They share because the initial state is one tensor (layers x directions, N, H).
    """

    def rule(op: Op) -> Result:
        x = op.dims("input")
        states = op.args["hx"]
        states = list(states) if isinstance(states, (list, tuple)) else [states]
        hidden = [op.dims_of(s) for s in states]
        directions = 2 if op.args["bidirectional"] else 1
        per_cell = _cell_parameters(op, directions)
        # With a projection the recurrent output (h) is narrower than the cell state (c).
        h, c = hidden[0][-1], hidden[-1][-1]
        if _projected(op, per_cell[0]):
            # torch tells a projected LSTM by its cell state being wider than its output.
            op.fix(c, "a projected LSTM stays wider than its projection")
        else:
            op.unify(h, c)
        below = x[-1]
        for number, cell in enumerate(per_cell):
            _cell(op, cell, gates, below, h, c)
            if number % directions == directions - 1:
                below = _directions(op, resolve(h), directions)
        for dims in hidden:
            op.fix(dims[0], "it counts layers and directions")
        sequence = x[:-1]
        op.fix(sequence[:-1] if not op.args["batch_first"] else sequence[-1], "steps are in order")
        output = [*sequence, _directions(op, resolve(h), directions)]
        return Result([output, *([*d[:-1], resolve(d[-1])] for d in hidden)])

    return rule


def _cell_parameters(op: Op, directions: int) -> list[list[fx.Node]]:
    params = list(op.args["params"])
    each = len(params) // (int(op.args["num_layers"]) * directions)
    return [params[i : i + each] for i in range(0, len(params), each)]


def _projected(op: Op, cell: list[fx.Node]) -> bool:
    return len(cell) == (5 if op.args["has_biases"] else 3)


def _cell(op: Op, cell: list[fx.Node], gates: int, below: Term, h: Term, c: Term) -> None:
    """One layer, one direction: w_ih (gates H, I), w_hh (gates H, P), biases, w_hr (P, H)."""
    biased = bool(op.args["has_biases"])
    w_ih, w_hh = op.dims_of(cell[0]), op.dims_of(cell[1])
    op.unify(w_ih[1], below)
    op.unify(w_hh[1], h)
    op.contract(below, h)
    op.consumed.append((cell[0], 1))
    for node in [*cell[:2], *(cell[2:4] if biased else ())]:
        op.unify(_units(op, op.dims_of(node)[0], gates), c)
    if _projected(op, cell):
        w_hr = op.dims_of(cell[-1])
        op.unify(w_hr[0], h)
        op.unify(w_hr[1], c)
    op.roles.append((c, "hidden"))


def cell(gates: int) -> Callable[[Op], Result]:
    """lstm_cell, gru_cell, rnn_tanh_cell: one step."""

    def rule(op: Op) -> Result:
        x = op.dims("input")
        states = op.args["hx"]
        several = isinstance(states, (list, tuple))
        hidden = [op.dims_of(s) for s in (states if several else [states])]
        units = hidden[0][-1]
        for other in hidden[1:]:
            op.unify(units, other[-1])
        op.unify(op.dims("w_ih")[1], x[-1])
        op.unify(op.dims("w_hh")[1], units)
        op.contract(x[-1], units)
        op.consume("w_ih", 1)
        for name in ("w_ih", "w_hh", "b_ih", "b_hh"):
            if op.has(name):
                op.unify(_units(op, op.dims(name)[0], gates), units)
        op.roles.append((units, "hidden"))
        out: Dims = [*x[:-1], resolve(units)]
        return Result([list(out) for _ in hidden] if several else out)

    return rule


RULES = {
    "lstm": layers(4),
    "gru": layers(3),
    "rnn_tanh": layers(1),
    "rnn_relu": layers(1),
    "lstm_cell": cell(4),
    "gru_cell": cell(3),
    "rnn_tanh_cell": cell(1),
    "rnn_relu_cell": cell(1),
}
