"""The loop: that it learns, and that nothing that happens to it changes what it learns."""

from __future__ import annotations

import errno
import math
import os
import random
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

import fit_run
from fit_run import RECIPE, data, run, weights
from widthwise import DataError, Elastic, FileError, RunError, TrainingError
from widthwise.app.tasks.arrays import Arrays
from widthwise.common import atomic
from widthwise.common.lock import held
from widthwise.measure.metric import ACCURACY, Metric
from widthwise.train import checkpoint
from widthwise.train.batches import BatchPlan, own_randomness, stream
from widthwise.train.config import RunConfig
from widthwise.train.ema import Average
from widthwise.train.fit import fit
from widthwise.train.history import History
from widthwise.train.layer import StructuralDropout
from widthwise.train.losses import Distill, SandwichLoss, SingleDraw
from widthwise.train.recipe import Recipe, rate


class StopError(Exception):
    """Stands for whatever may stop a run."""


def failing(after: int, error: BaseException) -> Any:
    """The run's criterion, which raises in its `after`-th call."""
    calls = 0

    def criterion(outputs: Tensor, target: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == after:
            raise error
        return F.cross_entropy(outputs, target)

    criterion.__module__, criterion.__qualname__ = "torch.nn.functional", "cross_entropy"
    return criterion


@pytest.fixture(scope="module")
def whole() -> tuple[dict[str, Tensor], History]:
    """Weights and history of the run that nothing happened to."""
    net, history = run(None)
    return weights(net), history


def assert_same(net: nn.Module, history: History, whole: tuple[dict[str, Tensor], History]) -> None:
    assert history == whole[1]  # losses and metrics to the last bit
    for name, value in weights(net).items():
        assert torch.equal(value, whole[0][name]), name


# ---------------------------------------------------------------- learning


def test_plain_training_learns():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3))
    recipe = Recipe(epochs=30, batch_size=16, lr=3e-2)
    history = fit(
        model,
        data(None),
        F.cross_entropy,
        recipe=recipe,
        valid=data(None),
        metric=ACCURACY,
        run=RunConfig(progress=False),
    )
    assert history.steps == 30 * 5
    assert len(history.epochs) == 30
    assert history.loss < 0.2 < history.epochs[0].loss
    assert history.metric is not None
    assert history.metric > 0.9
    assert history.seconds > 0
    assert not model.training


def test_elastic_training_learns_every_width():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3))
    net = Elastic(model, torch.randn(4, 6))
    d = data(None)
    fit(
        net,
        d,
        SandwichLoss(net, F.cross_entropy),
        recipe=Recipe(epochs=60, batch_size=16, lr=1e-2),
        run=RunConfig(progress=False),
    )
    for kept, least in ((1.0, 0.9), (0.5, 0.85), (0.25, 0.7)):
        outputs = net(d.inputs, widths=net.widths(kept))
        assert (outputs.argmax(1) == d.targets).float().mean() > least


def test_a_criterion_alone_trains_an_elastic_at_drawn_widths():
    results = []
    for wrap in (lambda net: F.cross_entropy, lambda net: SingleDraw(net, F.cross_entropy)):
        net = fit_run.build()
        fit(net, data(), wrap(net), recipe=RECIPE, run=RunConfig(progress=False))
        assert net.step == 36
        results.append(weights(net))
    assert all(torch.equal(results[0][n], results[1][n]) for n in results[0])


def test_the_same_seed_is_the_same_run_and_leaves_the_world_alone(whole):
    torch.manual_seed(99), random.seed(99), np.random.seed(99)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()
    with own_randomness():
        torch.rand(5), random.random(), np.random.rand()
        net = fit_run.build()
    loss = SandwichLoss(net, F.cross_entropy, passes=3, distill=Distill())
    history = fit(
        net,
        data(),
        loss,
        recipe=RECIPE,
        valid=data(None),
        metric=ACCURACY,
        run=RunConfig(progress=False, seed=5),
    )
    assert_same(net, history, whole)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.array_equal(np.random.get_state()[1], before[2][1])
    other, _ = run(None, seed=6)
    assert not torch.equal(weights(other)["model.0.weight"], whole[0]["model.0.weight"])


def test_weights_decay_and_vectors_do_not():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    start = weights(model)

    def nothing(outputs: Tensor, target: Tensor) -> Tensor:
        return outputs.sum() * 0

    recipe = Recipe(epochs=1, batch_size=35, lr=0.1, weight_decay=0.5, warmup=0, decay="none")
    d = Arrays(torch.randn(70, 3), torch.zeros(70).long())
    fit(model, d, nothing, recipe=recipe, run=RunConfig(progress=False))
    torch.testing.assert_close(model[0].weight, start["0.weight"] * 0.95**2)
    assert torch.equal(model[0].bias, start["0.bias"])


def test_clipping_bounds_the_gradient(monkeypatch):
    norms = []
    real = torch.optim.AdamW.step

    def step(self: torch.optim.AdamW, closure: Any = None) -> Any:
        norms.append(
            math.sqrt(sum(float(p.grad.square().sum()) for g in self.param_groups
                          for p in g["params"]))
        )  # fmt: skip
        return real(self, closure)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    run(None, recipe=replace(RECIPE, epochs=1, clip=0.01))
    assert len(norms) == 9
    assert max(norms) == pytest.approx(0.01, rel=1e-3)


# ---------------------------------------------------------------- schedule and batches


def test_the_rate_rises_and_falls():
    recipe = Recipe(lr=1.0)
    rates = [rate(recipe, s, 100) for s in range(100)]
    assert rates[0] == pytest.approx(1 / 25)
    assert rates[30] == 1.0 == max(rates)
    assert rates == sorted(rates[:31]) + sorted(rates[31:], reverse=True)
    assert rates[15] == pytest.approx((1 + 1 / 25) / 2)
    assert rates[65] == pytest.approx(0.5)
    assert 0 < rates[99] < 0.01
    linear = Recipe(lr=1.0, warmup=0.0, decay="linear")
    assert [rate(linear, s, 4) for s in range(4)] == pytest.approx([1, 0.75, 0.5, 0.25])
    assert {rate(Recipe(lr=0.3, warmup=0, decay="none"), s, 9) for s in range(9)} == {0.3}
    assert rate(Recipe(lr=1.0, warmup=1.0), 99, 100) < 1.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0}, {"epochs": 1.5}, {"batch_size": 0}, {"lr": 0}, {"lr": math.nan},
        {"weight_decay": -1}, {"warmup": 2}, {"decay": "step"}, {"betas": (0.9, 1.0)},
        {"clip": 0}, {"ema": 1}, {"precision": "int8"},
    ],
)  # fmt: skip
def test_recipes_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=r"Recipe\.\w+ is .*give"):
        Recipe(**wrong)


def test_every_epoch_is_another_order_of_all_items():
    plan = BatchPlan(items=70, size=8, seed=3)
    assert plan.steps == 9
    orders = [torch.cat(list(plan.epoch(e))) for e in range(3)]
    for order in orders:
        assert torch.equal(order.sort().values, torch.arange(70))
    assert not torch.equal(orders[0], orders[1])
    assert torch.equal(orders[1], torch.cat(list(BatchPlan(70, 8, 3).epoch(1))))
    assert not torch.equal(orders[0], torch.cat(list(BatchPlan(70, 8, 4).epoch(0))))


@pytest.mark.parametrize(
    ("items", "size", "processes", "sizes"),
    [(16, 8, 1, [8, 8]), (17, 8, 1, [8, 8]), (18, 8, 1, [8, 8, 2]), (18, 8, 2, [8, 8]),
     (3, 8, 1, [3]), (1, 8, 1, [1])],
)  # fmt: skip
def test_a_last_batch_of_one_is_left_out(items, size, processes, sizes):
    plan = BatchPlan(items, size, 0, processes)
    assert [len(b) for b in plan.epoch(0)] == sizes
    assert plan.steps == len(sizes)


class Noisy(Dataset[Any]):
    """Items with randomness of all three kinds, fetched one by one."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, i: int) -> Any:
        return {"a": torch.rand(1), "b": np.random.rand()}, random.random() + i


@pytest.mark.parametrize("workers", [0, 1])
def test_randomness_of_a_batch_depends_on_its_number_alone(workers):
    batches = list(torch.arange(12).split(4))
    full = list(stream(Noisy(), batches, seed=1, first=0))
    rest = list(stream(Noisy(), batches[1:], seed=1, first=1, workers=workers))
    assert len(rest) == 2
    for (x, y), (other, target) in zip(full[1:], rest, strict=True):
        assert torch.equal(x["a"], other["a"])
        assert torch.equal(x["b"], other["b"])
        assert torch.equal(y, target)
    assert not torch.equal(full[0][0]["a"], full[1][0]["a"])


def test_fetching_ahead_changes_nothing(whole):
    net, history = run(None, workers=1)
    assert_same(net, history, whole)


def test_data_sets_of_single_items_are_trained_on():
    items = [((torch.full((3,), float(i % 2)), torch.zeros(2)), i % 2) for i in range(20)]

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(5, 2)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.fc(torch.cat([a, b], 1))

    history = fit(
        Model(),
        items,
        F.cross_entropy,
        recipe=Recipe(epochs=40, batch_size=5, lr=0.1),
        run=RunConfig(progress=False),
    )
    assert history.loss < 0.1


# ---------------------------------------------------------------- going on


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("step", "save_every", "kept"),
    [(1, 0.0, None), (2, 0.0, 1), (9, 0.0, 8), (10, 0.0, 9), (9, 1e9, None), (17, 1e9, 9),
     (28, 1e9, 27), (36, 0.0, 35)],
)  # fmt: skip
def test_a_run_that_failed_goes_on_as_if_it_had_not(tmp_path, whole, step, save_every, kept):
    with pytest.raises(StopError):
        run(tmp_path, failing(step, StopError()), save_every=save_every)
    found = checkpoint.load(tmp_path)
    assert (None if found is None else found.step) == kept
    # Where something was kept, the initial weights must not matter.
    net, history = run(tmp_path, build_seed=0 if kept is None else 1)
    assert_same(net, history, whole)


def test_a_run_may_be_stopped_many_times(tmp_path, whole):
    for _ in range(7):
        with pytest.raises(StopError):
            run(tmp_path, failing(6, StopError()), save_every=0.0)
    net, history = run(tmp_path)
    assert_same(net, history, whole)


def test_a_finished_run_is_not_done_again(tmp_path, whole):
    run(tmp_path)
    net, history = run(tmp_path, failing(1, StopError()), build_seed=1)
    assert_same(net, history, whole)
    assert not net.training


def lines(*arguments: str) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(Path(fit_run.__file__).parent), *sys.path])
    return subprocess.Popen(
        [sys.executable, fit_run.__file__, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )


def test_kill_9_at_any_time_changes_nothing(tmp_path, whole):
    """Killed in the middle of steps, and of the writing that follows every one of them."""
    for last in (5, 17):
        with lines(str(tmp_path)) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if line.strip() == f"step {last}":
                    process.send_signal(signal.SIGKILL)
                    break
        assert process.returncode == -signal.SIGKILL
    found = checkpoint.load(tmp_path)
    assert found is not None
    assert 4 + 16 <= found.step < 36
    net, history = run(tmp_path)
    assert_same(net, history, whole)


def test_ctrl_c_finishes_the_step_saves_and_says_how_to_go_on(tmp_path, whole):
    class Interrupting(Arrays):
        def batch(self, indices: Tensor) -> Any:
            calls.append(1)
            if len(calls) == 15:  # two looks at the data come before the first step
                os.kill(os.getpid(), signal.SIGINT)
            return super().batch(indices)

    calls: list[int] = []
    plain = data()
    train = Interrupting(plain.inputs, plain.targets, augment=plain.augment)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match=re.escape(f"{tmp_path} goes on from there")):
        run(tmp_path, train=train)
    assert signal.getsignal(signal.SIGINT) is handler
    found = checkpoint.load(tmp_path)
    assert found is not None
    assert found.step == 13
    net, history = run(tmp_path)
    assert_same(net, history, whole)

    calls.clear()
    with pytest.raises(KeyboardInterrupt, match="nothing was kept"):
        run(None, train=train)


def test_structural_dropout_layers_go_on_too(tmp_path):
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.drop, self.fc2 = nn.Linear(6, 16), StructuralDropout(), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc2(self.drop(self.fc1(x)).relu())

    def train(folder: Path | None, criterion: Any) -> tuple[nn.Module, History]:
        torch.manual_seed(0)
        model = Model()
        return model, fit(
            model, data(), criterion, recipe=RECIPE, run=RunConfig(folder=folder, progress=False)
        )

    alone = train(None, F.cross_entropy)
    with pytest.raises(StopError):
        train(tmp_path, failing(25, StopError()))
    model, history = train(tmp_path, F.cross_entropy)
    assert_same(model, history, (weights(alone[0]), alone[1]))
    assert model.drop.step == 36


# ---------------------------------------------------------------- going wrong


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_the_run(tmp_path, bad):
    def criterion(outputs: Tensor, target: Tensor) -> Tensor:
        calls.append(1)
        value = F.cross_entropy(outputs, target)
        return value * bad if len(calls) == 14 else value

    calls: list[int] = []
    with pytest.raises(TrainingError, match=r"at step 14 of 36.*lower learning rate than 0.01"):
        run(tmp_path, criterion)
    found = checkpoint.load(tmp_path)
    assert found is not None
    assert found.step == 9  # the first epoch's, still good
    assert all(t.isfinite().all() for t in found.tensors.values())


def test_weights_that_are_no_numbers_are_not_saved(tmp_path):
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.idle = nn.Linear(6, 3), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            self.idle.weight.data.fill_(math.nan)
            return self.fc(x)

    with pytest.raises(TrainingError, match=r"tensor model/idle.weight is not finite at step 9"):
        fit(
            Broken(),
            data(),
            F.cross_entropy,
            recipe=RECIPE,
            run=RunConfig(folder=tmp_path, progress=False),
        )
    assert checkpoint.load(tmp_path) is None


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"recipe": replace(RECIPE, lr=0.02)}, "recipe.lr was 0.01 and is 0.02"),
        ({"recipe": replace(RECIPE, epochs=3)}, "recipe.epochs was 4 and is 3"),
        ({"seed": 6}, "seed was 5 and is 6"),
        ({"criterion": F.nll_loss}, "loss.criterion was torch.nn.functional.cross_entropy and is"),
        ({"train": Arrays(torch.randn(71, 6), torch.zeros(71).long())}, "items was 70 and is 71"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(finished, changes, told):
    before = (finished / checkpoint.NAME).read_bytes()
    with pytest.raises(RunError, match=re.escape(told)) as caught:
        run(finished, **changes)
    assert "another folder, or delete" in str(caught.value)
    assert (finished / checkpoint.NAME).read_bytes() == before


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    run(folder)
    return folder


def test_a_checkpoint_of_another_model_is_refused(finished):
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    with pytest.raises(
        RunError,
        match=r"draws\.net differs.*functions\.loss differs",
    ):
        fit(
            model,
            data(),
            F.cross_entropy,
            recipe=RECIPE,
            run=RunConfig(folder=finished, progress=False),
        )


@pytest.mark.parametrize("kind", ["cut short", "empty", "flipped", "foreign", "text", "header"])
def test_a_damaged_checkpoint_is_one_sentence(finished, tmp_path, kind):
    good = (finished / checkpoint.NAME).read_bytes()
    flipped = bytearray(good)
    flipped[-5] ^= 1
    bad = {
        "cut short": good[: len(good) // 2],
        "empty": b"",
        "flipped": bytes(flipped),
        "foreign": safetensors.torch.save({"a": torch.zeros(2)}),
        "text": b"hello",
        "header": good.replace(b'\\"step\\": 36', b'\\"step\\": 35'),
    }[kind]
    assert bad != good
    (tmp_path / checkpoint.NAME).write_bytes(bad)
    with pytest.raises(FileError, match=r"damaged or was not written by widthwise.*delete it"):
        run(tmp_path)
    assert (tmp_path / checkpoint.NAME).read_bytes() == bad


def test_a_checkpoint_holds_no_pickle(finished):
    with safetensors.safe_open(finished / checkpoint.NAME, "pt") as file:
        names = set(file.keys())
        assert set(file.metadata()) == {"widthwise", "sha256"}
    assert {"model/0.weight", "average/1.running_mean", "optimizer/4.bias/exp_avg_sq"} <= names
    assert sorted(p.name for p in finished.iterdir()) == [".training.lock", checkpoint.NAME]


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path, whole):
    with pytest.raises(StopError):
        run(tmp_path, failing(12, StopError()))
    good = (tmp_path / checkpoint.NAME).read_bytes()
    with lines(str(tmp_path), str(len(good) // 2)) as process:
        assert process.stdout is not None
        said = process.stdout.read()
    assert process.returncode == 1
    assert "FileError" in said
    assert "free some space" in said
    assert (tmp_path / checkpoint.NAME).read_bytes() == good
    assert sorted(p.name for p in tmp_path.iterdir()) == [".training.lock", checkpoint.NAME]
    net, history = run(tmp_path)
    assert_same(net, history, whole)


def test_no_space_left_says_so(tmp_path, monkeypatch):
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(FileError, match=r"No space left on device.*free some space"):
        run(tmp_path)


def test_a_folder_in_use_or_unusable_is_refused(tmp_path):
    with held(tmp_path, ".training.lock"), pytest.raises(RunError, match="is in use by another"):
        run(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be used as a run folder"):
        run(tmp_path / "file" / "run")


def test_arguments_that_do_not_fit_are_refused():
    net, other = fit_run.build(), fit_run.build()
    with pytest.raises(ValueError, match="valid and metric together"):
        fit(net, data(), F.cross_entropy, valid=data())
    with pytest.raises(ValueError, match="for another network"):
        fit(net, data(), SingleDraw(other, F.cross_entropy))
    with pytest.raises(DataError, match="is empty"):
        fit(net, Arrays(torch.zeros(0, 6), torch.zeros(0)), F.cross_entropy)
    with pytest.raises(ValueError, match="no parameters"):
        fit(nn.ReLU(), data(), F.cross_entropy)


def test_another_precision_in_the_same_process_says_what_to_do():
    with pytest.raises(TrainingError, match=r"bfloat16.*start a new process"):
        run(None, recipe=replace(RECIPE, precision="bfloat16"))


# ---------------------------------------------------------------- the average of the weights


def test_the_average_is_the_moving_average():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = Average(model, 0.6)
    by_hand: dict[str, Tensor] = {}
    for step in range(6):
        for p in model.parameters():
            p.data.normal_()
        model(torch.randn(5, 2))
        average.update()
        decay = min(0.6, (1 + step) / (10 + step)) if step else 0.0
        for name, value in weights(model).items():
            old = by_hand.get(name, value)
            by_hand[name] = decay * old + (1 - decay) * value
    own = weights(model)
    with average.shown():
        for name, value in weights(model).items():
            if value.is_floating_point():
                torch.testing.assert_close(value, by_hand[name])
                assert not torch.equal(value, own[name])
    assert all(torch.equal(v, own[n]) for n, v in weights(model).items())
    average.keep()
    torch.testing.assert_close(model[0].weight.data, by_hand["0.weight"])


def test_the_average_is_what_is_measured_and_kept(monkeypatch):
    seen: list[Tensor] = []

    def look(outputs: Tensor, target: Tensor) -> tuple[float, int]:
        seen.append(outputs.clone())
        return 0.0, len(target)

    net, history = run(None, metric=Metric("m", look, additive=True))
    last = torch.cat(seen[-9:])
    torch.testing.assert_close(net(data(None).inputs), last)
    plain, _ = run(None, recipe=replace(RECIPE, ema=None))
    assert not torch.allclose(plain(data(None).inputs), last, atol=1e-3)
    assert history.epochs[-1].metric == 0.0


# ---------------------------------------------------------------- what is shown


def test_progress_is_a_line_for_each_epoch_without_a_terminal(capsys):
    run(None, progress=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    found = [line for line in shown.err.splitlines() if line]
    assert len(found) == 4
    assert re.fullmatch(r"epoch 4 of 4: loss \d\.\d{4}  accuracy \d\.\d{4}  \(\d\.\d s\)", found[3])
    run(None, progress=False)
    assert capsys.readouterr() == ("", "")


def test_progress_is_a_bar_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    run(None, progress=True)
    shown = capsys.readouterr().err
    assert "36/36" in shown
    assert "accuracy" in shown
