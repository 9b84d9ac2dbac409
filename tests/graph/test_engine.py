"""The engine on every network of the test set: what is found, run and cut is what it computes."""

import warnings

import pytest
import torch
from torch import fx

import widthwise as ww
from elastic_nets import close, made, random_widths, run, tensors
from nets import NETS
from shape_checker import ShapeChecker
from widthwise.graph.cut import cut_state
from widthwise.graph.rewrite import cut_graph
from widthwise.graph.slicing import count, layout, positions

pytestmark = pytest.mark.sample(12)  # the same networks in every test, each captured once

NAMES = [n.name for n in NETS]
SEEDS = (0, 1, 2)


@pytest.mark.parametrize("name", NAMES)
def test_every_axis_is_found(name):
    described, net, _, _ = made(name)
    assert len(net.free) == described.axes, net.explain()


@pytest.mark.parametrize("name", NAMES)
def test_full_width_is_the_model_itself(name):
    _, net, args, kwargs = made(name)
    assert close(run(net, args, kwargs), run(net.model.eval(), args, kwargs), 1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_at_full_width_no_argument_of_the_graph_changes(name):
    """Every size that follows the widths equals, at full width, the literal it replaced."""
    _, net, _, _ = made(name)
    for related in net.engine.relations.programs:
        rewritten = cut_graph(related, net.engine.table, dict(net.full()))
        twin = dict(zip(related.program.graph.nodes, rewritten.nodes, strict=True))
        for old, new in twin.items():
            if old.op != "placeholder":
                assert old.target == new.target
                assert fx.node.map_arg(old.args, twin.get) == new.args, old


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", NAMES)
def test_a_cut_computes_what_the_elastic_network_computes(name, seed):
    _, net, args, kwargs = made(name)
    widths = random_widths(net, seed)
    elastic = run(net, args, kwargs, widths=widths)
    with warnings.catch_warnings():
        # Which classes cannot shrink is another test's matter.
        warnings.simplefilter("ignore", ww.GraphModuleWarning)
        graph = net.cut(widths, same_class=False).eval()
        cut = net.cut(widths).eval()
    assert close(run(graph, args, kwargs), elastic)
    assert close(run(cut, args, kwargs), elastic)
    wanted = sum(_kept_size(net, tensor, widths) for tensor in _parameters(net))
    assert sum(p.numel() for p in cut.parameters()) == wanted


def _parameters(net):
    seen = {}
    for name, p in net.model.named_parameters(remove_duplicate=False):
        if name in net.engine.relations.state:
            seen.setdefault(id(p), name)
    return seen.values()


def _kept_size(net, tensor, widths):
    total = 1
    for term in net.engine.relations.state[tensor]:
        total *= count(
            term, lambda f: widths[net.engine.table.of[f]] if f in net.engine.table.of else f.size
        )
    return total


@pytest.mark.parametrize("name", NAMES)
def test_every_intermediate_shape_equals_its_term(name):
    """Names the exact operator whose rule is wrong."""
    _, net, _, _ = made(name)
    widths = random_widths(net, 3)
    state = cut_state(
        net.engine.relations, net.engine.table, widths, net.engine.state(), frozenset()
    )
    for related in net.engine.relations.programs:
        graph = cut_graph(related, net.engine.table, widths)
        inputs = [state[target] for target in related.program.state.values()]
        with torch.no_grad():
            checker = ShapeChecker(net, related, graph, widths)
            checker.run(*inputs, *related.program.example)
        assert checker.compared


@pytest.mark.parametrize("name", NAMES)
def test_a_cut_is_the_full_network_with_zeros(name):
    """Where nothing compares features with each other, cutting and zeroing are the same."""
    _, net, args, kwargs = made(name)
    if any(axis.normalised for axis in net.free.values()):
        pytest.skip("features are compared with each other, so a cut one is not a zero")
    widths = random_widths(net, 5)
    kept = {f: widths[axis] for f, axis in net.engine.table.of.items()}
    expected = run(net, args, kwargs, widths=widths)
    saved = {n: t.detach().clone() for n, t in net.engine.state().items()}
    try:
        _zero_what_is_cut(net, kept)
        assert close(run(net, args, kwargs), expected)
    finally:
        with torch.no_grad():
            for tensor_name, tensor in net.engine.state().items():
                tensor.copy_(saved[tensor_name])


def _zero_what_is_cut(net, kept):
    with torch.no_grad():
        for name, tensor in net.engine.state().items():
            if not (tensor.is_floating_point() or tensor.is_complex()):
                continue
            for d, term in enumerate(net.engine.relations.state.get(name, ())):
                gone = torch.ones(tensor.shape[d], dtype=torch.bool)
                gone[positions(layout(term, kept.__getitem__))] = False
                tensor.index_fill_(d, gone.nonzero().flatten(), 0.0)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_the_kept_part_and_only_that(name):
    _, net, args, kwargs = made(name)
    widths = random_widths(net, 4)
    kept = {f: widths[axis] for f, axis in net.engine.table.of.items()}
    net.zero_grad()
    sum(t.float().square().sum() for t in tensors(net(*args, widths=widths, **kwargs))).backward()
    touched = 0
    for tensor_name, p in net.model.named_parameters():
        if p.grad is None or tensor_name not in net.engine.relations.state:
            continue
        touched += 1
        for d, term in enumerate(net.engine.relations.state[tensor_name]):
            gone = torch.ones(p.shape[d], dtype=torch.bool)
            gone[positions(layout(term, kept.__getitem__))] = False
            assert not p.grad.index_select(d, gone.nonzero().flatten()).any(), tensor_name
    net.zero_grad()
    assert touched
