"""The shuffle proof must be able to fail: rules are broken on purpose, and it has to notice."""

import warnings

import pytest
import torch

import widthwise as ww
from elastic_nets import close, run
from nets import net as find
from widthwise.graph import rules
from widthwise.graph.capture import decompose
from widthwise.graph.dims import fresh
from widthwise.graph.rules import shape
from widthwise.graph.rules.op import Result
from wrong_rules import BROKEN, Ordered, order_blind_all


def elastic(name, prove=True):
    torch.manual_seed(0)
    described = find(name)
    model = described.build()
    args, kwargs = described.example()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ww.Elastic(model, args, kwargs, prove=prove).eval(), args, kwargs


def inner_before_outer(op):
    """A view that reads memory as if the last of the new dims lay outermost."""
    term = op.dims_of(op.tensors()[0])[-1]
    if len(op.sizes) < 5 or len(term) != 1 or not term[0].free:
        return shape.view(op)
    groups, heads, head_size = (fresh(s) for s in op.sizes[-3:])
    term[0].bound = (*groups, *head_size, *heads)
    x = op.dims_of(op.tensors()[0])
    return Result([*x[:2], groups, heads, head_size])


@pytest.mark.sample(3)
@pytest.mark.parametrize(("operator", "broken", "name"), BROKEN)
def test_a_broken_rule_is_caught(monkeypatch, operator, broken, name):
    """Wrong axes are fixed, and with what is left a cut computes what the elastic does."""
    right, _, _ = elastic(name)
    monkeypatch.setitem(rules.RULES, operator, broken)
    unproven, _, _ = elastic(name, prove=False)
    net, args, kwargs = elastic(name)
    refused = [
        a.fixed_because
        for a in net.axes.values()
        if a.fixed_because and ("shuffling" in a.fixed_because or "does not run" in a.fixed_because)
    ]
    assert refused, net.explain()
    assert len(net.free) < len(unproven.free)
    assert sum(a.size for a in net.free.values()) < sum(a.size for a in right.free.values())
    widths = net.widths(0.5)
    cut = net.cut(widths, same_class=False).eval()
    assert close(run(cut, args, kwargs), run(net, args, kwargs, widths=widths))


@pytest.mark.parametrize(
    "operator",
    [
        lambda x: x.cumsum(-1),
        lambda x: x.roll(1, -1),
        lambda x: x.flip(-1),
        lambda x: x.sort(-1).values,
    ],
)
def test_an_operator_in_which_order_matters_is_not_cut(monkeypatch, operator):
    """With the right rule the axis is fixed; with a blind one the proof fixes it."""
    model, x = Ordered(operator), torch.randn(3, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert "first" not in ww.Elastic(model, (x,)).free
        for name in ("cumsum", "roll", "flip", "sort"):
            monkeypatch.setitem(rules.RULES, name, order_blind_all)
        net = ww.Elastic(model, (x,))
    assert "first" not in net.free
    assert net.axes["first"].fixed_because


def test_two_readings_of_one_dim_are_not_confused(monkeypatch):
    """Heads taken for head size: same shapes, other features."""
    right, _, _ = elastic("vit")
    assert any(a.role == "heads" for a in right.free.values())
    monkeypatch.setitem(rules.RULES, "view", inner_before_outer)
    monkeypatch.setitem(rules.RULES, "reshape", inner_before_outer)
    net, args, kwargs = elastic("vit")
    heads = [a for a in net.axes.values() if a.role == "heads" and a.fixed_because is None]
    assert not heads
    assert close(run(net, args, kwargs), run(net.model, args, kwargs))


FORGETTABLE = [
    ("linear", "mlp"),
    ("conv2d", "cnn"),
    ("batch_norm", "resnet"),
    ("cat", "unet"),
    ("reshape", "gpt"),
    ("layer_norm", "encoder"),
    ("scaled_dot_product_attention", "llama_sdpa"),
    ("lstm", "lstm_2"),
    ("max_pool2d", "cnn"),
    ("transpose", "gpt"),
    ("einsum", "einsum"),
    ("split_with_sizes", "gpt"),
    ("pixel_shuffle", "pixel_shuffle"),
    ("group_norm", "groupnorm"),
    ("embedding", "text"),
]


@pytest.mark.sample(4)
@pytest.mark.parametrize(("operator", "name"), FORGETTABLE)
def test_a_missing_rule_costs_freedom_and_never_correctness(monkeypatch, operator, name):
    right, _, _ = elastic(name)
    monkeypatch.delitem(rules.RULES, operator)
    monkeypatch.setattr(decompose, "_is_defined", lambda node: False)
    net, args, kwargs = elastic(name)
    assert operator in net.explain()
    assert sum(a.size for a in net.free.values()) <= sum(a.size for a in right.free.values())
    widths = net.widths(0.5)
    cut = net.cut(widths, same_class=False).eval()
    assert close(run(cut, args, kwargs), run(net, args, kwargs, widths=widths))
    assert close(run(net, args, kwargs), run(net.model, args, kwargs))


def test_the_model_is_left_as_it_was():
    torch.manual_seed(0)
    described = find("mlp_batchnorm")
    model = described.build()
    args, kwargs = described.example()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    ww.Elastic(model, args, kwargs)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes
