"""One compiled graph serves every width, in evaluation and in training.

Exceptions, which torch makes and not widthwise: a width of 1 is a graph of its own, and torch's
recurrent operators, as well as inductor's convolutions, are compiled anew for every width.
"""

import pytest
import torch
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd

import widthwise as ww
from elastic_nets import made, random_widths, tensors

NAMES = ["mlp_batchnorm", "resnet", "vit"]


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def counted(net, kwargs):
    """The network compiled, and the list of graphs that were made."""
    graphs = []

    def note(graph, _inputs):
        graphs.append(graph)
        return make_boxed_func(graph.forward)

    def as_it_is(graph, _inputs):
        return make_boxed_func(graph.forward)

    backend = aot_autograd(fw_compiler=note, bw_compiler=as_it_is)

    def call(widths, *args):
        return net(*args, widths=widths, **kwargs)

    return torch.compile(call, backend=backend, dynamic=True, fullgraph=True), graphs


def settings(net, count, least=2):
    """Random widths of at least 2, then full ones."""
    drawn = [random_widths(net, seed) for seed in range(count)]
    return [{n: max(least, w) for n, w in each.items()} for each in drawn] + [dict(net.full())]


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", NAMES)
def test_evaluation_at_every_width(name):
    _, net, args, kwargs = made(name)
    compiled, graphs = counted(net, kwargs)
    with torch.no_grad():
        for widths in settings(net, 20):
            found = tensors(compiled(ww.Widths(widths), *args))
            wanted = tensors(net(*args, widths=widths, **kwargs))
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert len(graphs) == 1


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", NAMES)
def test_training_at_every_width(name):
    """Outputs, gradients and batch statistics are those of the network as it is."""
    _, net, args, kwargs = made(name)
    before = {n: t.clone() for n, t in net.state_dict().items()}
    compiled, graphs = counted(net.train(), kwargs)
    try:
        for widths in settings(net, 20):
            results = []
            for run in (compiled, lambda w, *x: net(*x, widths=w, **kwargs)):
                net.load_state_dict(before)
                net.zero_grad()
                torch.manual_seed(0)
                outputs = tensors(run(ww.Widths(widths), *args))
                sum(out.square().sum() for out in outputs).backward()
                gradients = [p.grad for p in net.parameters()]
                statistics = [b.clone() for b in net.buffers()]
                results.append((outputs, gradients, statistics))
            torch.testing.assert_close(*results, rtol=1e-3, atol=1e-4)
    finally:
        net.eval().load_state_dict(before)
        net.zero_grad()
    assert len(graphs) == 1


def test_widths_of_one_are_a_graph_of_their_own():
    """torch takes sizes of 1 for constants; each combination of ones is compiled once."""
    _, net, args, kwargs = made("mlp")
    compiled, graphs = counted(net, kwargs)
    with torch.no_grad():
        for first in (5, 1, 7, 1, 12):
            widths = net.complete({next(iter(net.free)): first})
            torch.testing.assert_close(compiled(widths, *args), net(*args, widths=widths))
    assert len(graphs) == 2
