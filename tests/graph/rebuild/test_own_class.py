"""The user's own class at smaller sizes, and how one that computes something else is told."""

import math
import warnings

import pytest
import torch
from torch import nn

import widthwise as ww
from elastic_nets import close, made, run
from nets import NETS
from nets import net as find
from widthwise.graph.capture import program as capturing
from widthwise.graph.capture.program import capture
from widthwise.graph.rebuild.attributes import Group, search, values
from widthwise.graph.rebuild.equivalence import Outcome

# What they compute in training differs by more than flags.
TWO_GRAPHS = {"auxiliary", "chance", "stochastic_depth", "vae"}
# Sizes that depend on data and constants made in forward are not followed without data.
TWO_GRAPHS |= {"masks", "rounded"}


@pytest.mark.sample(8)
@pytest.mark.parametrize("name", [n.name for n in NETS])
def test_the_evaluation_graph_is_had_without_a_second_export(monkeypatch, name):
    torch.manual_seed(0)
    described = find(name)
    args, kwargs = described.example()
    exports = []
    plain = capturing._export_once
    monkeypatch.setattr(capturing, "_export_once", lambda *a: exports.append(1) or plain(*a))
    capture(described.build(), args, kwargs)
    assert (len(exports) > 1) == (name in TWO_GRAPHS)


class Switch(nn.Module):
    """Does something else in evaluation that no flag of an operator tells."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x):
        h = torch.relu(self.fc1(x))
        return self.fc2(h * (1.0 if self.training else 1.0 + 1e-7))


def test_a_small_difference_between_the_modes_is_not_lost():
    """Too small for any tolerance: only the operators and their arguments tell."""
    training, evaluation = capture(Switch(), (torch.randn(3, 5),), {})
    factors = [
        [n.args[1] for n in p.graph.nodes if "mul" in str(n.target)] for p in (training, evaluation)
    ]
    assert factors == [[1.0], [1.0 + 1e-7]]


class Faint(nn.Module):
    """Attention whose scale follows the head size, after very little signal."""

    def __init__(self):
        super().__init__()
        self.fc, self.qkv, self.proj = nn.Linear(5, 8), nn.Linear(8, 3 * 3 * 4), nn.Linear(12, 4)

    def forward(self, x):
        x = 0.01 * self.fc(x)
        q, k, v = (t.unflatten(-1, (3, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        scores = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(-1)
        return self.proj((scores @ v).transpose(1, 2).flatten(2))


def test_a_wrong_scale_is_seen_however_little_it_matters():
    torch.manual_seed(0)
    net = ww.Elastic(Faint(), torch.randn(3, 5, 5)).eval()
    narrow = {name: 1 for name in net.free if "head_size" in name}
    _, _, reason = net.engine.cut(narrow)
    assert reason == "its code computes something else at these sizes"
    fewer = {name: 2 for name in net.free if name.endswith("heads")}
    assert narrow
    assert fewer


EXPRESSED = ["mha", "encoder", "encoder_norm_first", "vit", "gpt", "resnext", "lstm_2", "windows"]


@pytest.mark.parametrize("name", EXPRESSED)
def test_widths_that_the_class_can_express(name):
    _, net, args, kwargs = made(name)
    widths = net.realizable(net.widths(0.5))
    cut = net.cut(widths).eval()  # without a warning
    assert type(cut) is type(net.model)
    assert close(run(cut, args, kwargs), run(net, args, kwargs, widths=widths))
    assert sum(map(int, widths.values())) < sum(axis.size for axis in net.free.values())


def test_what_can_be_expressed_is_taken_as_it_is():
    _, net, _, _ = made("cnn")
    assert net.realizable(net.widths(0.5)) == net.complete(net.widths(0.5))


def test_sizes_are_searched_by_how_far_the_module_gets():
    """Two classes, each right in one way only; and a search without a right answer says why."""
    first = Group(nn.Linear, (("a", "heads", None),), ((2,), (4,), (8,)), True)
    second = Group(nn.Conv2d, (("b", "dim", None),), ((6,), (3,)), True)

    def outcome(found):
        right = [found[("a", "heads", None)] == 8, found[("b", "dim", None)] == 3]
        calls = right.index(False) if False in right else 2
        return Outcome(None if all(right) else f"stuck after {calls}", calls, ())

    assert search([first, second], outcome) == {("a", "heads", None): 8, ("b", "dim", None): 3}
    assert search([first], lambda _: Outcome("never right", 0, ())) == "never right"
    assert values({first: 1}) == {("a", "heads", None): 4}


class TwoOutputs(nn.Module):
    """Returns its features besides the logits."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x):
        features = torch.relu(self.fc1(x))
        return {"logits": self.fc2(features), "inner": [features]}


def test_outputs_that_do_not_matter_may_be_narrower(tmp_path):
    x = torch.randn(3, 5)
    model = TwoOutputs()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ww.NothingToCutWarning)
        assert not ww.Elastic(model, x).free
    net = ww.Elastic(model, x, outputs=("logits",)).eval()
    widths = ww.Widths({"fc1": 3})
    cut = net.cut(widths).eval()
    assert cut(x)["inner"][0].shape == (3, 3)
    assert torch.equal(cut(x)["logits"], net(x, widths=widths)["logits"])
    loaded = ww.load(ww.save(net, tmp_path / "two", widths=widths), TwoOutputs)
    assert torch.equal(loaded(x)["logits"], cut(x)["logits"])


def test_an_output_that_does_not_exist_is_refused():
    with pytest.raises(ww.CaptureError, match=r"no output 'loss'; it has 'logits', 'inner.0'"):
        ww.Elastic(TwoOutputs(), torch.randn(3, 5), outputs=("loss",))


class Literal(nn.Module):
    """Has a size in its code, so that only its graph can be cut; returns features besides."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x):
        features = torch.relu(self.fc1(x)).reshape(x.shape[0], 8)
        return self.fc2(features), features


def test_a_stored_graph_knows_which_outputs_matter(tmp_path):
    x = torch.randn(3, 5)
    net = ww.Elastic(Literal(), x, outputs=("0",)).eval()
    path = ww.save(net, tmp_path / "literal", widths={"fc1": 3})
    assert close(run(ww.load(path, Literal), (x,), {}), run(net, (x,), {}, widths={"fc1": 3}))
