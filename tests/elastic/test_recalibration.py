"""Running statistics belong to a width: what is cut, swept or saved has its own."""

from __future__ import annotations

import copy
import gc
import pickle
import warnings
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import widthwise as ww
from widthwise import pruning
from widthwise.elastic import recalibration
from widthwise.elastic.recalibration import StatisticsWarning, remembered
from widthwise.errors import DataError

ONE = ww.Evaluation.by(lambda module: 1.0, higher_is_better=True, name="one")

pytestmark = pytest.mark.filterwarnings("error::widthwise.elastic.recalibration.StatisticsWarning")


class Images(nn.Module):
    """Two norms, the second behind features that can be cut."""

    def __init__(self, **options):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(8, **options)
        self.conv2 = nn.Conv2d(8, 12, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(12, **options)
        self.out = nn.Linear(12, 3)

    def forward(self, x):
        x = F.relu(self.norm1(self.conv1(x)))
        return self.out(F.relu(self.norm2(self.conv2(x))).mean((2, 3)))


class Named(nn.Module):
    """An MLP that takes a dict of columns."""

    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(6, 16)
        self.norm1 = nn.BatchNorm1d(16)
        self.fc2 = nn.Linear(16, 16)
        self.norm2 = nn.BatchNorm1d(16)
        self.out = nn.Linear(16, 3)

    def forward(self, wide, narrow):
        x = torch.cat([wide, narrow], 1)
        x = F.relu(self.norm1(self.fc1(x)))
        return self.out(F.relu(self.norm2(self.fc2(x))))


class Twice(nn.Module):
    """One norm for two streams, of other means."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(4, 8)
        self.inner = nn.Linear(8, 8)
        self.norm = nn.BatchNorm1d(8)
        self.out = nn.Linear(8, 2)

    def forward(self, a, b):
        one, two = (self.norm(self.inner(F.relu(self.stem(x)))) for x in (a, b))
        return self.out(one * two)


def data(items=96, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(items, 1, 6, 6, generator=generator) * 3 + 1
    return x, x.mean((1, 2, 3)).mul(3).long().clamp(0, 2)


def batches(size=32):
    x, y = data()
    return list(zip(x.split(size), y.split(size), strict=True))


def trained(model=None, epochs=2):
    torch.manual_seed(0)
    x, y = data()
    net = ww.Elastic(model or Images(), x[:4])
    loss = ww.SandwichLoss(net, F.cross_entropy)
    recipe = ww.Recipe(epochs=epochs, batch_size=32, lr=1e-2)
    ww.fit(net, TensorDataset(x, y), loss, recipe=recipe, run=ww.RunConfig(progress=False))
    return net


def deep(module):
    """The statistics behind what was cut."""
    found = {n: b for n, b in module.named_buffers() if n.startswith("norm2.running")}
    return torch.cat([found["norm2.running_mean"], found["norm2.running_var"]])


def seen_by(net, widths, pairs):
    """Statistics estimated by hand, on pairs."""
    plain = net.cut(widths, recalibrate=False)
    return deep(ww.recalibrate_(plain, pairs))


def test_a_cut_after_fit_has_statistics_of_its_own():
    net = trained()
    for widths in (net.widths(0.5), {"conv1": 3}, {"conv1": 5, "conv2": 2}):
        small = net.cut(widths)
        full = deep(net.cut(widths, recalibrate=False))
        assert not torch.allclose(deep(small), full, rtol=0.05)
        torch.testing.assert_close(
            deep(small), seen_by(net, widths, batches(96)), rtol=0.05, atol=0.05
        )


def test_at_full_width_the_models_own_stay():
    net = trained()
    assert torch.equal(deep(net.cut(net.full())), deep(net.model))


@pytest.mark.parametrize("same_class", [True, False])
def test_what_a_sweep_measures_is_what_cut_save_and_load_deliver(tmp_path, same_class):
    net = trained()
    x, y = data(64, seed=1)
    evaluate = ww.Evaluation([(x, y)], ww.ACCURACY)
    loss = ww.Evaluation([(x, y)], LOSS)
    widths = [net.widths(0.3), net.widths(0.6), {"conv1": 7, "conv2": 3}, net.full()]
    frontier = ww.sweep(net, loss, widths, latency=False)
    assert ww.sweep(net, evaluate, widths, latency=False).metric == "accuracy"
    for point in frontier.points:
        small = net.cut(point.widths, same_class=same_class)
        assert loss(small) == pytest.approx(point.metric, rel=1e-5)
        assert loss.at(net, [point.widths]) == [pytest.approx(point.metric, rel=1e-5)]
        path = ww.save(net, tmp_path / "small.safetensors", widths=point.widths)
        assert loss(ww.load(path, build=Images)) == pytest.approx(point.metric, rel=1e-5)
        made = ww.apply(net, ww.Variant(ww.Widths(point.widths)))
        assert loss(made.module) == pytest.approx(point.metric, rel=1e-5)


LOSS = ww.Metric(
    "loss", lambda out, y: (F.cross_entropy(out, y) * len(y), len(y)), higher_is_better=False
)


def _nothing(outputs, target):
    return 0.0, 1


def test_progressive_files_have_statistics_of_each_width(tmp_path):
    net = trained()
    levels = [net.widths(0.25), net.widths(0.5), net.full()]
    path = ww.save_progressive(net, tmp_path / "ladder.safetensors", levels)
    with ww.Progressive.open(path) as file:
        for number, widths in enumerate(levels):
            assert torch.equal(deep(file.load(Images, level=number)), deep(net.cut(widths)))


def test_without_data_a_warning_says_what_to_do(tmp_path):
    x, _ = data()
    net = ww.Elastic(Images(), x[:4])
    half = net.widths(0.5)
    with pytest.warns(
        StatisticsWarning, match=r"of norm2 were estimated at full width.*recalibrate="
    ):
        small = net.cut(half)
    for lost in (
        lambda: ww.save(net, tmp_path / "a.safetensors", widths=half),
        lambda: ww.save_progressive(net, tmp_path / "b.safetensors", [half, net.full()]),
        lambda: ww.sweep(net, ONE, [half], latency=False),
        lambda: ww.apply(net, ww.Variant(half)),
    ):
        with pytest.warns(StatisticsWarning) as said:
            lost()
        assert {w.filename for w in said} == {__file__}
    net.cut(net.full())
    net.cut(half, recalibrate=False)
    ww.save(net, tmp_path / "a.safetensors", widths=half, module=small)  # whose they are
    assert not torch.equal(deep(net.cut(half, recalibrate=batches())), deep(small))
    net.cut(half)  # the network remembers them now


def test_a_narrower_call_says_once_whose_statistics_it_has():
    x, _ = data()
    net = ww.Elastic(Images(), x[:4]).eval()
    net(x[:4], widths={})
    with pytest.warns(
        StatisticsWarning, match=r"of norm2 were estimated at full.*cut\(widths\)"
    ) as said:
        net(x[:4], widths=0.5)
    assert {w.filename for w in said} == {__file__}
    net(x[:4], widths=0.25)
    again = ww.Elastic(Images(), x[:4]).train()
    again(x[:4], widths=0.5)  # statistics of the batch
    ww.sweep(again, ONE, [0.5], latency=False, recalibrate=False)


def test_evaluation_remembers_where_nothing_else_has():
    x, y = data()
    net = ww.Elastic(Images(), x[:4])
    evaluate = ww.Evaluation(DataLoader(TensorDataset(x, y), 16), LOSS)
    evaluate(net)
    assert deep(net.cut(net.widths(0.5))).isfinite().all()
    first = remembered(net.model)
    net.cut(net.widths(0.5), recalibrate=batches())
    evaluate(net)
    assert remembered(net.model) is not first
    assert len(remembered(net.model)) == 3  # what was given stays


def test_a_network_trained_before_it_was_made_elastic_and_ordered():
    torch.manual_seed(0)
    x, y = data()
    model = Images()
    recipe = ww.Recipe(epochs=1, batch_size=32)
    ww.fit(
        model, TensorDataset(x, y), F.cross_entropy, recipe=recipe, run=ww.RunConfig(progress=False)
    )
    net = ww.Elastic(model, x[:4])
    pruning.order_(net, pruning.taylor(net, batches(), F.cross_entropy))
    widths = net.widths(0.4)
    torch.testing.assert_close(
        deep(net.cut(widths)), seen_by(net, widths, batches(96)), rtol=0.05, atol=0.05
    )


def test_scores_and_merging_have_data_at_hand():
    x, _ = data()
    net = ww.Elastic(Images(), x[:4])
    pruning.order_(net, pruning.output_error(net, batches(), F.cross_entropy))
    net.cut(net.widths(0.5))
    net = ww.Elastic(Images(), x[:4])
    pruning.merge(net, net.widths(0.5), batches())


def test_dict_inputs():
    torch.manual_seed(0)
    wide, narrow = torch.randn(64, 4) * 2, torch.randn(64, 2)
    pairs = [({"wide": wide, "narrow": narrow}, torch.randint(3, (64,)))]
    model = ww.recalibrate_(Named(), pairs)
    net = ww.Elastic(model, (), {"wide": wide[:4], "narrow": narrow[:4]})
    ww.Evaluation(pairs, LOSS)(net)
    widths = {"fc1": 7, "fc2": 9}
    wanted = seen_by(net, widths, pairs)
    torch.testing.assert_close(deep(net.cut(widths)), wanted, rtol=0.05, atol=0.01)


def test_a_norm_called_twice_has_the_mean_over_its_calls():
    torch.manual_seed(0)
    a, b = torch.randn(64, 4), torch.randn(64, 4) + 3
    model = ww.recalibrate_(Twice(), [((a, b), None), ((a, b), None)])
    with torch.no_grad():
        values = [model.inner(F.relu(model.stem(x))).mean(0) for x in (a, b)]
    torch.testing.assert_close(model.norm.running_mean, sum(values) / 2)


def test_what_has_none_or_holds_them_is_left_alone():
    x, _ = data()
    plain = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3))
    for model in (Images(track_running_stats=False), plain):
        net = ww.Elastic(model, x[:4])
        ww.Evaluation(batches(), ww.Metric("zero", _nothing))(net)
        assert remembered(model) == ()
        net.cut({name: axis.near(2) for name, axis in net.free.items()})

    class Frozen(Images):
        def train(self, mode=True):
            super().train(mode)
            self.norm1.eval()
            self.norm2.eval()
            return self

    net = ww.Elastic(Frozen(), x[:4])
    small = net.cut(net.widths(0.5))  # trained with these at every width
    assert torch.equal(small.norm2.running_mean, net.model.norm2.running_mean[:6])


def test_a_norm_of_what_no_width_changes_is_left_alone():
    model = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    net = ww.Elastic(model, torch.randn(4, 6))
    assert torch.equal(net.cut(net.widths(0.5))[0].running_mean, model[0].running_mean)


@pytest.mark.filterwarnings("ignore::widthwise.graph.capture.program.EvaluationOnlyWarning")
def test_cumulative_and_synchronised_norms():
    x, _ = data()
    for model in (Images(momentum=None), nn.SyncBatchNorm.convert_sync_batchnorm(Images())):
        net = ww.Elastic(model, x[:4])
        small = net.cut(net.widths(0.5), recalibrate=batches())
        assert not torch.equal(deep(small)[:6], model.norm2.running_mean[:6])
        assert small.norm2.momentum == model.norm2.momentum


def test_a_cut_keeps_modes_weights_and_random_numbers():
    net = trained(nn.Sequential(Images(), nn.Dropout(0.5)))
    net.train()
    state = torch.get_rng_state()
    small, plain = net.cut(net.widths(0.5)), net.cut(net.widths(0.5), recalibrate=False)
    assert torch.equal(state, torch.get_rng_state())
    assert [m.training for m in small.modules()] == [m.training for m in plain.modules()]
    for a, b in zip(small.parameters(), plain.parameters(), strict=True):
        assert torch.equal(a, b)


def test_what_is_remembered_is_bounded_and_goes_with_the_model():
    sample = recalibration.Sample()
    for number in range(1000):
        sample.add(torch.full((64, 2), float(number)))
    held = torch.cat(sample.batches)
    assert recalibration.ITEMS <= 2 * len(held) <= 4 * recalibration.ITEMS
    assert held.max() > 900  # evenly spaced, for data may be sorted
    model = Images()
    recalibration.remember(model, (x for x, _ in batches()))
    assert len(pickle.dumps(model)) == len(pickle.dumps(Images()))
    assert remembered(copy.deepcopy(model)) == ()
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_rows_that_come_alone():
    """A variance of one row is none: torch refuses to train on it."""
    torch.manual_seed(0)
    x, y = torch.randn(70, 6), torch.randint(3, (70,))
    model = nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)
    )
    for size in (1, 23):  # all alone; the last one alone
        net = ww.Elastic(copy.deepcopy(model), x[:4])
        ww.Evaluation(DataLoader(TensorDataset(x, y), size), LOSS)(net.model)
        seen = remembered(net.model)
        assert [len(each) for each in seen] == ([35, 35] if size == 1 else [23, 23, 23])
        assert torch.equal(torch.cat(seen), x[: 70 if size == 1 else 69])
        net.cut(net.widths(0.5))
        with pytest.raises(DataError, match="no batch"):
            net.cut(net.widths(0.5), recalibrate=[])


def test_one_shot_batches_serve_every_width():
    x, y = data()
    net = ww.Elastic(Images(), x[:4])
    widths = [net.widths(0.3), net.widths(0.6)]
    once = (pair for pair in batches())
    found = ww.sweep(net, ww.Evaluation([(x, y)], LOSS), widths, recalibrate=once, latency=False)
    listed = ww.sweep(
        net, ww.Evaluation([(x, y)], LOSS), widths, recalibrate=batches(), latency=False
    )
    assert [p.metric for p in found.points] == [p.metric for p in listed.points]
    with pytest.raises(DataError, match="no batch"):
        recalibration.estimate(net.cut(widths[0]), [])


def test_the_checker_sees_statistics_of_full_width():
    """A cut with the old statistics would not pass the first test."""
    net = trained()
    widths = net.widths(0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small = net.cut(widths, recalibrate=False)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(
            deep(small), seen_by(net, widths, batches(96)), rtol=0.05, atol=0.05
        )


def test_none_is_no_way_to_recalibrate():
    net = ww.Elastic(nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(4, 3))
    with pytest.raises(ww.DataError, match=r"^recalibrate is True, False or batches"):
        net.cut(0.5, recalibrate=None)
