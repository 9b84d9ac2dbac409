"""Every network of the test set is scored, ordered, allocated and reconstructed."""

import inspect
from fnmatch import fnmatch

import pytest
import torch
from torch.func import functional_call

import widthwise as ww
from elastic_nets import close, made, random_widths, run, tensors
from nets import NETS
from widthwise import pruning
from widthwise.measure.cost import macs, params
from widthwise.measure.recalibrate import recalibrate_
from widthwise.measure.shape_costs import Costs
from widthwise.pruning.allocate import removals
from widthwise.pruning.scores.gates import find_gates, opened
from widthwise.pruning.scores.gradients import tensors_of

pytestmark = pytest.mark.sample(12)  # the same networks in every test, each captured once

# Features meet in a product or a sum that no weight scales (of two activations, or the norm of a
# weight), and some of them are read by weights besides.
MEET = {
    "mha": "attn.head_size",
    "mha_weights": "attn/2",
    "encoder": "*.head_size",
    "encoder_norm_first": "*.head_size",
    "transformer": "*.head_size",
    "vit": "*.head_size",
    "llama": "*.q_proj.head_size",
    "windows": "*.head_size",
    "pointnet": "conv1",
    "several_inputs": "user_tower.2",
    "two_inputs": "*.head_size",
    "masks": "enter",
    "modulated": "style",
    "defined": "inner",
    "spectral_norm": "second",
}


class Case:
    """A network, whose tensors are put back after a test, with batches for it."""

    def __init__(self, name):
        self.name = name
        self.described, self.net, self.args, self.kwargs = made(name)

    def state(self):
        return {n: t.detach().clone() for n, t in self.net.engine.state().items()}

    def restore(self, state):
        with torch.no_grad():
            for n, t in self.net.engine.state().items():
                t.copy_(state[n])
        self.net.eval()

    def batches(self, count=3):
        """Random inputs, by keyword where there are keyword arguments."""
        torch.manual_seed(5)
        names = list(inspect.signature(self.net.model.forward).parameters)
        for _ in range(count):
            args, kwargs = self.described.example()
            yield ({**dict(zip(names, args, strict=False)), **kwargs} if kwargs else args), None

    def scores(self, seed=0):
        g = torch.Generator().manual_seed(seed)
        return {n: torch.rand(a.size, generator=g) for n, a in self.net.free.items()}

    def outputs(self, module=None, **more):
        return run(module or self.net, self.args, self.kwargs, **more)


@pytest.fixture(params=[n.name for n in NETS])
def case(request):
    case = Case(request.param)
    before = case.state()
    yield case
    case.restore(before)


def squares(outputs, _):
    """A loss of any outputs."""
    return sum(
        (x.double() - 0.3).square().mean() for x in tensors(outputs) if x.is_floating_point()
    )


def trained_step(case):
    """Outputs of a training call at full width, and of evaluation with the statistics after it."""
    case.net.train()
    full = case.outputs(widths={})
    case.net.eval()
    return full, case.outputs()


def test_order_changes_nothing(case):
    before = case.state()
    plain, own = case.outputs(), case.outputs(case.net.model)
    training, after = trained_step(case)
    case.restore(before)
    case.net.train()
    torch.manual_seed(2)
    with torch.no_grad():
        other = tensors(case.net(*case.args, widths={}, **case.kwargs))
    drawn = not close(training, other, 1e-12)  # what is drawn at random goes by position
    case.restore(before)

    found = pruning.order_(case.net, case.scores())
    assert any((old != torch.arange(len(old))).any() for old in found.values())
    assert close(case.outputs(), plain)
    assert close(case.outputs(case.net.model), own)
    if not drawn:
        ours, later = trained_step(case)
        assert close(ours, training, 1e-4)
        assert close(later, after, 1e-4)


def test_a_cut_is_the_network_with_the_lowest_scores_masked(case):
    net = case.net
    chosen = {
        n: a
        for n, a in net.free.items()
        if not a.normalised and not fnmatch(n, MEET.get(case.name, ""))
    }
    scores = {n: s for n, s in case.scores(1).items() if n in chosen}
    widths = {n: max(1, a.size // 2) for n, a in chosen.items()}
    kept = {n: s >= s.sort(descending=True).values[widths[n] - 1] for n, s in scores.items()}
    wanted = masked(case, kept)
    pruning.order_(net, scores)
    assert close(case.outputs(widths=widths), wanted)


def masked(case, kept):
    """The outputs with only these features' gates open."""
    model = case.net.model
    values = tensors_of(model)
    gates = {n: gate for n, gate in find_gates(case.net).items() if n in kept}
    factors = opened(gates, {n: k.float() for n, k in kept.items()}, values)
    changed = {id(p): p * factors[n] for n, p in model.named_parameters() if n in factors}
    named = model.named_parameters(remove_duplicate=False)
    every = {n: changed.get(id(p), p) for n, p in named}
    with torch.no_grad():
        torch.manual_seed(1)
        return tensors(functional_call(model, every, case.args, case.kwargs, tie_weights=False))


def test_another_mask_is_seen():
    case = Case("mlp")
    kept = {"0": torch.arange(16) >= 8}
    assert not close(case.outputs(widths={"0": 8}), masked(case, kept))
    assert close(case.outputs(widths={"0": 8}), masked(case, {"0": torch.arange(16) < 8}))


SCORES = {
    "random": lambda net, batches: pruning.random(net),
    "magnitude": lambda net, batches: pruning.magnitude(net),
    "activation": lambda net, batches: pruning.activation(net, batches),
    "taylor": lambda net, batches: pruning.taylor(net, batches, squares),
    "obd": lambda net, batches: pruning.obd(net, batches, squares),
    "hutchinson": lambda net, batches: pruning.obd(net, batches, squares, curvature="hutchinson"),
    "obd_sd": lambda net, batches: pruning.obd_sd(net, batches, squares),
    "dropout_ablation": lambda net, batches: pruning.dropout_ablation(
        net, batches, squares, passes=2
    ),
    "output_error": lambda net, batches: pruning.output_error(net, batches, squares),
}


def test_every_score_is_a_number_for_each_feature_and_changes_nothing(case):
    net = case.net
    before, modes = case.state(), [m.training for m in net.modules()]
    sizes = {n: (a.size,) for n, a in net.free.items()}
    for name, score in SCORES.items():
        found = score(net, list(case.batches(2)))
        expected = dict(sizes)
        if name == "activation":  # evaluation does not read what an auxiliary head does
            expected = {n: s for n, s in sizes.items() if n in found}
            assert len(expected) >= len(sizes) - (case.name == "auxiliary")
        assert {n: tuple(s.shape) for n, s in found.items()} == expected, name
        assert all(s.isfinite().all() for s in found.values()), name
        if name not in ("random", "magnitude", "dropout_ablation", "hutchinson", "obd_sd"):
            assert all((s >= 0).all() for s in found.values()), name
    for of in (pruning.taylor, pruning.obd):
        found = of(net, list(case.batches(2)), squares, of="weights")
        assert {n: s.shape for n, s in found.items()} == {
            n: p.shape for n, p in net.model.named_parameters()
        }
    assert all(torch.equal(t, before[n]) for n, t in net.engine.state().items())
    assert [m.training for m in net.modules()] == modes
    assert all(p.grad is None for p in net.parameters())


def relative_error(case, cut, batches):
    """Squared distance of a cut network's outputs from the full network's, relative to these."""
    wrong = total = 0.0
    for inputs, _ in batches:
        args, kwargs = ((), inputs) if isinstance(inputs, dict) else (inputs, {})
        for x, y in zip(run(cut, args, kwargs), run(case.net, args, kwargs), strict=True):
            if x.is_floating_point():
                wrong += (x.double() - y.double()).square().sum().item()
                total += y.double().square().sum().item()
    return wrong / total


# What reads their features is used more than once, or is a product with more than a matrix.
UNFITTED = {"tied_autoencoder", "einsum", "lstm_cell", "seq2seq"}


def test_reconstruction_comes_nearer_to_the_full_network(case):
    net, batches = case.net, list(case.batches())
    recalibrate_(net.model, batches)  # statistics that are those of the data
    net.eval()
    before, widths = case.state(), net.widths(0.5)
    cut = net.engine.cut(widths)[0].eval()
    graph = net.engine.cut(widths, same_class=False)[0].eval()
    plain = relative_error(case, cut, batches)
    for module in (cut, graph):
        assert pruning.reconstruct_(module, net, widths, iter(batches)) is module
    found = relative_error(case, cut, batches)
    print(f"{case.name}: {plain:.3f} -> {found:.3f}")
    assert found < (1.01 if case.name in UNFITTED else 0.9) * plain
    assert relative_error(case, graph, batches) == pytest.approx(found, rel=1e-2, abs=1e-6)
    assert all(torch.equal(t, before[n]) for n, t in net.engine.state().items())


def test_budgets_count_what_is_counted_on_the_cut(case):
    net = case.net
    path = list(removals(net, case.scores(2), "params"))
    totals = [total for _, total in path]
    assert totals == sorted(totals, reverse=True)
    assert totals[0] == params(net.model)
    limit = int((totals[0] + totals[-1]) / 2)
    widths = pruning.allocate(net, case.scores(2), max_params=limit)
    own = net.engine.cut(widths)[0]
    if type(own) is type(net.model):  # a graph module may leave out what only training runs
        assert params(own) == max(t for t in totals if t <= limit)

    # einsum multiplies features that are alone one by one, which is not counted: two at least.
    tried = [net.full(), net.widths(0.5), random_widths(net, 3)]
    for w in [*tried[:2], ww.Widths({n: max(2, k) for n, k in tried[2].items()})]:
        w = net.complete({n: min(k, net.free[n].size) for n, k in w.items()})
        graph = net.engine.cut(w, same_class=False)[0].eval()
        assert counted(net, w) == macs(graph, case.args, case.kwargs)


def counted(net, widths):
    """The multiply-accumulates that allocation reckons with."""
    return Costs(net, "macs").total(widths)
