"""Networks whose convolutions are laid out channels-last give what those laid out by rows give."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import widthwise as ww
from widthwise.app.compare import bases
from widthwise.app.compare.bench import Bench
from widthwise.app.compare.layout import channels_last
from widthwise.app.compare.spec import Spec
from widthwise.app.tasks.mnist import CNN
from widthwise.quantization import Codebook, Uniform
from widthwise.store.file import load
from widthwise.variant import Variant
from widthwise.variants import apply

EXAMPLE = torch.zeros(2, 1, 28, 28)


def laid_out(module: nn.Module) -> bool:
    return module.conv2.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.fixture
def both() -> tuple[nn.Module, nn.Module]:
    """The same network by rows and channels-last."""
    torch.manual_seed(0)
    rows = CNN().eval()
    last = channels_last(copy.deepcopy(rows))
    assert laid_out(last)
    assert not laid_out(rows)
    return rows, last


def test_the_values_are_the_same(both):
    rows, last = both
    assert all(torch.equal(a, b) for a, b in zip(rows.parameters(), last.parameters(), strict=True))
    x = torch.randn(8, 1, 28, 28)
    torch.testing.assert_close(last(x), rows(x))


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    "form", [None, Uniform(3), Uniform(4, group=16), Codebook(8)], ids=lambda f: str(f)[:14]
)
def test_cut_pruned_quantized_and_stored_bit_by_bit_alike(both, form, tmp_path):
    stored = []
    ways = [("rows", None), ("last", lambda module, widths: channels_last(module))]
    for (name, prepare), model in zip(ways, both, strict=True):
        net = ww.Elastic(model, EXAMPLE)
        bits = {"conv2.weight": form, "fc1.weight": form} if form else {}
        variant = Variant(net.widths(0.5), {"conv2.weight": 0.6}, bits)
        made = apply(net, variant, prepare=prepare)
        assert laid_out(made.module) == (name == "last")
        path = made.save(tmp_path / f"{name}.safetensors")
        stored.append(path.read_bytes())
        read = load(path, build=CNN)
        for a, b in zip(read.parameters(), made.module.parameters(), strict=True):
            assert torch.equal(a, b)
    assert stored[0] == stored[1]


def test_scores_and_order_are_alike(both):
    x = torch.randn(8, 1, 28, 28)
    outputs = []
    for model in both:
        net = ww.Elastic(model, EXAMPLE)
        scores = ww.pruning.magnitude(net)
        before = net(x)
        ww.pruning.order_(net, scores)
        torch.testing.assert_close(net(x), before)
        outputs.append(net.cut(net.widths(0.5))(x))
    torch.testing.assert_close(*outputs)


def test_gradual_pruning_leaves_the_same_weights(both):
    kept = []
    for model in both:
        net = ww.Elastic(model, EXAMPLE)
        schedule = ww.pruning.gradual.Gradual(0.7, begin=0.0, end=1.0, changes=1).schedule(4)
        pruner = ww.pruning.gradual.GradualPruner(net, schedule)
        for _ in range(4):
            pruner.step()
        kept.append([p != 0 for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*kept, strict=True))
    assert any(not mask.all() for mask in kept[0])


def test_comparisons_work_with_it(data_folder):
    spec = Spec("fashion-mnist-cnn", (16_000,), seeds=1, epochs=1, examples=256)
    base = bases.train(spec, "plain", 0, None)
    bench = Bench(spec, 0, base)
    net = bench.net()
    assert laid_out(net.model)
    small = net.cut(net.widths(0.25))
    assert not laid_out(small)
    assert laid_out(bench.train(small))
    assert laid_out(bench.calibrated(net.cut(net.widths(0.25)), net.widths(0.25)))
