"""Measuring many widths at once: the same as each by itself, and shared where it can be."""

import inspect
import itertools
import math
import warnings

import pytest
import torch
from torch import nn

import widthwise as ww
from elastic_nets import close, made, random_widths, run, tensors
from widthwise.graph.shared import shared_nodes
from widthwise.measure.evaluation import AtWidths, Evaluation
from widthwise.measure.even_levels import even_levels
from widthwise.measure.metric import ACCURACY, Metric
from widthwise.measure.recalibrate import has_statistics, recalibrate_
from widthwise.measure.sweep import NotMeasuredWarning, sweep
from widthwise.store.file import save

# One for each way in which a shared part can end.
NETS = [
    "mlp", "mlp_layernorm", "mlp_batchnorm", "bilinear", "tied_autoencoder", "einsum", "vae", "cnn",
    "resnet", "densenet", "groupnorm", "mha", "gpt", "lstm_2", "text", "dict_kwargs",
]  # fmt: skip


def shared_operators(net):
    """How many operators of the evaluation graph all widths share, and all of them."""
    related = next(r for r in net.engine.relations.programs if not r.program.training)
    found = shared_nodes(related)
    operators = [n for n in related.program.graph.nodes if n.op == "call_function"]
    return sum(n in found for n in operators), len(operators)


def several(net):
    """Narrow to wide, then in no order."""
    return [net.widths(f) for f in (0.2, 0.5, 0.8, 1.0)] + [random_widths(net, i) for i in range(4)]


def agree_with_one_by_one(net, args, kwargs, widths):
    """`each` gives what calling the network at every width gives."""
    count = 0
    torch.manual_seed(1)
    for w, out in zip(widths, net.each(widths, *args, **kwargs), strict=True):
        assert close(tensors(out), run(net, args, kwargs, widths=w)), w
        torch.manual_seed(1)  # a network that draws draws the same at every width
        count += 1
    assert count == len(widths)


@pytest.mark.parametrize("name", NETS)
def test_many_widths_at_once_equal_each_by_itself(name):
    _, net, args, kwargs = made(name)
    agree_with_one_by_one(net, args, kwargs, several(net))
    shared, operators = shared_operators(net)
    assert 0 < shared < operators


def test_the_first_layer_and_its_activation_are_shared():
    _, net, _, _ = made("mlp")
    assert shared_operators(net) == (2, 5)


def test_every_width_of_an_mlp():
    torch.manual_seed(0)
    net = ww.Elastic(
        nn.Sequential(
            nn.Linear(7, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 3)
        ),
        torch.randn(2, 7),
    ).eval()  # fmt: skip
    assert len(even_levels(net)) == 40
    for order in (1, -1):
        agree_with_one_by_one(net, (torch.randn(5, 7),), {}, even_levels(net)[::order])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions(dtype):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(7, 40, bias=False), nn.ReLU(), nn.Linear(40, 3, bias=False))
    net = ww.Elastic(model.to(dtype), torch.randn(2, 7, dtype=dtype)).eval()
    agree_with_one_by_one(net, (torch.randn(5, 7, dtype=dtype),), {}, even_levels(net))


def test_the_scale_of_structural_dropout_is_kept():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(7, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 3)
    )
    x = torch.randn(4, 7)
    plain, scaled = (ww.Elastic(model, x, draw=d).eval() for d in (ww.Draw(), ww.PUBLISHED))
    agree_with_one_by_one(scaled, (x,), {}, several(scaled))
    half = scaled.widths(0.5)
    assert not close(run(plain, (x,), {}, widths=half), run(scaled, (x,), {}, widths=half))


class TiedEmbedding(nn.Module):
    """The head reads features with the very weights that make them."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(9, 12)
        self.fc = nn.Linear(12, 12)

    def forward(self, x):
        return nn.functional.linear(torch.relu(self.fc(self.embed(x))), self.embed.weight)


def test_a_scaled_weight_is_not_shared():
    torch.manual_seed(0)
    x = torch.randint(0, 9, (4, 3))
    net = ww.Elastic(TiedEmbedding(), x, draw=ww.PUBLISHED).eval()
    agree_with_one_by_one(net, (x,), {}, several(net))


class Noisy(nn.Module):
    """Draws at every width by itself, also in evaluation mode."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 10), nn.Linear(10, 3)

    def forward(self, x):
        h = self.fc1(x)
        return self.fc2(h + torch.randn_like(h))


def test_noise_is_not_shared():
    torch.manual_seed(0)
    x = torch.randn(4, 6)
    net = ww.Elastic(Noisy(), x).eval()
    agree_with_one_by_one(net, (x,), {}, several(net))


class Overwritten(nn.Module):
    """Writes in place to values that all widths share; `how` says when."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.fc1, self.fc2, self.fc3 = nn.Linear(6, 10), nn.Linear(10, 10), nn.Linear(10, 3)

    def forward(self, x):
        h = self.fc1(x)
        if self.how == "by the rest":
            h += self.fc2(h)
        elif self.how == "after the rest read it":
            h = h + self.fc2(h)
            g = self.fc1(x)
            before = self.fc2(g)
            g.relu_()
            h = h + g + before
        elif self.how == "through a view":
            flat = h.view(-1)
            z = self.fc2(h)
            flat.mul_(2.0)
            h.add_(z)
        else:
            h.relu_()
        return self.fc3(h)


@pytest.mark.parametrize("how", ["by the rest", "after the rest read it", "through a view", "once"])
def test_writing_in_place_spoils_nothing(how):
    torch.manual_seed(0)
    x = torch.randn(4, 6)
    net = ww.Elastic(Overwritten(how), x).eval()
    agree_with_one_by_one(net, (x,), {}, [*several(net), *several(net)])
    assert (shared_operators(net)[0] > 1) == (how == "once")


class Folded(nn.Module):
    """Views channels together with the batch, which a slice of them does not allow."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(3, 8, 3, padding=1)
        self.over = nn.Linear(10, 10)
        self.head = nn.Linear(80, 2)

    def forward(self, x):
        h = torch.relu(self.conv(x))
        h = self.over(h.view(-1, 10)).view(-1, 8, 10)
        return self.head(h.flatten(1))


def test_slices_of_shared_values_may_be_viewed():
    torch.manual_seed(0)
    x = torch.randn(4, 3, 10)
    net = ww.Elastic(Folded(), x).eval()
    assert net.free
    agree_with_one_by_one(net, (x,), {}, several(net))


def test_weights_that_changed_since_are_used():
    torch.manual_seed(0)
    x = torch.randn(4, 6)
    net = ww.Elastic(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)), x).eval()
    agree_with_one_by_one(net, (x,), {}, several(net))
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(-1.3)
    agree_with_one_by_one(net, (x,), {}, several(net))


def test_unknown_widths_are_refused():
    _, net, args, _ = made("mlp")
    with pytest.raises(ww.WidthError):
        list(net.each([{"nowhere": 3}], *args))


# ---------------------------------------------------------------- evaluation


def data(number=50, features=20, classes=5, batch=16):
    """Batches of random inputs and targets, the last one smaller."""
    g = torch.Generator().manual_seed(3)
    x = torch.randn(number, features, generator=g)
    y = torch.randint(0, classes, (number,), generator=g)
    return list(zip(x.split(batch), y.split(batch), strict=True))


def summed(outputs, target):
    return nn.functional.cross_entropy(outputs, target, reduction="sum"), len(target)


LOSS = Metric("loss", summed, higher_is_better=False)
PERPLEXITY = Metric("perplexity", summed, higher_is_better=False, finish=math.exp)


def test_an_evaluation_is_the_mean_over_all_items():
    _, net, _, _ = made("mlp")
    x, y = (torch.cat(parts) for parts in zip(*data(), strict=True))
    with torch.no_grad():
        right = float((net.model(x).argmax(1) == y).double().mean())
        loss = float(nn.functional.cross_entropy(net.model(x), y))
    assert Evaluation(data(), ACCURACY)(net.model) == pytest.approx(right, abs=1e-12)
    assert Evaluation(data, LOSS)(net.model) == pytest.approx(loss, rel=1e-6)
    assert Evaluation(data, PERPLEXITY)(net.model) == pytest.approx(math.exp(loss), rel=1e-6)


def test_evaluation_gives_modes_back():
    model = nn.Sequential(nn.Linear(20, 8), nn.Dropout(0.9), nn.Linear(8, 5)).train()
    model[1].eval()
    first = Evaluation(data(), LOSS)(model)
    assert Evaluation(data(), LOSS)(model) == first  # no dropout
    assert [m.training for m in model] == [True, False, True]


@pytest.mark.parametrize(
    ("inputs", "name"), [(lambda x: x, "mlp"), (lambda x: (x,), "mlp"), (lambda x: [x], "mlp")]
)
def test_inputs_may_be_a_tensor_or_arguments(inputs, name):
    _, net, _, _ = made(name)
    batches = [(inputs(x), y) for x, y in data()]
    widths = even_levels(net, 3)
    assert Evaluation(batches, LOSS).at(net, widths) == Evaluation(data(), LOSS).at(net, widths)


def test_inputs_may_be_keywords():
    _, net, args, kwargs = made("dict_kwargs")
    assert kwargs

    def count(outputs, _):
        return tensors(outputs)[0].double().sum(), 1

    names = list(inspect.signature(net.model.forward).parameters)
    batch = dict(zip(names, args, strict=False)) | kwargs
    evaluation = Evaluation([(batch, None)] * 2, Metric("sum", count))
    with torch.no_grad():
        want = float(tensors(net.model(*args, **kwargs))[0].double().sum())
    assert evaluation.at(net, [{}]) == pytest.approx([want])
    assert evaluation(net.model) == pytest.approx(want)


def test_no_data_is_said():
    _, net, _, _ = made("mlp")
    with pytest.raises(ww.DataError, match="again"):
        Evaluation([], ACCURACY)(net.model)
    once = iter(data())
    Evaluation(once, ACCURACY)(net.model)
    with pytest.raises(ww.DataError, match="again"):
        Evaluation(once, ACCURACY)(net.model)


def test_a_view_at_fixed_widths():
    _, net, args, kwargs = made("mlp")
    w = net.widths(0.5)
    view = AtWidths(net, w)
    assert torch.equal(view(*args, **kwargs), net(*args, widths=w))
    assert {id(p) for p in view.parameters()} == {id(p) for p in net.parameters()}
    with pytest.raises(ww.WidthError):
        AtWidths(net, {"0": 99})


# ---------------------------------------------------------------- levels


def test_a_ladder_goes_from_narrow_to_full_without_repeats():
    _, net, _, _ = made("cnn")
    for count in (1, 2, 5, 16, 100):
        levels = even_levels(net, count)
        assert levels[-1] == net.full()
        assert len(set(levels)) == len(levels) <= count
        for narrow, wide in itertools.pairwise(levels):
            assert all(narrow[a] <= wide[a] for a in narrow)
    assert len(even_levels(net)) <= 16
    wide = even_levels(net, 5, lowest=0.5)[0]
    assert all(wide[a] == max(1, round(net.free[a].size / 2)) for a in wide)


def test_a_ladder_on_a_grid():
    _, net, _, _ = made("cnn")
    for level in even_levels(net, multiple_of=4):
        assert all(w % 4 == 0 or w == net.free[a].size for a, w in level.items())


@pytest.mark.parametrize(
    "wrong", [{"count": 0}, {"count": 3, "lowest": 0}, {"count": 3, "lowest": 2}]
)
def test_a_ladder_refuses_nonsense(wrong):
    _, net, _, _ = made("cnn")
    with pytest.raises(ww.WidthError):
        even_levels(net, **wrong)


# ---------------------------------------------------------------- sweep


def test_a_sweep_measures_what_the_cut_is(tmp_path):
    _, net, _, _ = made("mlp")
    evaluation = Evaluation(data(), LOSS, "test")
    frontier = sweep(net, evaluation, even_levels(net, 6), latency=False)
    assert (frontier.metric, frontier.higher_is_better) == ("loss", False)
    assert (frontier.split, frontier.seeds, frontier.batch) == ("test", (), 1)
    assert frontier.runtime.startswith("PyTorch ")
    for point in frontier.points:
        small = net.cut(point.widths)
        assert point.metric == pytest.approx(evaluation(small), rel=1e-5)
        assert point.params == sum(p.numel() for p in small.parameters())
        assert point.bytes == save(net, tmp_path / "p", widths=point.widths).stat().st_size
        widths = point.widths
        assert point.macs == 20 * widths["0"] + widths["0"] * widths["2"] + widths["2"] * 5
        assert point.latency_ms is None
    sizes = [p.bytes for p in frontier.points]
    assert sizes == sorted(sizes)


def test_any_function_can_be_swept():
    _, net, args, _ = made("mlp")
    widths = [{"0": 3}, {"0": 3}, {"2": 4}]
    seen = []

    def evaluate(module):
        seen.append(module.training)
        return float(module(*args).abs().sum())

    net.train()
    evaluation = Evaluation.by(evaluate, higher_is_better=False, name="size")
    frontier = sweep(net, evaluation, widths, latency=True)
    assert net.training
    net.eval()
    assert seen == [False, False]  # what is asked for twice is measured once
    assert frontier.metric == "size"
    assert [dict(p.widths) for p in frontier.points] == [{"0": 3}, {"2": 4}]
    with torch.no_grad():
        want = [float(net(*args, widths=w).abs().sum()) for w in ({"0": 3}, {"2": 4})]
    assert [p.metric for p in frontier.points] == pytest.approx(want)
    assert all(p.latency_ms > 0 for p in frontier.points)


def test_what_is_not_a_number_is_left_out_and_said():
    _, net, _, _ = made("mlp")
    values = iter([float("nan"), 0.5, float("inf")])
    with pytest.warns(NotMeasuredWarning, match="left out"):
        frontier = sweep(net, by(lambda _: next(values)), even_levels(net, 3), latency=False)
    assert [p.metric for p in frontier.points] == [0.5]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotMeasuredWarning)
        with pytest.raises(ww.TrainingError, match="not a number"):
            sweep(net, by(lambda _: float("nan")), even_levels(net, 2), latency=False)


def test_a_metric_too_large_for_a_number_is_left_out():
    _, net, _, _ = made("mlp")
    huge = Metric("perplexity", lambda out, y: (1e9, len(y)), finish=math.exp)
    with (
        pytest.warns(NotMeasuredWarning),
        pytest.raises(ww.TrainingError),
    ):
        sweep(net, Evaluation(data(), huge), even_levels(net, 2), latency=False)


def test_unknown_widths_are_refused_before_any_work():
    _, net, _, _ = made("mlp")
    with pytest.raises(ww.WidthError, match="nowhere"):
        sweep(net, by(lambda _: pytest.fail("evaluated")), [{"nowhere": 1}])
    with pytest.raises(ValueError, match="Whether a higher score is better"):
        sweep(net, score)  # type: ignore[arg-type]


def score(module):
    return 1.0


def by(function):
    """The higher, the better."""
    return Evaluation.by(function, higher_is_better=True)


def test_progress_goes_to_stderr(capsys):
    _, net, _, _ = made("mlp")
    sweep(net, Evaluation(data(), LOSS), even_levels(net, 2), latency=False, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "2 of 2 widths" in err


# ---------------------------------------------------------------- batch-norm statistics


def images(shape, number=4):
    g = torch.Generator().manual_seed(5)
    return [(torch.randn(8, *shape, generator=g) * 2 + 1, None) for _ in range(number)]


def fresh(name):
    """A network of its own, because statistics are written to it."""
    described, _, args, kwargs = made(name)
    torch.manual_seed(0)
    return ww.Elastic(described.build(), args, kwargs).eval(), args


@pytest.mark.parametrize("name", ["cnn", "mlp_batchnorm", "densenet", "resnet"])
def test_statistics_of_class_and_graph_are_the_same(name):
    net, args = fresh(name)
    batches = images(args[0].shape[1:])
    before = {k: v.clone() for k, v in net.model.named_buffers()}
    w = net.widths(0.5)
    own, graph = (net.engine.cut(w, same_class=c)[0] for c in (True, False))
    net.train()
    trainable = net.engine.cut(w, same_class=False)[0]
    net.eval()
    results = [dict(recalibrate_(m, batches).named_buffers()) for m in (own, graph, trainable)]
    for result in results[1:]:
        for key, value in result.items():
            if not key.endswith("tracked"):
                torch.testing.assert_close(value, results[0][key])
    assert not any(m.training for m in (own, graph, trainable))
    for key, value in net.model.named_buffers():
        assert torch.equal(value, before[key])


def test_statistics_are_the_average_over_batches():
    model = nn.Sequential(
        nn.Linear(3, 4), nn.Dropout(0.5), nn.BatchNorm1d(4, momentum=0.7), nn.Linear(4, 2)
    )
    net = ww.Elastic(model, torch.randn(5, 3))
    net.train()
    batches = [(torch.randn(6, 3), None) for _ in range(5)]
    small = recalibrate_(net.cut(net.widths(0.5)), batches)
    with torch.no_grad():
        features = torch.stack([small[0](x) for x, _ in batches])
    torch.testing.assert_close(small[2].running_mean, features.mean(1).mean(0))
    torch.testing.assert_close(small[2].running_var, features.var(1).mean(0))
    assert small[2].momentum == 0.7
    assert int(small[2].num_batches_tracked) == 5
    assert not small.training
    assert net.training


def test_recalibrating_changes_no_weight_and_needs_batches():
    net, args = fresh("cnn")
    small = net.cut(net.widths(0.5))
    before = [p.detach().clone() for p in small.parameters()]
    recalibrate_(small, images(args[0].shape[1:]))
    assert all(torch.equal(a, b) for a, b in zip(before, small.parameters(), strict=True))
    with pytest.raises(ww.DataError, match="no batch"):
        recalibrate_(small, [])


def test_a_network_without_statistics_stays_as_it_is():
    _, net, args, _ = made("mlp")
    assert not has_statistics(net.model)
    small = recalibrate_(net.cut({"0": 3}), [])
    assert torch.equal(small(*args), net(*args, widths={"0": 3}))


def test_a_sweep_with_statistics_estimated_for_each_width():
    net, args = fresh("cnn")
    batches = images(args[0].shape[1:])
    targets = [(x, torch.zeros(len(x), dtype=torch.long)) for x, _ in batches]
    evaluation = Evaluation(targets, LOSS)
    widths = [net.widths(0.5), net.full()]
    frontier = sweep(net, evaluation, widths, recalibrate=batches, latency=False)
    for point in frontier.points:
        assert point.metric == pytest.approx(evaluation(net.cut(point.widths)))
    plain = sweep(net, evaluation, widths, recalibrate=False, latency=False)
    assert plain.points[0].metric != frontier.points[0].metric
    assert [p.bytes for p in plain.points] == [p.bytes for p in frontier.points]


@pytest.mark.parametrize("function", [False, True])
@pytest.mark.parametrize("statistics", [False, True])
def test_a_sweep_of_cuts_that_are_post_processed(statistics, function):
    net, args = fresh("cnn")
    data = images(args[0].shape[1:])
    batches = data if statistics else False
    evaluation = Evaluation([(x, torch.zeros(8).long()) for x, _ in data], LOSS)
    before = {k: v.clone() for k, v in net.engine.state().items()}
    seen = []

    def doubled(module, widths):
        seen.append((type(module), dict(widths)))
        with torch.no_grad():
            for p in module.parameters():
                p.mul_(2)
        return module

    def expected(widths):
        return evaluation(doubled(net.cut(widths, recalibrate=batches), widths))

    def evaluate(module):
        assert not module.training
        return evaluation(module)

    widths = [net.widths(0.5), net.full()]
    net.train()
    given = Evaluation.by(evaluate, higher_is_better=False) if function else evaluation
    frontier = sweep(net, given, widths, recalibrate=batches, post_process=doubled, latency=False)
    net.eval()
    assert [w for _, w in seen] == [dict(w) for w in widths]
    assert [p.metric for p in frontier.points] == pytest.approx([expected(w) for w in widths])
    assert all(torch.equal(t, before[k]) for k, t in net.engine.state().items())
    untouched = sweep(net, evaluation, widths, latency=False)
    for point, plain in zip(frontier.points, untouched.points, strict=True):
        assert point.metric != plain.metric
        assert (point.bytes, point.params, point.macs) == (plain.bytes, plain.params, plain.macs)
    assert frontier.post_process == ""  # who knows what it was called says so
