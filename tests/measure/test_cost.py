"""What networks cost: counts by hand, times that are times, and the bound on a sweep."""

import time

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import widthwise as ww
from elastic_nets import made
from widthwise.app.tasks.mlp import MLP
from widthwise.measure.cost import (
    latency_ms,
    macs,
    one_example,
    onnx_runtime,
    params,
    runtime,
)
from widthwise.measure.evaluation import Evaluation
from widthwise.measure.even_levels import even_levels
from widthwise.measure.metric import ACCURACY


class Attention(nn.Module):
    def forward(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v)


# Batch 3, sequences of 7; the count of one example by hand.
COUNTS = {
    "linear": (nn.Linear(5, 4), [(3, 5)], 20),
    "linear over a sequence": (nn.Linear(5, 4), [(3, 7, 5)], 7 * 20),
    "conv": (nn.Conv2d(2, 4, 3, padding=1), [(3, 2, 8, 8)], 64 * 4 * 2 * 9),
    "grouped conv": (nn.Conv2d(4, 4, 3, padding=1, groups=4), [(3, 4, 8, 8)], 64 * 4 * 9),
    "transposed conv": (nn.ConvTranspose1d(2, 3, 2, stride=2), [(3, 2, 7)], 7 * 2 * 3 * 2),
    "lstm": (nn.LSTM(5, 6, batch_first=True), [(3, 7, 5)], 7 * 4 * 6 * (5 + 6)),
    "two-way lstm": (
        nn.LSTM(5, 6, 2, batch_first=True, bidirectional=True),
        [(3, 7, 5)],
        7 * 2 * 4 * 6 * ((5 + 6) + (12 + 6)),
    ),
    "gru": (nn.GRU(5, 6, batch_first=True), [(3, 7, 5)], 7 * 3 * 6 * (5 + 6)),
    "rnn": (nn.RNN(5, 6, batch_first=True), [(3, 7, 5)], 7 * 6 * (5 + 6)),
    "cell": (nn.LSTMCell(5, 6), [(3, 5)], 4 * 6 * (5 + 6)),
    "bilinear": (nn.Bilinear(5, 6, 4), [(3, 5), (3, 6)], 4 * 5 * 6),
    "attention": (Attention(), [(3, 2, 7, 4), (3, 2, 9, 4), (3, 2, 9, 5)], 2 * 7 * 9 * (4 + 5)),
    "encoder": (
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
        [(3, 7, 8)],
        7 * (4 * 8 * 8 + 2 * 8 * 16) + 2 * 7 * 7 * 8,
    ),
    "norms count nothing": (nn.Sequential(nn.BatchNorm1d(5), nn.ReLU()), [(3, 5)], 0),
}


@pytest.mark.parametrize("name", COUNTS)
def test_multiply_accumulates_by_hand(name):
    module, shapes, count = COUNTS[name]
    module.train()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    assert macs(module, tuple(torch.randn(s) for s in shapes)) == count
    assert module.training
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())


@pytest.mark.parametrize("name", ["mlp", "cnn", "cross_attention", "lstm_2", "resnext"])
def test_a_class_and_a_graph_count_the_same(name):
    _, net, args, kwargs = made(name)
    w = net.widths(0.5)
    own, graph = (net.engine.cut(w, same_class=c)[0] for c in (True, False))
    assert macs(own, args, kwargs) == macs(graph, args, kwargs) > 0
    assert params(own) == params(graph) < params(net.model)


def test_tied_parameters_count_once():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    assert params(model) == 16 + 4 + 4


def test_one_example():
    args, kwargs = one_example((torch.randn(5, 3), torch.randn(7), 2), {"m": torch.ones(5, 2)})
    assert [args[0].shape, args[1].shape, args[2]] == [(1, 3), (7,), 2]
    assert kwargs["m"].shape == (1, 2)


def test_latency_grows_with_the_work():
    small, large = nn.Linear(8, 8), nn.Sequential(*(nn.Linear(512, 512) for _ in range(8)))
    quick = latency_ms(small, (torch.randn(1, 8),), seconds=0.02)
    slow = latency_ms(large, (torch.randn(64, 512),), seconds=0.02)
    assert 0 < quick < slow


def test_the_runtime_is_named():
    assert runtime() == f"PyTorch {torch.__version__.split('+')[0]}, CPU, 1 thread"
    assert runtime(nn.Linear(2, 2)) == runtime()
    assert onnx_runtime(2).endswith(", CPU, 2 threads")


def test_every_width_of_the_mnist_network_costs_at_most_forty_validations():
    """The bound holds with room to spare on a quiet machine (bench/sweep.py: about 20)."""
    torch.manual_seed(0)
    net = ww.Elastic(MLP(784, 256, 10), (torch.randn(4, 784),)).eval()
    x, y = torch.randn(2000, 784), torch.randint(0, 10, (2000,))
    evaluation = Evaluation(list(zip(x.split(500), y.split(500), strict=True)), ACCURACY)
    widths = even_levels(net)
    assert len(widths) == 256

    def seconds(function):
        start = time.process_time()  # of this process alone: other tests run beside it
        function()
        return time.process_time() - start

    ratios = []
    for _ in range(3):
        one = sorted(seconds(lambda: evaluation(net.model)) for _ in range(9))[4]
        ratios.append(seconds(lambda: evaluation.at(net, widths)) / one)
        if ratios[-1] <= 40:
            break
    assert min(ratios) <= 40
