"""Rules of rare operators, operators without a rule, and chance in the proof."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import widthwise as ww
from broken_rules import no_unify
from elastic_nets import close, made, run, tensors
from nets import net as find
from nets.operators import OPERATORS
from widthwise.graph import derandomize, proof, rules
from widthwise.graph.capture import decompose
from widthwise.graph.dims import fresh
from widthwise.graph.rules import matrix, pointwise
from widthwise.graph.rules.op import Result


class Between(nn.Module):
    """An operator between two layers."""

    def __init__(self, operator, made=8):
        super().__init__()
        self.first, self.last = nn.Linear(5, 8), nn.Linear(made, 3)
        self.operator = operator

    def forward(self, x):
        return self.last(self.operator(self.first(x)))


def elastic(model, *args, **more):
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ww.Elastic(model, args, **more).eval()


# ---------------------------------------------------------------- what the nets compute


@pytest.mark.parametrize("name", [n.name for n in OPERATORS])
def test_gradients_at_full_width_in_training_are_those_of_the_model(name):
    _, net, args, kwargs = made(name)
    net.train()
    try:
        theirs, ours = (_gradients(net, module, args, kwargs) for module in (net.model, net))
    finally:
        net.eval()
    assert any(g is not None and g.abs().sum() > 0 for g in theirs)
    for a, b in zip(theirs, ours, strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.allclose(a, b, rtol=1e-5, atol=1e-6)


def _gradients(net, module, args, kwargs):
    more = {"widths": net.full()} if module is net else {}
    net.zero_grad()
    torch.manual_seed(1)
    sum(t.abs().square().sum() for t in tensors(module(*args, **kwargs, **more))).backward()
    found = [p.grad for p in net.model.parameters()]
    net.zero_grad()
    return found


@pytest.mark.parametrize("name", ["masks", "two_inputs", "modulated", "losses", "distances"])
def test_sizes_that_data_and_inputs_decide_are_right_at_other_sizes(name):
    _, net, args, _ = made(name)
    others = [
        torch.randn(5, *x.shape[1:], generator=torch.Generator().manual_seed(2)) for x in args
    ]
    widths = net.widths(0.5)
    assert close(run(net, others, {}), run(net.model.eval(), others, {}))
    cut = net.cut(widths, same_class=False).eval()
    assert close(run(cut, others, {}), run(net, others, {}, widths=widths))


def test_a_batch_in_the_place_of_groups_gives_no_axis_of_groups():
    _, net, _, _ = made("modulated")
    assert not any("group" in name for name in net.free)


# ---------------------------------------------------------------- rules that do not fit


def raising(op):
    raise TypeError("a form that nobody thought of")


def too_wide(op):
    """One feature more than there is."""
    out = op.dims_of(op.tensors()[0])
    return Result([*out[:-1], fresh(9)])


def too_many(op):
    return Result([op.dims_of(op.tensors()[0])] * 3)


@pytest.mark.parametrize("broken", [raising, too_wide, too_many])
def test_a_rule_that_raises_or_contradicts_the_sizes_counts_as_none(monkeypatch, broken):
    monkeypatch.setitem(rules.RULES, "softplus", broken)
    net = elastic(Between(F.softplus), torch.randn(3, 5))
    assert list(net.engine.unknown) == ["aten.softplus.default"]
    assert "aten.softplus.default" in net.explain()
    assert "first" not in net.free
    x = torch.randn(4, 5)
    assert close(run(net, (x,), {}), run(net.model, (x,), {}))


# ---------------------------------------------------------------- operators that torch defines

DEFINED = {
    "column_stack": (lambda h: torch.column_stack([h, h]), 16),
    "dstack": (lambda h: torch.dstack([h, h]).squeeze(0).flatten(1), 16),
    "ravel": (lambda h: torch.ravel(h).view(h.shape), 8),
    "xlogy": (lambda h: torch.special.xlogy(h.abs(), h.abs() + 1), 8),
    "in place": (lambda h: h.mul(1).absolute_(), 8),
    "several outputs": (lambda h: torch.cat(h.unsqueeze(1).hsplit(1), 1).squeeze(1), 8),
}


@pytest.mark.parametrize("name", DEFINED)
def test_operators_without_a_rule_are_written_out(monkeypatch, name):
    operator, features = DEFINED[name]
    model, x = Between(operator, features), torch.randn(4, 5)
    net = elastic(model, x)
    assert not net.engine.unknown
    assert net.free
    cut = net.cut(net.widths(0.5), same_class=False).eval()
    assert close(run(cut, (x,), {}), run(net, (x,), {}, widths=net.widths(0.5)))
    assert close(run(net, (x[:3],), {}), run(model, (x[:3],), {}))


def test_without_writing_out_an_operator_costs_freedom(monkeypatch):
    monkeypatch.setattr(decompose, "_is_defined", lambda node: False)
    net = elastic(Between(torch.fliplr), torch.randn(4, 5))
    assert net.engine.unknown


# ---------------------------------------------------------------- chance

DRAWS = {
    "cauchy_": lambda h: h * torch.empty_like(h).cauchy_(0.5, 0.1),
    "log_normal_": lambda h: h * torch.empty_like(h).log_normal_(),
    "geometric_": lambda h: h + torch.empty_like(h).geometric_(0.5),
    "random_": lambda h: h + torch.empty_like(h).random_(4),
    "randint": lambda h: h * torch.randint(1, 4, h.shape),
    "bernoulli of p": lambda h: h * torch.bernoulli(h, 0.5),
    "gamma": lambda h: torch._standard_gamma(h.detach().exp()) * h,
    "feature dropout": lambda h: F.feature_alpha_dropout(h.unsqueeze(-1), 0.4, True).squeeze(-1),
    "categories": lambda h: F.gumbel_softmax(h, tau=0.5) * h,
}


@pytest.mark.parametrize("name", DRAWS)
def test_what_is_drawn_anew_at_each_place_fixes_nothing(name):
    net = elastic(Between(DRAWS[name]), torch.randn(4, 5))
    assert list(net.free) == ["first"], net.explain()


def test_chance_that_is_not_held_would_fix_the_axis(monkeypatch):
    monkeypatch.setattr(proof, "without_chance", lambda graph: None)
    net = elastic(Between(DRAWS["log_normal_"]), torch.randn(4, 5))
    assert "shuffling" in net.axes["first"].fixed_because


def test_a_wrong_rule_is_seen_behind_chance(monkeypatch):
    """What holds chance still must not hide what lies before it."""
    monkeypatch.setitem(rules.RULES, "cumsum", pointwise.same)
    for name, draw in DRAWS.items():
        net = elastic(Between(lambda h, draw=draw: draw(h.cumsum(-1))), torch.randn(4, 5))
        assert "first" not in net.free, name


def test_what_is_held_has_the_form_of_what_is_drawn():
    aten, x = torch.ops.aten, torch.rand(3, 4)
    for operator, args in (
        (aten.bernoulli.default, (x,)),
        (aten.multinomial.default, (x, 2)),
        (aten.normal.Tensor_Tensor, (x, x)),
        (aten.poisson.default, (x,)),
        (aten.randint.low, (2, 5, [3, 4])),
        (aten.randperm.default, (5,)),
        (aten._sample_dirichlet.default, (x,)),
    ):
        drawn, held = operator(*args), derandomize.held(operator, *args)
        assert held.shape == drawn.shape
        assert held.dtype == drawn.dtype
        assert torch.equal(held, derandomize.held(operator, *args))


# ---------------------------------------------------------------- the search for wrong axes


def test_the_search_for_wrong_axes_builds_one_narrow_network(monkeypatch):
    """Two wrong axes among sixteen: shuffled apart on the same network, not traced anew."""
    monkeypatch.setitem(rules.RULES, "cumsum", pointwise.same)
    layers = [nn.Linear(6, 6) for _ in range(16)]

    class Chain(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers, self.last = nn.ModuleList(layers), nn.Linear(6, 3)

        def forward(self, x):
            for i, layer in enumerate(self.layers):
                x = layer(x).cumsum(-1) if i in (4, 11) else torch.tanh(layer(x))
            return self.last(x)

    built = []
    narrow = proof._narrow
    monkeypatch.setattr(proof, "_narrow", lambda *args: built.append(1) or narrow(*args))
    net = elastic(Chain(), torch.randn(3, 6))
    wrong = {name for name, axis in net.axes.items() if "shuffling" in str(axis.fixed_because)}
    assert wrong == {"layers.4", "layers.11"}
    assert (
        len(built) <= 6
    )  # both modes: the search, the proof of what is left, and its narrower run


def test_complex_weights_are_proven_in_double_precision(monkeypatch):
    """The complex net's rules can be seen to be wrong, which single precision would drown."""
    _, right, _, _ = made("complex")
    assert {a.size for a in right.free.values()} == {6, 8, 7}
    monkeypatch.setitem(rules.RULES, "einsum", no_unify(matrix.einsum, *range(9)))
    described = find("complex")
    args, _ = described.example()
    net = elastic(described.build(), *args)
    assert len(net.free) < len(right.free)


# ---------------------------------------------------------------- torch.ao


class Quantized(nn.Module):
    """Layers with fake quantization of torch.ao, observed while it trains or learned."""

    def __init__(self, quantizer):
        super().__init__()
        self.first, self.last = nn.Linear(5, 8), nn.Linear(8, 3)
        self.weight, self.features = quantizer(8), quantizer(None)

    def forward(self, x):
        weight = self.weight(self.first.weight)
        return self.last(self.features(torch.relu(F.linear(x, weight, self.first.bias))))


def fused(channels):
    from torch.ao.quantization import fake_quantize

    whole, rows = "FusedMovingAvgObsFakeQuantize", "default_fused_per_channel_wt_fake_quant"
    return getattr(fake_quantize, rows if channels else whole)()


class Learned(nn.Module):
    """Learned step sizes: a grid for the tensor, or one for each channel."""

    def __init__(self, channels):
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels or 1,), 0.1))
        self.register_buffer("zero_point", torch.zeros(channels or 1))
        self.channels = channels

    def forward(self, x):
        if self.channels is None:
            return torch._fake_quantize_learnable_per_tensor_affine(
                x, self.scale, self.zero_point, -128, 127, 1.0
            )
        return torch._fake_quantize_learnable_per_channel_affine(
            x, self.scale, self.zero_point, 0, -128, 127, 1.0
        )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("quantizer", [fused, Learned])
def test_grids_of_channels_follow_them(quantizer):
    torch.manual_seed(0)
    model, x = Quantized(quantizer), torch.randn(6, 5)
    model(x)
    net = elastic(model, x)
    assert list(net.free) == ["first"], net.explain()
    widths = {"first": 3}
    cut = net.cut(widths, same_class=False).eval()
    assert close(run(cut, (x,), {}), run(net, (x,), {}, widths=widths))
    assert cut.state_dict()["weight.scale"].shape == (3,)


def test_grids_that_do_not_follow_their_channels_are_caught(monkeypatch):
    monkeypatch.setitem(rules.RULES, "fake_quantize_per_channel_affine", pointwise.same)
    described = find("rounded")
    args, _ = described.example()
    net = elastic(described.build(), *args)
    assert "scale" not in net.free
    assert "first" not in net.free
