"""Comparisons: their files, sizes, engines, methods; that nothing finished is done again."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from typer.testing import CliRunner

import comparison_helpers
import widthwise as ww
from places import TESTS
from widthwise.app.cli.main import app
from widthwise.app.compare import bases
from widthwise.app.compare.bases import train
from widthwise.app.compare.bench import Bench
from widthwise.app.compare.cells import Unit, measure, units
from widthwise.app.compare.data import loaded
from widthwise.app.compare.data import some as chosen_from
from widthwise.app.compare.engines import Engine, Local, Ray
from widthwise.app.compare.matrix import run, stored
from widthwise.app.compare.methods import METHODS, chosen, grouped
from widthwise.app.compare.methods import group as methods_of
from widthwise.app.compare.outcome import Outcome
from widthwise.app.compare.spec import Spec, read
from widthwise.app.compare.ways import from_training
from widthwise.app.tasks.resolve import resolve
from widthwise.errors import DataError, FileError, RunError, TaskError
from widthwise.pruning.gradual import GradualPruner
from widthwise.variants.sizing import along, densest, largest

SMALL = Spec("digits", (3_000, 12_000), seeds=1, epochs=2, fine_tune=1, trials=4)

# The file.


def test_a_file_says_what_is_compared(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text(
        'task = "digits"\nbudgets = ["10kB", 3000]\nseeds = 2\n'
        'methods = ["search", "elastic", "elastic,*"]\n'
    )
    spec = read(path)
    assert spec.budgets == (3_000, 10_000)
    assert chosen(spec.methods, path) == ("elastic", "elastic, post-processed", "search")
    path.write_text('task = "digits"\nbudgets = [1]\n')
    assert chosen(read(path).methods, path) == tuple(METHODS)
    assert (spec.seeds, spec.epochs, spec.task) == (2, None, "digits")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("budgets = [1]", "lacks task"),
        ('task = "digits"', "lacks budgets"),
        ('task = "digits"\nbudgets = []', "at least one entry"),
        ('task = "digits"\nbudgets = ["much"]', "is not a size"),
        ('task = "digits"\nbudgets = [1]\nseed = 3', "did you mean 'seeds'"),
        ('task = "digits"\nbudgets = [1]\nseeds = 0', "whole number of at least 1"),
        ('task = "digits"\nbudgets = [1]\nseeds = true', "whole number of at least 1"),
        ('task = "digits"\nbudgets = [1]\nexamples = 0', "whole number of at least 1"),
        ('task = "digits"\nbudgets = [1]\nscope = "tensor"', "give 'global' or 'lamp'"),
        ('task = "digits"\nbudgets = [1]\nscope = []', "give 'global' or 'lamp'"),
        ("task = 3\nbudgets = [1]", "name of a task"),
        ("task = ", "no TOML"),
    ],
)
def test_a_wrong_file_is_one_sentence_with_its_name(tmp_path, text, said):
    path = tmp_path / "a.toml"
    path.write_text(text)
    with pytest.raises(TaskError, match=said) as error:
        read(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_method_is_told_with_names_like_it():
    with pytest.raises(
        TaskError, match=r"^a\.toml: There is no method 'elastix'; did you mean 'elas"
    ):
        chosen(["search", "elastix"], "a.toml")
    with pytest.raises(
        RunError, match=r"no method 'weights odb'.*'weights obd' or 'weights obd-sd'"
    ):
        grouped(["weights odb"])
    with pytest.raises(RunError, match="no group of methods 'familie'; did you mean 'family"):
        methods_of("familie")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(TaskError, match="cannot be read"):
        read(tmp_path / "none.toml")


# Fewer examples to train on.


def test_the_examples_of_a_comparison_are_chosen_once_and_come_in_batches():
    _, whole = loaded("digits", None)
    _, some = loaded("digits", 100)
    assert len(some.train) == 100
    assert len(some.valid) == len(whole.valid)
    inputs, targets = some.train.batch(torch.tensor([3, 3, 99]))
    assert torch.equal(inputs[0], inputs[1])
    assert torch.equal(inputs[2], some.train[99][0])
    assert targets[2] == some.train[99][1]
    assert len(some.train.batch(torch.arange(100))[0].unique(dim=0)) == 100  # none twice


def test_data_sets_without_batches_are_chosen_from_too():
    data = torch.utils.data.StackDataset(torch.arange(10), torch.arange(10) * 2)
    found = chosen_from(data, torch.tensor([7, 2]))
    assert [found[i] for i in range(len(found))] == [(7, 14), (2, 4)]


def test_a_training_sees_only_these(tmp_path):
    few = train(replace(SMALL, examples=64), "plain", 0, None)
    same = train(replace(SMALL, examples=64), "plain", 0, None)
    all_of_them = train(SMALL, "plain", 0, None)
    assert few.weights == same.weights != all_of_them.weights


def test_more_examples_than_there_are_are_refused_before_a_folder_is_made(tmp_path):
    spec = tmp_path / "few.toml"
    spec.write_text('task = "digits"\nbudgets = ["4kB"]\nexamples = 1000000\n')
    out = tmp_path / "out"
    shown = CliRunner().invoke(app, ["compare", str(spec), "--out", str(out)])
    assert shown.exit_code == 1
    assert "at most" in shown.output
    assert not out.exists()


# Sizes.


def test_the_largest_that_fits_is_found_by_few_tries():
    tried = []

    def fits(size: int) -> bool:
        tried.append(size)
        return size <= 57

    assert largest(list(range(100)), fits) == 57
    assert len(tried) <= 8
    assert largest([3, 4], lambda size: size <= 2) is None
    assert largest([3, 4], lambda size: True) == 4


def test_the_fewest_zeros_that_fit():
    assert densest(lambda share: True) == 0.0
    assert densest(lambda share: False) is None
    found = densest(lambda share: (1 - share) * 1_000 <= 50)
    assert found is not None
    assert 0.95 <= found < 0.9505


def test_rungs_go_from_one_feature_to_all():
    task = resolve("digits")
    net = ww.Elastic(task.model(), task.example())
    found = along(net)
    assert all(w == 1 for w in found[0].values())
    assert dict(found[-1]) == dict(net.full())
    assert len(found) == max(net.full().values())


# Engines.


@pytest.fixture(scope="module")
def ray() -> Iterator[Engine]:
    with pytest.MonkeyPatch.context() as patch:
        # Workers import what they run.
        patch.setenv("PYTHONPATH", str(TESTS))
        with Ray(workers=2) as engine:
            yield engine


def test_local_workers_do_all():
    with Local(2) as engine:
        found = dict(engine.run(comparison_helpers.square, {n: (n,) for n in range(5)}))
    assert found == {n: n * n for n in range(5)}


def test_a_lost_worker_costs_nothing_that_was_done(tmp_path):
    tasks = {n: (str(tmp_path), n) for n in range(5)}
    found = list(Local(2).run(comparison_helpers.dies_once, tasks))
    assert sorted(found) == [(n, n * n) for n in range(5)]
    assert (tmp_path / "2").exists()  # it was killed indeed


def test_workers_that_always_die_are_given_up():
    with pytest.raises(RunError, match="too little memory"):
        list(Local(1).run(comparison_helpers.always_dies, {"a": (1,)}))


def test_an_error_of_a_unit_is_raised():
    with pytest.raises(DataError, match="No data for 7"):
        list(Local(1).run(comparison_helpers.refuse, {"a": (7,)}))


@pytest.mark.filterwarnings("ignore")
def test_ray_does_the_same_and_loses_nothing(ray, tmp_path):
    tasks = {n: (str(tmp_path), n) for n in range(4)}
    found = list(ray.run(comparison_helpers.dies_once, tasks))
    assert sorted(found) == [(n, n * n) for n in range(4)]
    assert (tmp_path / "2").exists()
    with pytest.raises(DataError, match="No data for 7"):
        list(ray.run(comparison_helpers.refuse, {"a": (7,)}))


def test_workers_are_out_of_the_reach_of_an_interrupt():
    """They ignore it while they import, and are in groups of their own afterwards."""
    before = signal.getsignal(signal.SIGINT)
    (_, (group, handler)) = next(iter(Local(1).run(comparison_helpers.reach, {"a": ()})))
    assert group != os.getpgrp()
    assert handler == signal.SIG_IGN
    assert signal.getsignal(signal.SIGINT) == before


# Methods.


@pytest.fixture(scope="module")
def trained() -> dict[str, bases.Base]:
    return {
        kind: bases.train(SMALL, kind, 0, None)
        for kind in ("plain", "elastic", "elastic-sparse", "published", "family")
    }


@pytest.mark.sample(8)
@pytest.mark.parametrize("group", grouped(tuple(METHODS)))
def test_every_method_keeps_to_its_budget_or_says_why_not(trained, group):
    first = methods_of(group)[0]
    base = trained[first.base]
    budgets = SMALL.budgets if first.fixed else SMALL.budgets[1:]
    outcomes = measure(SMALL, Unit(group, budgets, 0), base)
    assert {o.method for o in outcomes} == {m.name for m in METHODS.values() if m.group == group}
    assert {o.budget for o in outcomes} == {*budgets}
    for o in outcomes:
        if o.reached:
            assert 0 < o.bytes <= o.budget
            assert sum(o.parts.values()) == o.bytes
            assert 0.05 < o.metric["test"] <= 1
            assert 0 < o.nonzero <= o.params
            assert o.base == base.kind
            assert o.note
        else:
            assert o.note.endswith(".")
    assert any(o.reached for o in outcomes)


@pytest.mark.parametrize("budget", [6_000, 12_000])
def test_cuts_of_a_training_that_is_pruned_are_as_sparse_as_it_is(trained, budget):
    base = trained["elastic-sparse"]
    cut, post_processed = measure(SMALL, Unit("elastic-sparse", (budget,), 0), base)
    (dense, _) = measure(SMALL, Unit("elastic", (budget,), 0), trained["elastic"])
    assert cut.params > 2 * dense.params  # of as many bytes
    assert post_processed.nonzero == cut.nonzero
    # Biases are not pruned, and between two of the widths that were, the share is not the same.
    assert cut.nonzero / cut.params == pytest.approx(1 - bases.SPARSITY, abs=0.05)
    assert "% zeros" in cut.note


def test_a_budget_that_nothing_meets_says_so(trained):
    (cut, post_processed) = measure(SMALL, Unit("elastic", (100,), 0), trained["elastic"])
    assert not cut.reached
    assert not post_processed.reached
    assert cut.note
    assert cut.bytes == 0


def test_what_was_measured_is_the_network_of_the_file(trained):
    """The numbers are a function of spec and seed, and those of a network of that many bytes."""
    unit = Unit("small-dense 4 bits", (12_000,), 0)
    (first,) = measure(SMALL, unit, trained["plain"])
    (again,) = measure(SMALL, unit, trained["plain"])
    steady = {"latency_ms": 0.0, "own_seconds": 0.0}
    assert replace(first, **steady) == replace(again, **steady)
    assert "4 bits" in first.note


def test_masks_from_scratch_have_the_zeros_of_the_masks(trained):
    outcomes = measure(SMALL, Unit("weights magnitude", (12_000,), 0), trained["plain"])
    assert len({o.nonzero for o in outcomes}) == 1
    assert outcomes[0].nonzero < outcomes[0].params


def test_weights_of_any_scale_compete_by_lamp(trained, tmp_path):
    """A network whose first layer has weights a thousand times smaller, and computes the same."""
    base = trained["plain"]
    net = bases.network(resolve("digits"), base)
    first, second = [m for m in net.model.modules() if isinstance(m, nn.Linear)][:2]
    with torch.no_grad():
        first.weight.mul_(2**-10)  # exactly
        first.bias.mul_(2**-10)
        second.weight.mul_(2**10)
    ww.save(net.model, tmp_path / "scaled.safetensors")
    scaled = replace(base, weights=tmp_path / "scaled.safetensors")
    unit = Unit("weights magnitude", (4_000,), 0)
    found = {}
    for scope in ("global", "lamp"):
        spec = replace(SMALL, scope=scope)
        found[scope] = [measure(spec, unit, some)[0] for some in (base, scaled)]
    one, other = found["lamp"]
    assert one.reached
    assert other.reached
    assert one.metric == other.metric
    one, other = found["global"]
    assert one.reached
    assert one.metric != found["lamp"][0].metric
    assert not other.reached or other.metric["valid"] < one.metric["valid"]


def test_gradual_pruning_competes_as_the_file_says(trained, monkeypatch):
    scopes = []
    made = GradualPruner.__init__

    def noted(self: GradualPruner, *args: object, **given: object) -> None:
        scopes.append(given["scope"])
        made(self, *args, **given)

    monkeypatch.setattr(GradualPruner, "__init__", noted)
    for scope in ("global", "lamp"):
        spec = replace(SMALL, scope=scope, epochs=1)
        (outcome,) = measure(spec, Unit("gradual pruning", (4_000,), 0), trained["plain"])
        assert outcome.reached
    assert scopes == ["global", "lamp"]


@pytest.mark.parametrize("dpf", [False, True])
def test_masks_of_pruning_with_feedback_are_remade_every_few_steps(trained, dpf):
    bench = Bench(replace(SMALL, epochs=300), 0, trained["plain"])
    pruner = from_training._pruner(bench, bench.net(), 1_000, dpf=dpf)
    assert pruner.dpf is dpf
    assert (pruner.schedule.frequency == 4) is dpf
    assert pruner.schedule.frequency in (4, (pruner.schedule.end - pruner.schedule.begin) // 30)


def test_fixed_sizes_take_the_best_that_fits(trained):
    outcomes = measure(SMALL, Unit("gwk", (4_000, 100_000), 0), trained["plain"])
    small, large = (o for o in outcomes if o.method == "gwk")
    assert large.metric["valid"] >= small.metric["valid"]
    assert small.bytes <= 4_000


# Trainings that are stopped.


class Work:
    """A processor whose seconds are optimizer steps, and which stops at some of them."""

    def __init__(self, patched: pytest.MonkeyPatch, stops: tuple[int, ...]) -> None:
        self.steps, self.stops = 0, stops
        patched.setattr("time.process_time", lambda: float(self.steps))

    def __call__(self, *of: object) -> None:
        self.steps += 1
        if self.steps in self.stops:
            raise KeyboardInterrupt


# Of 17 steps in each of two epochs: in the first one, in the second, twice in the second.
@pytest.mark.parametrize("stops", [(), (7,), (20,), (20, 25)])
def test_what_was_trained_before_a_stop_is_counted_once(tmp_path, monkeypatch, stops):
    spec = replace(SMALL, epochs=2)
    work = Work(monkeypatch, stops)
    hook = register_optimizer_step_post_hook(work)
    try:
        for _ in stops:
            with pytest.raises(KeyboardInterrupt):
                train(spec, "plain", 0, tmp_path)
        assert train(spec, "plain", 0, tmp_path).seconds == 34
    finally:
        hook.remove()
    assert work.steps > 34 or not stops  # what no checkpoint had was done again


def test_a_stopped_training_that_is_pruned_goes_on(trained, tmp_path, monkeypatch):
    hook = register_optimizer_step_post_hook(Work(monkeypatch, (25,)))
    try:
        with pytest.raises(KeyboardInterrupt):
            train(SMALL, "elastic-sparse", 0, tmp_path)
        assert train(SMALL, "elastic-sparse", 0, tmp_path).weights == (
            trained["elastic-sparse"].weights
        )
    finally:
        hook.remove()


# A whole comparison.

FEW = replace(SMALL, methods=("elastic", "small-dense 4 bits", "8 bits"), seeds=2)


def _numbers(outcomes: list[Outcome]) -> list[Outcome]:
    return [replace(o, latency_ms=0.0, own_seconds=0.0, shared_seconds=0.0) for o in outcomes]


@pytest.fixture(scope="module")
def compared(tmp_path_factory) -> tuple[Path, list[Outcome]]:
    folder = tmp_path_factory.mktemp("compared")
    with Local(2) as engine:
        return folder, run(FEW, folder, engine)


class _Stopped(Engine):
    """Works here, and is interrupted after some results."""

    def __init__(self, after: int) -> None:
        self.left = after

    def run(self, function, tasks):
        for key, arguments in tasks.items():
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1
            yield key, function(*arguments)

    def __exit__(self, *error):
        pass


class _Refusing(Engine):
    """Does nothing: for what should have nothing to do."""

    def run(self, function, tasks):
        assert not tasks, f"{list(tasks)} was to be done again"
        yield from ()

    def __exit__(self, *error):
        pass


def test_everything_asked_for_is_there_once(compared):
    _, outcomes = compared
    keys = [o.key for o in outcomes]
    wanted = [(m, b, s) for m in FEW.methods for b in FEW.budgets for s in range(FEW.seeds)]
    assert keys == wanted


def test_what_is_done_is_not_done_again(compared):
    folder, outcomes = compared
    assert run(FEW, folder, _Refusing()) == outcomes


def test_a_comparison_that_was_stopped_goes_on(compared, tmp_path):
    _, outcomes = compared
    for after in (1, 4):
        with pytest.raises(KeyboardInterrupt):
            run(FEW, tmp_path, _Stopped(after))
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.json") if p.name != "spec.json"}
    assert len(before) >= 4
    assert _numbers(run(FEW, tmp_path, Local(1))) == _numbers(outcomes)
    assert all(p.stat().st_mtime_ns == time for p, time in before.items())


@pytest.mark.sample(0)
@pytest.mark.filterwarnings("ignore")
def test_ray_gives_the_same_table(compared, ray, tmp_path):
    _, outcomes = compared
    assert _numbers(run(FEW, tmp_path, ray)) == _numbers(outcomes)


def test_seeds_and_methods_can_be_added_but_nothing_changed(compared):
    folder, outcomes = compared
    fewer = replace(FEW, methods=("elastic",), seeds=1)
    assert [o.key for o in stored(fewer, folder)] == [("elastic", b, 0) for b in FEW.budgets]
    with pytest.raises(RunError, match="epochs 2 rather than 3"):
        run(replace(FEW, epochs=3), folder, _Refusing())
    with pytest.raises(RunError, match="scope lamp rather than global"):
        run(replace(FEW, scope="global"), folder, _Refusing())
    assert run(FEW, folder, _Refusing()) == outcomes


def test_a_damaged_unit_is_named(compared, tmp_path):
    folder, _ = compared
    unit = units(FEW, ["elastic"])[0]
    path = folder / "units" / f"{unit.name}.json"
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[:-9])
        with pytest.raises(FileError, match="damaged; delete it"):
            stored(FEW, folder)
        path.write_text(json.dumps([{"method": "elastic"}]))
        with pytest.raises(FileError, match="delete it"):
            stored(FEW, folder)
    finally:
        path.write_bytes(whole)


def test_units_are_named_apart():
    every = units(replace(SMALL, seeds=3), list(grouped(tuple(METHODS))))
    assert len({unit.name for unit in every}) == len(every)


# The command.


def test_the_command_compares_and_writes_a_page(tmp_path):
    spec = tmp_path / "few.toml"
    spec.write_text(
        'task = "digits"\nbudgets = ["4kB", "12kB"]\nseeds = 2\nepochs = 1\nfine_tune = 1\n'
        'methods = ["elastic", "small-dense"]\n'
    )
    out = tmp_path / "out"
    shown = CliRunner().invoke(app, ["compare", str(spec), "--out", str(out), "--workers", "2"])
    assert shown.exit_code == 0, shown.output
    assert "4 kB" in shown.output
    for name in ("comparison.html", "comparison.csv", "comparison.png"):
        assert (out / name).stat().st_size > 500
    rows = (out / "comparison.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * 2 * 2


def test_the_command_says_what_is_wrong_in_one_sentence(tmp_path):
    spec = tmp_path / "few.toml"
    spec.write_text('task = "nothing-such"\nbudgets = ["4kB"]\n')
    shown = CliRunner().invoke(app, ["compare", str(spec), "--out", str(tmp_path / "out")])
    assert shown.exit_code == 1
    assert "nothing-such" in shown.output
    spec.write_text('task = "digits"\nbudgets = ["4kB"]\n')
    more = ["--out", str(tmp_path / "out"), "--address", "auto"]
    shown = CliRunner().invoke(app, ["compare", str(spec), *more])
    assert shown.exit_code == 2
    assert "--engine ray" in shown.output
