"""What must hold for every network, whatever it is made of."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

import widthwise as ww
from elastic_nets import _randomise, close, random_widths, run
from random_nets import Recipe, build
from shape_checker import ShapeChecker, sizes_at
from widthwise.graph.cut import cut_state
from widthwise.graph.dims import fully_fixed
from widthwise.graph.proof import _problem
from widthwise.graph.rewrite import cut_graph
from widthwise.graph.slicing import layout, positions

TOLERANCE = 1e-9  # everything is in double precision


class DisagreementError(AssertionError):
    """Something that must hold does not; `check` names what."""

    def __init__(self, check: str, text: str) -> None:
        super().__init__(f"{check}: {text}")
        self.check = check


@dataclass(frozen=True)
class SearchResult:
    """axes: that can be cut. own_class: cuts that came back as the user's class, of `cuts`.

    masked: whether nothing compares features, so that a cut was held against a masked network.
    """

    axes: int = 0
    cuts: int = 0
    own_class: int = 0
    masked: bool = False


def check(recipe: Recipe, seeds: tuple[int, ...] = (0, 1)) -> SearchResult:
    """Trace, prove, run and cut the network of a recipe; raises DisagreementError.

    The network is traced by its rules alone, so that nothing that the proof refuses is hidden.
    """
    model, args = build(recipe)
    model.double()
    args = tuple(a.double() if a.is_floating_point() else a for a in args)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = _named("trace", lambda: ww.Elastic(model, args, prove=False))
        _randomise(model)
        _named("proof", lambda: _proof_agrees(net))
        _named("full width", lambda: _full_width(net, args))
        found = SearchResult(len(net.free), masked=not any(a.normalised for a in net.free.values()))
        for seed in seeds if net.free else ():
            widths = random_widths(net, seed)
            _named("shapes", lambda widths=widths: _shapes(net, widths))
            for same_class in (False, True):
                name = "own class" if same_class else "graph"
                came = _named(name, lambda w=widths, s=same_class: _cut_is_elastic(net, w, args, s))
                if same_class:
                    found = replace(found, cuts=found.cuts + 1, own_class=found.own_class + came)
            if found.masked:
                _named("masked", lambda widths=widths: _cut_is_masked(net, widths, args))
    return found


def _named(name: str, check: Callable[[], Any]) -> Any:
    try:
        return check()
    except Exception as error:
        raise DisagreementError(name, f"{type(error).__name__}: {error}"[:1500]) from error


def _proof_agrees(net: ww.Elastic) -> None:
    """The proof refuses nothing that the rules say: not all axes together, and none alone."""
    together = list(net.free)
    for names in (together, *([name] for name in together)):
        problem = _problem(net.engine.relations, net.engine.table, net.engine.state(), names)
        assert problem is None, f"{names}: {problem}"


def _full_width(net: ww.Elastic, args: tuple[Tensor, ...]) -> None:
    saved = _tensors(net)
    for training in (False, True):
        net.train(training)
        mine = run(net, args, {}, widths={})
        mine_after = _tensors(net)
        _restore(net, saved)
        theirs = run(net.model, args, {})
        theirs_after = _tensors(net)
        _restore(net, saved)
        assert close(mine, theirs, TOLERANCE), f"output, training={training}"
        for name, value in mine_after.items():
            assert close([value], [theirs_after[name]], TOLERANCE), f"{name} after a step"
    net.eval()


def _cut_is_elastic(net: ww.Elastic, widths: ww.Widths, args: Any, same_class: bool) -> bool:
    """In both modes, with the statistics that training leaves; False if not of its class."""
    cut, _, reason = net.engine.cut(widths, same_class=same_class)
    if same_class and reason is not None:
        return False
    several = [net(*args)] if net.eval() is None else list(net.each([{}, widths], *args))
    assert close([several[1]], run(net, args, {}, widths=widths), TOLERANCE), "each"
    for training in (False, True) if reason is None else (False,):
        cut.train(training)
        net.train(training)
        saved = _tensors(net)
        elastic = run(net, args, {}, widths=widths)
        mine = run(cut, args, {})
        after = cut_state(
            net.engine.relations, net.engine.table, widths, net.engine.state(), frozenset()
        )
        _restore(net, saved)
        net.eval()
        assert close(mine, elastic, TOLERANCE), f"training={training}, {dict(widths)}"
        for name, value in cut.named_buffers():
            if name in after:
                assert close([value], [after[name]], TOLERANCE), f"{name} after a step"
    return True


def _shapes(net: ww.Elastic, widths: ww.Widths) -> None:
    state = cut_state(
        net.engine.relations, net.engine.table, widths, net.engine.state(), frozenset()
    )
    for related in net.engine.relations.programs:
        graph = cut_graph(related, net.engine.table, widths)
        inputs = [state[target] for target in related.program.state.values()]
        with torch.no_grad():
            ShapeChecker(net, related, graph, widths).run(*inputs, *related.program.example)


def _cut_is_masked(net: ww.Elastic, widths: ww.Widths, args: Any) -> None:
    """Every value of the full network masked where it is cut: no sum sees the difference."""
    related = next(r for r in net.engine.relations.programs if not r.program.training)
    state = net.engine.state()
    inputs = [state[target].clone() for target in related.program.state.values()]
    with torch.no_grad():
        masked = _Masked(net, related, widths).run(*inputs, *args)
    assert close([masked[0]], run(net, args, {}, widths=widths), TOLERANCE), dict(widths)


class _Masked(fx.Interpreter):
    def __init__(self, net: ww.Elastic, related: Any, widths: ww.Widths) -> None:
        super().__init__(fx.GraphModule(torch.nn.Module(), related.program.graph))
        pairs = zip(related.program.graph.nodes, self.module.graph.nodes, strict=True)
        self.dims = {new: related.dims.get(old) for old, new in pairs}
        self.actual = sizes_at(related, related.program.example)
        self.kept = lambda f: widths[net.engine.table.of[f]] if f in net.engine.table.of else f.size

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if not isinstance(value, Tensor) or self.dims.get(n) is None:
            return value
        for d, term in enumerate(self.dims[n]):
            if not fully_fixed(term):
                gone = torch.ones(value.shape[d], dtype=torch.bool)
                gone[positions(self._at_example(layout(term, self.kept)))] = False
                # In place, so that what is written through a view is seen by its base.
                fill = value.index_fill if 0 in value.stride() else value.index_fill_
                value = fill(d, gone.nonzero().flatten(), 0)
        return value

    def _at_example(self, spec: Any) -> Any:
        """The layout with symbolic sizes, which stand as large primes, as they are here."""
        if isinstance(spec, tuple):
            return tuple(map(self._at_example, spec))
        for prime, size in self.actual.items():
            while spec % prime == 0:
                spec = spec // prime * size
        return spec


def _tensors(net: ww.Elastic) -> dict[str, Tensor]:
    return {n: t.detach().clone() for n, t in net.model.state_dict(keep_vars=True).items()}


def _restore(net: ww.Elastic, saved: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in net.model.state_dict(keep_vars=True).items():
            tensor.copy_(saved[name])
