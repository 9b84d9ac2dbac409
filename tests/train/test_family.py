"""A training along levels: which widths it trains, what it leaves, and that it goes on exactly."""

import copy
import itertools
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import widthwise as ww
from fitting import fitted
from nets.convolution import AuxiliaryHead
from widthwise.measure.cost import params
from widthwise.measure.even_levels import usual_widths
from widthwise.sampling.draws import share_kept
from widthwise.sampling.levels import along, at_share
from widthwise.train import losses, run
from widthwise.train.phases import LevelsWarning

torch.manual_seed(0)
X = torch.randn(120, 10)
Y = (X @ torch.randn(10, 4)).argmax(1)
RECIPE = ww.Recipe(epochs=4, batch_size=30, lr=5e-3)


def network(seed=0, **more):
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(10, 24), nn.ReLU(), nn.Linear(24, 16), nn.BatchNorm1d(16), nn.ReLU(),
        nn.Linear(16, 4),
    )  # fmt: skip
    return ww.Elastic(model, X[:4], **more)


def fit(net, loss=F.cross_entropy, data=(X, Y), **more):
    return fitted(net, data, loss, **{"recipe": RECIPE} | more)


def same(one, other):
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


class Failing:
    """A criterion that raises at its n-th call."""

    def __init__(self, after):
        self._left = after

    def __call__(self, outputs, target):
        self._left -= 1
        if self._left == 0:
            raise RuntimeError("power cut")
        return F.cross_entropy(outputs, target)


@pytest.fixture
def seen(monkeypatch):
    """The widths that are run, and whether with gradients."""
    found = []
    run_at = losses.run_at

    def noted(net, inputs, widths):
        found.append((dict(net.complete(widths)), torch.is_grad_enabled()))
        return run_at(net, inputs, widths)

    monkeypatch.setattr("widthwise.train.losses.run_at", noted)
    monkeypatch.setattr("widthwise.train.family.run_at", noted)
    return found


def test_a_criterion_trains_the_full_width_and_then_levels_in_turns(seen):
    net = network()
    history = fit(net, recipe=ww.Recipe(epochs=8, batch_size=30))
    assert len(history.epochs) == 8
    assert history.steps == 32
    full, warm_up = dict(net.full()), 8  # steps
    assert seen[:warm_up] == [(full, True)] * warm_up
    rest = seen[warm_up:]
    assert rest[::3] == [(full, True)] * 12
    assert rest[1::3] == [(full, False)] * 12, "it teaches the level, and takes no gradient from it"
    narrow = rest[2::3]
    assert all(w in map(dict, net.levels[:-1]) and trained for w, trained in narrow)
    assert len({tuple(w.values()) for w, _ in narrow}) > 4


def test_widths_may_be_trained_together(seen):
    net = network()
    together = ww.Sandwich(2, narrowest=False)
    fit(net, ww.FamilyLoss(net, F.cross_entropy, warm_up=0.5, passes=together))
    full = (dict(net.full()), True)
    assert seen[:8] == [full] * 8
    assert seen[8::2] == [full] * 8
    assert all(w in map(dict, net.levels[:-1]) and trained for w, trained in seen[9::2])


def test_the_turn_of_a_level_trains_it_and_nothing_else():
    net = network().train()
    loss = ww.FamilyLoss(net, F.cross_entropy)
    loss.train_along([{"0": 3, "2": 2}, net.full()])
    buffers = copy.deepcopy(dict(net.model.named_buffers()))
    taught = net.step = 1
    loss(X[:30], Y[:30]).backward()
    assert net.step == taught + 1
    first, second = net.model[0], net.model[2]
    assert first.weight.grad[:3].any()
    assert not first.weight.grad[3:].any()
    assert not second.weight.grad[2:].any()
    assert all(torch.equal(b, buffers[n]) for n, b in net.model.named_buffers())
    level, full = (net(X[:30], widths=w) for w in (net.levels[0], {}))
    soft = full.detach().softmax(1)
    wanted = torch.autograd.grad(
        (F.cross_entropy(level, Y[:30]) + F.cross_entropy(level, soft)) / 2, first.weight
    )
    torch.testing.assert_close(first.weight.grad, *wanted)


def test_levels_go_from_narrow_to_full_in_even_steps():
    net = network()
    fit(net, ww.FamilyLoss(net, F.cross_entropy, levels=8, lowest=1 / 20))
    assert net.levels[-1] == net.full()
    sizes = [params(net.cut(w, recalibrate=False)) for w in net.levels]
    assert sizes == sorted(set(sizes))
    assert sizes[0] <= sizes[-1] / 20
    shares = [tuple(w.values()) for w in net.levels]
    assert any(a / 24 != b / 16 for a, b in shares), "equal shares of all layers"


def test_choosing_levels_changes_nothing_that_the_network_computes():
    net = network().eval()
    before = net(X)
    loss = ww.FamilyLoss(net, F.cross_entropy)
    loss.choose_levels([(X[:60], Y[:60]), (X[60:], Y[60:])])
    torch.testing.assert_close(net(X), before)
    assert net.levels == loss.levels


def test_the_levels_of_a_trained_network_are_chosen_before_its_first_step():
    net = network()
    loss = ww.FamilyLoss(net, F.cross_entropy, warm_up=0)
    assert loss.warm_up_epochs(4) == 0
    history = fit(net, loss)
    assert len(history.epochs) == 4
    assert net.levels


def test_one_epoch_is_trained_at_equal_shares():
    net = network()
    fit(net, recipe=ww.Recipe(epochs=1, batch_size=30))
    assert net.levels == tuple(map(net.complete, ww.even_levels(net, 24)))


def test_a_network_without_axes_is_trained_plainly():
    with pytest.warns(ww.NothingToCutWarning):
        net = ww.Elastic(nn.Linear(10, 4), X[:4])
    history = fit(net)
    assert net.levels == ()
    assert len(history.epochs) == 4


def test_a_loss_of_training_outputs_alone_leaves_equal_shares():
    torch.manual_seed(0)
    images = torch.randn(24, 3, 8, 8)
    net = ww.Elastic(AuxiliaryHead(), images[:4])

    def both(outputs, target):
        main, auxiliary = outputs  # in evaluation mode there is but one
        return F.cross_entropy(main, target) + 0.3 * F.cross_entropy(auxiliary, target)

    with pytest.warns(LevelsWarning, match="equal shares of all axes, because .* cannot be scored"):
        fit(net, both, data=(images, Y[:24]), recipe=ww.Recipe(epochs=2, batch_size=12))
    assert net.levels == tuple(map(net.complete, ww.even_levels(net, 24)))


def test_a_draw_of_its_own_is_kept_to():
    net = network(draw=ww.PUBLISHED)
    fit(net)
    assert net.levels == ()


@pytest.mark.parametrize("after", [3, 6, 20])  # in the warm-up, at its end, among the levels
def test_a_training_that_failed_goes_on_to_the_very_same_weights(tmp_path, after):
    whole = network()
    wanted = fit(whole)
    net = network()
    with pytest.raises(RuntimeError, match="power cut"):
        fit(net, Failing(after), folder=tmp_path)
    again = network()
    history = fit(again, Failing(-1), folder=tmp_path)
    assert history == wanted
    assert again.levels == whole.levels
    assert same(again.model, whole.model)


def test_a_finished_training_is_loaded_and_trained_on(tmp_path):
    net = network()
    fit(net, folder=tmp_path)
    again = network()
    assert len(fit(again, folder=tmp_path).epochs) == 4
    assert same(again.model, net.model)
    with pytest.warns(UserWarning, match="trained on"):
        history = fit(again, folder=tmp_path, recipe=ww.Recipe(epochs=6, batch_size=30, lr=5e-3))
    assert len(history.epochs) == 6
    assert again.levels == net.levels


def test_another_training_is_refused(tmp_path):
    fit(network(), folder=tmp_path)
    other = network()
    with pytest.raises(ww.RunError, match="number_of_levels"):
        fit(other, ww.FamilyLoss(other, F.cross_entropy, levels=9), folder=tmp_path)
    with pytest.raises(ValueError, match="another network"):
        fit(network(), ww.FamilyLoss(other, F.cross_entropy))


def test_copies_keep_the_levels():
    net = network()
    fit(net)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert other.levels == net.levels
        assert other.widths(0.4) == net.widths(0.4)


@pytest.mark.parametrize(
    ("given", "message"),
    [({"levels": 1}, "levels"), ({"lowest": 0}, "lowest"), ({"warm_up": 1.0}, "warm_up")],
)
def test_settings_out_of_range(given, message):
    with pytest.raises(ValueError, match=message):
        ww.FamilyLoss(network(), F.cross_entropy, **given)


# Between levels.


def levelled():
    net = network()
    net.levels = tuple(
        net.complete({"0": a, "2": b}) for a, b in [(2, 3), (3, 8), (20, 8), (24, 16)]
    )
    return net


def test_widths_between_levels():
    net = levelled()
    path = along(net.free, net.levels, 13)
    assert path[0] == net.levels[0]
    assert path[-1] == net.full()
    assert len(path) == len(set(path)) > 10
    for narrow, wide in itertools.pairwise(path):
        assert all(narrow[name] <= wide[name] for name in narrow)
    assert set(net.levels) <= set(along(net.free, net.levels, 7))
    assert along(net.free, net.levels, 1) == [net.full()]


@pytest.mark.parametrize("share", [0.01, 0.2, 0.35, 0.5, 0.77, 1.0])
def test_a_fraction_is_the_mean_share_along_the_levels(share):
    net = levelled()
    found = net.widths(share)
    lowest = share_kept(net.free, net.levels[0])
    assert share_kept(net.free, found) == pytest.approx(max(share, lowest), abs=0.05)
    assert all(found[n] >= net.levels[0][n] for n in found)
    assert found == at_share(net.free, net.levels, share)
    torch.testing.assert_close(net.eval()(X, widths=share), net(X, widths=found))


def test_constraints_hold_between_levels():
    constraints = ww.Constraints(multiple_of={"*": 4})
    net = network(constraints=constraints)
    fit(net)
    for w in (*net.levels, *usual_widths(net), net.widths(0.3)):
        assert all(width % 4 == 0 for width in w.values())


def test_a_sweep_goes_along_the_levels():
    net = network()
    fit(net)
    swept = ww.sweep(net, ww.Evaluation([(X, Y)], ww.ACCURACY), latency=False)
    assert {net.complete(p.widths) for p in swept.points} == set(usual_widths(net))
    assert set(net.levels) <= set(usual_widths(net))
    assert len(usual_widths(net, 5)) == 5
    with pytest.raises(ww.WidthError, match="at least 1"):
        usual_widths(net, 0)


def test_the_learning_rate_has_one_cycle_over_both_phases(monkeypatch, tmp_path):
    asked = []

    def noted(recipe, step, steps):
        asked.append((step, steps))
        return recipe_rate(recipe, step, steps)

    recipe_rate = run.rate
    monkeypatch.setattr(run, "rate", noted)
    fit(network(), folder=tmp_path / "run")
    assert asked == [(step, 16) for step in range(16)]
    asked.clear()
    with pytest.raises(RuntimeError, match="power cut"):
        fit(network(), Failing(12), folder=tmp_path / "stopped", save_every=0.0)
    before = len(asked)
    fit(network(), Failing(-1), folder=tmp_path / "stopped")
    assert asked[before:] == [(step, 16) for step in range(asked[before][0], 16)]
    assert 4 <= asked[before][0] < 16  # in the second phase


# Several networks that are taught in one go.


def test_networks_taught_together_are_those_taught_alone():
    net = network()
    fit(net)
    widths = [net.widths(s) for s in (0.3, 0.6)]
    together = [net.cut(w) for w in widths]
    ww.distill(together, ww.Teacher(net, criterion=F.cross_entropy), (X, Y))
    for w, module in zip(widths, together, strict=True):
        alone = net.cut(w)
        ww.distill(alone, ww.Teacher(net, criterion=F.cross_entropy), (X, Y))
        assert same(alone, module)
        assert not module.training
