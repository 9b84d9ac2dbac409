"""The layer placed by hand: what it zeroes, how often, and that cuts agree with it."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn

from widthwise import Draw, Elastic, WidthError
from widthwise.app.tasks.arrays import Arrays
from widthwise.train.config import RunConfig
from widthwise.train.fit import fit
from widthwise.train.layer import StructuralDropout
from widthwise.train.recipe import Recipe

SHAPES = [((3, 8), 1), ((3, 8), -1), ((2, 8, 5, 4), 1), ((2, 6, 8), -1), ((2, 6, 8), 2)]


def kept(y: Tensor, dim: int) -> int:
    """How many features of an output of ones are not zero; they must be the first ones."""
    alive = (y.movedim(dim, 0).flatten(1) != 0).all(1)
    count = int(alive.sum())
    assert bool(alive[:count].all())
    assert not bool((y.movedim(dim, 0)[count:] != 0).any())
    return count


@pytest.mark.parametrize(("shape", "dim"), SHAPES)
@pytest.mark.parametrize("scale", [True, False])
def test_training_zeroes_features_of_the_whole_batch(shape, dim, scale):
    layer = StructuralDropout(p=1, dim=dim, scale=scale, seed=0)
    for _ in range(20):
        y = layer(torch.ones(shape))
        assert y.shape == shape
        width = kept(y, dim)
        assert 1 <= width < 8
        assert y.max().item() == pytest.approx(8 / width if scale else 1)
    assert layer.step == 20


def test_widths_are_drawn_as_published():
    layer = StructuralDropout(p=0.4, lowest=2, step=3, seed=1)  # 2, 5, 8, 11
    ones = torch.ones(1, 14)
    counts = Counter(kept(layer(ones), 1) for _ in range(5000))
    assert sorted(counts) == [2, 5, 8, 11, 14]
    expected = {2: 0.1, 5: 0.1, 8: 0.1, 11: 0.1, 14: 0.6}
    wanted = [5000 * expected[w] for w in sorted(counts)]
    assert stats.chisquare([counts[w] for w in sorted(counts)], wanted).pvalue > 0.001


def test_gradients_reach_kept_features_only():
    layer = StructuralDropout(p=1, seed=0)
    x = torch.ones(2, 8, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, y.detach())


def test_cut_features_do_not_leak_nan():
    layer = StructuralDropout()
    layer.eval()
    layer.width = 1
    assert torch.equal(layer(torch.tensor([[2.0, torch.nan]])), torch.tensor([[4.0, 0.0]]))


def test_evaluation_does_nothing_without_a_width():
    layer = StructuralDropout().eval()
    x = torch.randn(3, 8)
    assert layer(x) is x
    assert layer.step == 0
    layer.width = 8
    assert layer(x) is x


def test_state_repeats_the_draws():
    layer = StructuralDropout(p=1, seed=5)
    ones = torch.ones(1, 100)
    first = [kept(layer(ones), 1) for _ in range(10)]
    other = StructuralDropout(p=1, seed=0)
    other.seed, other.step = layer.seed, 4
    assert [kept(other(ones), 1) for _ in range(6)] == first[4:]
    assert not layer.state_dict()  # nothing of it is in what is saved of a model


def test_layers_of_a_model_draw_independently_and_repeatably():
    torch.manual_seed(0)
    a, b = StructuralDropout(), StructuralDropout()
    torch.manual_seed(0)
    c = StructuralDropout()
    assert a.seed != b.seed
    assert a.seed == c.seed


@pytest.mark.parametrize("wrong", [{"p": 2}, {"lowest": 0}, {"step": 0}, {"dim": 0}, {"dim": 1.5}])
def test_bad_settings_are_refused(wrong):
    with pytest.raises(ValueError, match="give"):
        StructuralDropout(**wrong)


def test_bad_widths_are_refused():
    layer = StructuralDropout().eval()
    for wrong in (0, -1, 2.5, True):
        with pytest.raises(WidthError, match="at least 1"):
            layer.width = wrong  # type: ignore[assignment]
    layer.width = 9
    with pytest.raises(WidthError, match="give 1 to 8"):
        layer(torch.ones(2, 8))
    layer.width = None
    with pytest.raises(WidthError, match="no dim 1"):
        layer(torch.ones(8))


class Net(nn.Module):
    """As in the paper's code: linear, batch norm, structural dropout, activation."""

    def __init__(self, scale: bool) -> None:
        super().__init__()
        self.fc1 = nn.Linear(6, 16)
        self.bn1 = nn.BatchNorm1d(16)
        self.drop1 = StructuralDropout(scale=scale, seed=1)
        self.fc2 = nn.Linear(16, 12)
        self.drop2 = StructuralDropout(scale=scale, seed=2)
        self.fc3 = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.drop1(self.bn1(self.fc1(x))))
        x = self.drop2(F.leaky_relu(self.fc2(x)))
        return self.fc3(x)


@pytest.mark.parametrize("scale", [True, False])
def test_cutting_for_real_computes_what_the_layer_showed(scale):
    torch.manual_seed(0)
    model, x = Net(scale), torch.randn(64, 6)
    fit(
        model,
        Arrays(x, x[:, :3].argmax(1)),
        F.cross_entropy,
        recipe=Recipe(epochs=5, batch_size=16, lr=1e-2),
        run=RunConfig(progress=False),
    )
    assert model.drop1.step == 20
    net = Elastic(model, x[:4], draw=Draw(scale=scale))
    assert {a.size for a in net.free.values()} == {16, 12}
    model.eval()
    for first, second in [(1, 1), (5, 12), (16, 3), (9, 7), (16, 12)]:
        model.drop1.width, model.drop2.width = first, second
        shown = model(x)
        widths = {"fc1": first, "fc2": second}
        model.drop1.width = model.drop2.width = None
        for same_class in (True, False):
            cut = net.cut(widths, same_class=same_class).eval()
            torch.testing.assert_close(cut(x), shown, rtol=1e-4, atol=1e-5)
        net.eval()
        torch.testing.assert_close(net(x, widths=widths), shown, rtol=1e-4, atol=1e-5)
        if (first, second) != (16, 12):
            assert not torch.allclose(net(x), shown, atol=1e-2)


@pytest.mark.parametrize("training", [True, False])
def test_capture_takes_the_layer_for_nothing(training):
    model = nn.Sequential(nn.Linear(4, 8), StructuralDropout(p=1, seed=0), nn.Linear(8, 2))
    model.train(training)
    exported = torch.export.export(model, (torch.randn(3, 4),))
    targets = {str(n.target) for n in exported.graph.nodes if n.op == "call_function"}
    assert targets == {"aten.linear.default"}
    assert model[1].step == 0
