"""The search: on its budget, no worse than what it begins with, the same however often stopped."""

import itertools
import math
import sys
from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

import widthwise as ww
from elastic_nets import made
from widthwise.common.lock import held
from widthwise.errors import BudgetError, FileError, RunError, TrainingError, WidthError
from widthwise.measure.evaluation import Evaluation
from widthwise.measure.metric import Metric
from widthwise.measure.shape_costs import sizes
from widthwise.pruning import allocated_levels, magnitude
from widthwise.quantization import Codebook, Uniform
from widthwise.variants.budget import STEPS, largest
from widthwise.variants.space import MOST, Line, Space, grouped

LOSS = Metric("loss", lambda out, y: (F.cross_entropy(out, y, reduction="sum"), len(y)), False)


def build():
    return nn.Sequential(
        nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 10)
    )


@pytest.fixture(scope="module")
def data():
    digits = load_digits()
    order = torch.randperm(len(digits.images), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(digits.data).float()[order] / 16
    return x, torch.tensor(digits.target)[order]


@pytest.fixture(scope="module")
def net(data):
    """An elastic network of the digits."""
    x, y = data
    torch.manual_seed(0)
    net = ww.Elastic(build(), x[:2])
    recipe = ww.Recipe(epochs=6, batch_size=64, lr=3e-3)
    ww.fit(
        net,
        TensorDataset(x[:1200], y[:1200]),
        ww.SandwichLoss(net, F.cross_entropy),
        recipe=recipe,
        run=ww.RunConfig(progress=False),
    )
    return net


@pytest.fixture(scope="module")
def valid(data):
    x, y = data
    return Evaluation([(x[1200:], y[1200:])], ww.ACCURACY)


FORMATS = (None, Uniform(8), Uniform(4))
SEEDS = 9  # uniform choices to begin with: formats x shares of zeros


def searched(net, valid, trials=SEEDS, **more):
    names = {field.name for field in fields(ww.Budget)} & {*more}
    budget = ww.Budget(**{n: more.pop(n) for n in names} or {"max_bytes": 3000})
    tried = {field.name for field in fields(ww.Candidates)} & {*more}
    how = ww.Candidates(**{"formats": FORMATS} | {n: more.pop(n) for n in tried})
    return ww.search(net, valid, budget, candidates=how, trials=trials, **more)


@pytest.fixture(scope="module")
def begun(net, valid):
    return searched(net, valid)


@pytest.fixture(scope="module")
def found(net, valid):
    return searched(net, valid, 16)


# ---------------------------------------------------------------- the best within the budget


def test_the_best_is_within_the_budget_by_its_file(net, valid, found, tmp_path):
    best = found.best
    path = ww.apply(net, best.variant).save(tmp_path / "x.safetensors")
    assert path.stat().st_size == best.bytes <= 3000
    again = ww.load(path, build)
    assert valid(again) == best.metric
    assert best.macs == ww.sweep(net, valid, [best.variant.widths]).points[0].macs
    assert all(one.bytes <= 3000 for one in found.tried)


def test_all_trials_fill_the_budget(net, found):
    narrow = [one for one in found.tried if one.variant.widths != net.full()]
    assert len(narrow) > 8
    for one in narrow:
        wider = {n: min(net.free[n].size, w + 1) for n, w in one.variant.widths.items()}
        more = ww.apply(net, replace(one.variant, widths=wider))
        assert more.bytes > 0.99 * 3000


def test_the_best_comes_first(found):
    order = [(-one.metric, one.bytes) for one in found.tried]
    assert order == sorted(order)
    assert found.best is found.tried[0]
    assert len(found.tried) == 16


@pytest.mark.sample(1)
def test_a_search_begins_with_uniform_networks(net, valid, begun):
    for one in begun.tried:
        assert len({*one.variant.sparsity.values()}) <= 1
        assert len({*one.variant.bits.values()}) <= 1
    kinds = {(*{*t.variant.sparsity.values()}, *{*t.variant.bits.values()}) for t in begun.tried}
    assert len(kinds) == SEEDS
    # What a sweep of four-bit networks would find is among them.
    four = dict.fromkeys(ww.quantization.quantizable(net.model), Uniform(4))
    swept = [ww.apply(net, ww.Variant(w, {}, four)) for w in ww.even_levels(net, 200)]
    widest = max((s for s in swept if s.bytes <= 3000), key=lambda s: s.bytes)
    ((mine),) = (t for t in begun.tried if t.variant.bits == four and not t.variant.sparsity)
    assert mine.bytes >= widest.bytes
    assert mine.metric == valid(ww.apply(net, mine.variant).module)


def test_a_search_is_no_worse_than_what_it_begins_with(begun, found):
    assert found.best.metric >= begun.best.metric
    assert {t.variant for t in begun.tried} < {t.variant for t in found.tried}


def test_a_seed_gives_one_search(net, valid, found, begun):
    assert searched(net, valid, 16) == found
    other = searched(net, valid, 11, seed=1)
    assert {t.variant for t in begun.tried} < {t.variant for t in other.tried}
    assert not {t.variant for t in other.tried} <= {t.variant for t in found.tried}


def test_lower_may_be_better(net, data):
    x, y = data
    low = searched(net, Evaluation([(x[1200:], y[1200:])], LOSS), 12)
    values = [one.metric for one in low.tried]
    assert values == sorted(values)
    assert values[0] < values[-1]


def test_a_large_budget_leaves_the_network_whole(net, valid):
    best = searched(net, valid, 1, max_bytes="1MB").best
    assert best.variant == ww.Variant(net.full())
    assert best.metric == valid(net.model)


# ---------------------------------------------------------------- other limits


def test_multiply_accumulates(net, valid):
    found = searched(net, valid, 8, max_macs=2000)
    assert all(1800 < one.macs <= 2000 for one in found.tried)
    assert found.best.latency_ms is None
    both = searched(net, valid, 4, max_macs=2000, max_bytes=1500)
    assert all(one.macs <= 2000 and one.bytes <= 1500 for one in both.tried)


def test_latency(net, valid):
    found = searched(net, valid, 2, max_latency_ms=1e4)
    assert 0 < found.best.latency_ms < 1e4
    assert found.best.variant.widths == net.full()
    with pytest.raises(BudgetError, match=r"at most 1e-06 ms; the nearest has \d.* ms, so"):
        searched(net, valid, 1, max_latency_ms=1e-6)


def test_what_cannot_be_met_says_what_can(net, valid):
    with pytest.raises(BudgetError, match="at most 50 bytes; the nearest has") as told:
        searched(net, valid, 12, max_bytes=50)
    message = str(told.value)
    assert "fewer bits" in message
    assert message.count(".") == 1 + message.count("kB") * 1
    least = int(message.split("the nearest has ")[1].split()[0])
    smallest = ww.Variant(dict.fromkeys(net.free, 1))
    assert 50 < least <= ww.apply(net, smallest).bytes


@pytest.mark.parametrize(
    "limits",
    [{}, {"max_bytes": 0}, {"max_macs": -3}, {"max_macs": math.nan}, {"max_bytes": "three"}],
)
def test_budgets_that_are_none(net, valid, limits):
    with pytest.raises(BudgetError):
        ww.search(net, valid, ww.Budget(**limits), trials=1)


def test_arguments_that_cannot_be(net, valid):
    with pytest.raises(ValueError, match="trials is 0"):
        searched(net, valid, 0)
    for formats in ((), (4,), ("float",)):
        with pytest.raises(ValueError, match="formats"):
            searched(net, valid, 1, formats=formats)
    with pytest.raises(WidthError):
        searched(net, valid, 1, levels=[{"nowhere": 3}])


def test_a_metric_that_is_no_number(net):
    never = Evaluation([(torch.rand(4, 64), torch.zeros(4).long())], replace(LOSS, finish=math.log))
    nothing = replace(never, metric=replace(LOSS, finish=lambda mean: math.nan))
    assert searched(net, never, 1).tried
    with pytest.raises(TrainingError, match="not a number"):
        searched(net, nothing, 2)


# ---------------------------------------------------------------- what is done to each cut


def test_short_trainings(net, data, valid):
    x, y = data

    def train(module, quantizer):
        optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
        for at in range(0, 1200, 100):
            optimizer.zero_grad()
            F.cross_entropy(module(x[at : at + 100]), y[at : at + 100]).backward()
            optimizer.step()
            if quantizer is not None:
                quantizer.step()

    found = searched(net, valid, 4, train=train)
    assert found == searched(net, valid, 4, train=train)
    assert all(one.bytes <= 3000 for one in found.tried)
    best = ww.apply(net, found.best.variant, train=train)
    assert (best.bytes, valid(best.module)) == (found.best.bytes, found.best.metric)
    assert found.best.metric > searched(net, valid, 4).best.metric


def test_training_that_makes_files_larger_steps_down(net, valid):
    def train(module, quantizer):
        with torch.no_grad():
            for p in module.parameters():  # all codes alike likely: nothing left to code
                p.copy_(torch.linspace(-1, 1, p.numel()).view(p.shape))
        if quantizer is not None:
            quantizer.step()

    plain = searched(net, valid, 6, formats=(Uniform(4),))
    after = searched(net, valid, 6, formats=(Uniform(4),), train=train)
    assert all(one.bytes <= 3000 for one in after.tried)
    assert {t.variant for t in plain.tried} != {t.variant for t in after.tried}


class Convolutional(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.norm = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.b, self.last = nn.Conv2d(8, 12, 3, padding=1), nn.Linear(12 * 16, 10)

    def forward(self, x):
        x = F.relu(self.norm(self.a(x)))
        return self.last(F.max_pool2d(F.relu(self.b(x)), 2).flatten(1))


def test_batch_norms_are_recalibrated(data):
    x, y = data[0].view(-1, 1, 8, 8), data[1]
    torch.manual_seed(0)
    net = ww.Elastic(Convolutional(), x[:2])
    recipe = ww.Recipe(epochs=3, batch_size=64, lr=5e-3)
    loss = ww.SandwichLoss(net, F.cross_entropy)
    ww.fit(
        net,
        TensorDataset(x[:1200], y[:1200]),
        loss,
        recipe=recipe,
        run=ww.RunConfig(progress=False),
    )
    calibration = [(x[:300], y[:300])]
    seen = []

    def prepare(module, widths):
        seen.append(dict(widths))
        return ww.recalibrate_(module, calibration)

    valid = Evaluation([(x[1200:], y[1200:])], ww.ACCURACY)
    found = searched(net, valid, 11, prepare=prepare, max_bytes=6000)
    assert len(found.tried) <= len(seen) <= 22
    assert {*seen[0]} == {"a", "b"}
    best = ww.apply(net, found.best.variant, prepare=prepare)
    assert (best.bytes, valid(best.module)) == (found.best.bytes, found.best.metric)
    assert found.best.bytes <= 6000
    assert "a.weight" not in found.best.variant.sparsity  # the first convolution stays dense


# ---------------------------------------------------------------- where widths lie


def deep(layers=10, width=16):
    torch.manual_seed(0)
    middle = [nn.Sequential(nn.Linear(width, width), nn.ReLU()) for _ in range(layers)]
    return nn.Sequential(nn.Linear(64, width), *middle, nn.Linear(width, 10))


def test_deep_networks_are_searched_in_groups(data, valid):
    net = ww.Elastic(deep(), data[0][:2])
    space = Space.of(net, FORMATS, ())
    for groups in (space.axes, space.pruned, space.quantized):
        assert 4 <= len(groups) <= MOST
    assert [n for g in space.quantized for n in g] == list(ww.quantization.quantizable(net.model))
    found = searched(net, valid, 10, max_bytes=9000)
    assert len(found.tried) == 10
    for one, group in itertools.product(found.tried, space.quantized):
        assert len({one.variant.bits.get(name) for name in group}) == 1


@given(st.lists(st.integers(0, 1000), max_size=40))
def test_groups_follow_each_other(sizes):
    named = {str(i): size for i, size in enumerate(sizes)}
    groups = grouped(named)
    assert [name for group in groups for name in group] == list(named)
    assert len(groups) <= MOST
    assert len(sizes) > MOST or len(groups) == len(sizes)


def test_equal_sizes_make_equal_groups():
    assert [len(g) for g in grouped(dict.fromkeys(map(str, range(32)), 5))] == [4] * 8


def test_the_line_of_fractions(net):
    line = Line(net, ())
    assert line.widths(0, {}) == net.full()
    assert line.widths(-STEPS, {}) == net.widths(0.5)
    assert line.widths(-3 * STEPS, {}) == net.widths(0.125)
    tilts = {"0": 1.0, "2": -1.0}
    assert line.widths(-STEPS, tilts) == {"0": 48, "2": 8}
    for tilted in ({}, tilts):
        assert line.widths(line.highest, tilted) == net.full()
        assert line.widths(line.lowest, tilted) == {"0": 4, "2": 4}  # as training draws


def test_the_line_of_a_ladder(net):
    levels = allocated_levels(net, magnitude(net), 6)
    line = Line(net, levels)
    places = range(line.lowest, line.highest + 1)
    on = {line.widths(place, {}) for place in places}
    assert {net.complete(w) for w in levels[1:]} <= on
    assert len({w["0"] / w["2"] for w in on}) > 3  # not one fraction of all axes
    assert line.widths(line.highest, {}) == net.full()
    assert line.widths(line.lowest, {"0": 1.0}) == {"0": 4, "2": 4}  # as training draws


@given(st.floats(-1, 1), st.floats(-1, 1), st.booleans())
def test_widths_grow_along_the_line(a, b, along_levels):
    axes = ALONG if along_levels else GRID
    found = [axes.widths(place, {"0": a, "2": b}) for place in range(axes.lowest, axes.highest, 7)]
    for narrow, wide in itertools.pairwise(found):
        assert all(narrow[name] <= wide[name] for name in narrow)


def _grid():
    asked = ww.Constraints(multiple_of={"0": 8}, at_least={"2": 5})
    return ww.Elastic(build(), torch.rand(2, 64), constraints=asked)


GRID = Line(_grid(), ())
ALONG = Line(_grid(), [{"0": 8, "2": 30}, {"0": 32, "2": 31}])


def test_constraints_hold(data, valid):
    net = _grid()
    found = searched(net, valid, 12)
    for one in found.tried:
        assert one.variant.widths["0"] in range(8, 49, 8)
        assert one.variant.widths["2"] >= 5


def test_a_search_along_a_ladder(net, valid):
    levels = [{"0": 4, "2": 32}, {"0": 24, "2": 32}]
    found = searched(net, valid, SEEDS, levels=levels)
    assert all(one.variant.widths["2"] == 32 for one in found.tried if one.macs > 64 * 4 + 500)
    assert found != searched(net, valid, SEEDS)


@pytest.mark.parametrize("name", ["gpt", "tied_autoencoder"])
def test_tied_tensors_are_chosen_once(name):
    _, net, _, _ = made(name)
    space = Space.of(net, FORMATS, ())
    assert [n for g in space.pruned for n in g] == list(ww.prunable(net.model))
    assert [n for g in space.quantized for n in g] == list(ww.quantization.quantizable(net.model))
    total = sum(sizes(net, net.full())[n] for n, _ in net.model.named_parameters())
    assert total == sum(p.numel() for p in net.model.parameters())


def test_weights_are_counted(net):
    for widths in (net.full(), net.widths(0.3)):
        cut = net.cut(widths)
        assert sizes(net, widths) == {n: p.numel() for n, p in cut.named_parameters()}


def test_a_network_that_cannot_be_narrower():
    with pytest.warns(ww.NothingToCutWarning):
        net = ww.Elastic(nn.Linear(64, 10), torch.rand(2, 64))
    valid = Evaluation([(torch.rand(30, 64), torch.arange(30) % 10)], ww.ACCURACY)
    found = searched(net, valid, 12, max_bytes=1500)
    assert all(one.bytes <= 1500 for one in found.tried)
    assert 0 < len(found.tried) < 12  # dense floats take more


@given(
    st.integers(-300, 0),
    st.integers(0, 100),
    st.integers(-400, 200),
    st.floats(-350, 150),
    st.floats(0.1, 4),
    st.integers(1, 40),
)
def test_the_largest_place(low, high, guess, edge, slope, stair):
    calls = []

    def ratio(place):
        calls.append(place)
        return 2 ** (slope * ((place // stair * stair) - edge) / STEPS)

    found = largest(ratio, low, high, guess)
    assert len(calls) < 60
    meets = [place for place in range(low, high + 1) if ratio(place) <= 1]
    if not meets:
        assert found is None
    else:
        assert found == meets[-1] or 0.995 <= ratio(found) <= 1


# ---------------------------------------------------------------- stopped and gone on with


def stopping(evaluation, after):
    """An evaluation that is interrupted at its next call after so many."""
    counted = itertools.count()

    class Stopping(Evaluation):
        def __call__(self, module):
            if next(counted) == after:
                raise KeyboardInterrupt
            return super().__call__(module)

    return Stopping(evaluation.batches, evaluation.metric)


@pytest.mark.sample(1)
@pytest.mark.parametrize("after", [3, 13])
def test_a_stopped_search_goes_on(net, valid, found, tmp_path, after):
    journal = tmp_path / "search.jsonl"
    with pytest.raises(KeyboardInterrupt):
        searched(net, stopping(valid, after), 16, journal=journal)
    assert searched(net, valid, 16, journal=journal) == found


def test_more_trials_go_on_from_fewer(net, valid, found, begun, tmp_path):
    journal = tmp_path / "new" / "search.jsonl"
    assert searched(net, valid, journal=journal) == begun
    assert searched(net, valid, journal=journal) == begun
    assert searched(net, stopping(valid, 0), journal=str(journal)) == begun  # nothing was measured
    assert searched(net, valid, 16, journal=journal) == found
    assert searched(net, valid, journal=journal) == begun


def test_a_line_cut_short_is_no_damage(net, valid, found, tmp_path):
    journal = tmp_path / "search.jsonl"
    with pytest.raises(KeyboardInterrupt):
        searched(net, stopping(valid, 12), 16, journal=journal)
    text = journal.read_bytes()
    journal.write_bytes(text[:-9])
    assert searched(net, valid, 16, journal=journal) == found


def test_searches_share_a_file(net, valid, begun, tmp_path):
    journal = tmp_path / "search.jsonl"
    other = searched(net, valid, 3, journal=journal, max_bytes=2000)
    assert searched(net, valid, journal=journal) == begun
    assert searched(net, valid, 3, max_bytes=2000) == other
    with torch.no_grad():
        net.model[0].weight[0, 0] += 1
        try:
            changed = searched(net, stopping(valid, 1), 1, journal=journal)
        finally:
            net.model[0].weight[0, 0] -= 1
    assert len(changed.tried) == 1


@pytest.mark.parametrize(
    "text",
    [
        b"\x80\x04K\x01.\n",
        b"{}\n",
        b"[1]\n",
        b"no line",
        b'{"op_code": 0}\n',
        b"null\nnull\n",
        b"no line\n",
    ],
)
def test_what_is_no_journal(net, valid, tmp_path, text):
    journal = tmp_path / "search.jsonl"
    journal.write_bytes(text)
    with pytest.raises(FileError, match="is damaged, or not the journal of a search"):
        searched(net, valid, 1, journal=journal)
    assert journal.read_bytes() == text


def test_damaged_journals(net, valid, tmp_path):
    journal = tmp_path / "search.jsonl"
    searched(net, valid, 2, journal=journal)
    text = journal.read_bytes()
    for old, new in [(b'"widths"', b'"width"'), (b'"bytes"', b'"byte"'), (b'"macs":', b'"macs":"')]:
        journal.write_bytes(text.replace(old, new))
        assert journal.read_bytes() != text
        with pytest.raises(FileError, match="damaged"):
            searched(net, valid, 2, journal=journal)


def test_a_journal_has_one_search_at_a_time(net, valid, tmp_path):
    with held(tmp_path, ".search.jsonl.lock"), pytest.raises(RunError, match="in use"):
        searched(net, valid, 1, journal=tmp_path / "search.jsonl")


def test_nothing_is_said(net, valid, capfd):
    import optuna

    before = optuna.logging.get_verbosity()
    searched(net, valid, 2)
    assert capfd.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == before


def test_without_the_package(net, valid, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'widthwise\[search\]'"):
        searched(net, valid, 1)


def test_shared_values(net, valid):
    found = searched(net, valid, 2, formats=(Codebook(8), Codebook(8)), max_bytes=2500)
    assert {*found.best.variant.bits.values()} == {Codebook(8)}
