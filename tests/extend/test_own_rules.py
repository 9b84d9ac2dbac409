"""Rules that a user registers for operators of their own, by public names alone."""

import pytest
import torch
from torch import Tensor, nn

import widthwise as ww
from widthwise.extend import Op, Result, fresh

pytestmark = pytest.mark.filterwarnings("ignore::widthwise.NothingToCutWarning")


@torch.library.custom_op("ownrules::gate", mutates_args=())
def gate(x: Tensor, slope: Tensor) -> Tensor:
    """A gate with a slope for each feature."""
    return x * torch.sigmoid(slope * x)


@gate.register_fake
def _(x, slope):
    return torch.empty_like(x)


def _backward(ctx, grad):
    x, slope = ctx.saved_tensors
    s = torch.sigmoid(slope * x)
    inner = grad * x * s * (1 - s)
    return grad * s + inner * slope, (inner * x).flatten(0, -2).sum(0)


def _keep(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


gate.register_autograd(_backward, setup_context=_keep)


def unary(name, function):
    """An operator of one tensor, whose gradient nobody asks for."""
    made = torch.library.custom_op(f"ownrules::{name}", mutates_args=())(function)
    made.register_fake(torch.empty_like)
    made.register_autograd(lambda context, grad: grad)
    return made


def gate_rule(op: Op) -> Result:
    """x (*, C), slope (C): features meet those of the slope."""
    x = op.dims("x")
    op.unify(x[-1], op.dims("slope")[0])
    return Result(x)


def like_input(op: Op) -> Result:
    """The dims of the only tensor."""
    return Result(op.dims("x"))


class Gated(nn.Module):
    """An own operator with a parameter between two layers."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(5, 12), nn.Linear(12, 3)
        self.slope = nn.Parameter(torch.randn(12))

    def forward(self, x):
        return self.last(gate(self.first(x), self.slope))


class Between(nn.Module):
    """An own operator between two layers."""

    def __init__(self, operator):
        super().__init__()
        self.first, self.last = nn.Linear(5, 12), nn.Linear(12, 3)
        self.operator = operator

    def forward(self, x):
        return self.last(self.operator(self.first(x)))


X = torch.randn(4, 5)


def evaluated(model):
    """An elastic network that was captured in evaluation mode."""
    return ww.Elastic(model.eval(), X)


def test_a_rule_frees_the_features_that_an_own_operator_passes_on():
    torch.manual_seed(0)
    model = Gated()
    before = ww.Elastic(model, X)
    assert not before.free
    assert "ownrules.gate.default" in before.explain()
    ww.register_rule(gate, gate_rule)
    net = ww.Elastic(model, X)
    assert list(net.free) == ["first"]
    net.eval()
    torch.testing.assert_close(net(X), model.eval()(X))
    cut = net.cut({"first": 5}).eval()
    assert isinstance(cut, Gated)
    assert cut.slope.shape == (5,)
    torch.testing.assert_close(cut(X), net(X, widths={"first": 5}))
    net.train()
    net(X, widths={"first": 5}).sum().backward()
    assert model.slope.grad[:5].abs().sum() > 0
    assert not model.slope.grad[5:].any()
    ww.register_rule("ownrules::gate", gate_rule)  # the same once more, as a file run again does


def mirrored(x: Tensor) -> Tensor:
    return x.flip(-1)


def test_a_wrong_rule_is_caught_by_the_proof():
    operator = unary("mirror", mirrored)
    ww.register_rule(operator, like_input)  # in truth the first feature becomes the last
    model = Between(operator)
    net = evaluated(model)
    assert not net.free
    assert "shuffling its features changes the output" in net.axes["first"].fixed_because
    assert torch.equal(net(X), model(X))


def doubled(x: Tensor) -> Tensor:
    return x * 2


def test_a_rule_that_raises_counts_as_none_and_says_so():
    operator = unary("raises", doubled)
    ww.register_rule(operator, lambda op: Result(op.dims("y")))
    with pytest.warns(ww.RuleWarning, match=r"rule of ownrules::raises raised KeyError \('y'\)"):
        net = evaluated(Between(operator))
    assert not net.free
    assert "ownrules.raises.default" in net.explain()


def test_what_is_no_result_counts_as_none_and_says_so():
    operator = unary("no_result", doubled)
    ww.register_rule(operator, lambda op: op.dims("x"))
    with pytest.warns(ww.RuleWarning, match=r"returned a list, not an extend\.Result"):
        net = evaluated(Between(operator))
    assert not net.free


def test_terms_of_other_sizes_than_the_outputs_count_as_none():
    operator = unary("too_wide", doubled)
    ww.register_rule(operator, lambda op: Result([op.dims("x")[0], fresh(13)]))
    net = evaluated(Between(operator))
    assert not net.free
    assert "ownrules.too_wide.default" in net.explain()


def test_a_second_rule_is_refused_unless_it_is_meant():
    operator = unary("twice", doubled)

    def kept(op):
        return Result(op.kept())

    ww.register_rule(operator, kept)
    assert not evaluated(Between(operator)).free
    with pytest.raises(ValueError, match=r"^ownrules::twice has a rule already; .*replace=True"):
        ww.register_rule(operator, like_input)
    assert not evaluated(Between(operator)).free
    ww.register_rule(operator, like_input, replace=True)
    assert list(evaluated(Between(operator)).free) == ["first"]


@pytest.mark.parametrize("name", ["relu", "aten::relu", torch.ops.aten.linear])
def test_built_in_rules_are_not_replaced_by_accident(name):
    with pytest.raises(ValueError, match="has a rule already"):
        ww.register_rule(name, like_input)


@pytest.mark.parametrize("name", ["ownrules::gat", "nothing_such::gate", "", "::"])
def test_an_operator_that_does_not_exist_is_refused(name):
    with pytest.raises(ValueError, match="There is no operator"):
        ww.register_rule(name, like_input)


def test_a_function_is_no_operator():
    with pytest.raises(ValueError, match="this is a function; give what torch"):
        ww.register_rule(mirrored, like_input)


def test_an_operator_without_a_rule_of_torchs_own_gets_one():
    """By name, and as the rule of all its overloads."""

    def same(op):
        return Result(op.dims("self"))

    model = Between(lambda h: torch.special.entr(h.abs()))
    assert list(evaluated(model).free) == ["first"]  # tagged as pointwise: needs none
    ww.register_rule("aten::special_entr", same, replace=True)
    assert list(evaluated(model).free) == ["first"]
