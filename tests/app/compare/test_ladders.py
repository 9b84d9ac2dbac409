"""Ladders of networks at equal stored bytes: the arithmetic, the trainings, and going on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from command_line import widthwise as command
from command_line import works
from widthwise.app.compare import bases, ladders, shown
from widthwise.app.compare.equal import against, at_bytes
from widthwise.app.compare.plan import Cell, Kind, Plan, load, save
from widthwise.app.compare.spec import Spec
from widthwise.errors import FileError, RunError
from widthwise.measure.metric import Metric
from widthwise.store.file import read
from widthwise.train.recipe import Recipe

PLAN = Plan("digits", Recipe(epochs=2, batch_size=64, lr=5e-3), lowest=0.25)
FRACTIONS, SPARSITIES = (1.0, 0.25), (0.5, 0.9)


def cell(kind: str, amount: float, size: int, value: float, seed: int = 0) -> Cell:
    metric = {"valid": value, "test": value}
    return Cell(kind, amount, seed, size, size, 1, 1, metric)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Cell]]:
    folder = tmp_path_factory.mktemp("ladders")
    cells = ladders.run(
        PLAN, folder, kinds=list(Kind), fractions=FRACTIONS, sparsities=SPARSITIES, progress=False
    )
    return folder, cells


# Equal bytes


def test_a_ladder_is_read_between_its_rungs() -> None:
    levels = [(4000, 0.9), (1000, 0.5)]
    assert at_bytes(levels, 1000) == 0.5
    assert at_bytes(levels, 4000) == 0.9
    assert at_bytes(levels, 2000) == pytest.approx(0.7)  # half way on a logarithmic scale
    assert at_bytes(levels, 999) is None
    assert at_bytes(levels, 4001) is None
    assert at_bytes([(1000, 0.5)], 1000) == 0.5
    assert at_bytes([], 1000) is None


def test_differences_are_taken_seed_by_seed() -> None:
    cells = [
        cell("dense", s, size, v + 0.1 * seed, seed)
        for seed in (0, 1)
        for s, size, v in ((1, 4000, 0.8), (0.5, 1000, 0.4))
    ]
    cells += [cell("sparse", 0.8, 2000, 0.7, 0), cell("sparse", 0.8, 2000, 0.75, 1)]
    cells += [cell("sparse", 0.99, 500, 0.1, 0)]  # smaller than any dense one: left out
    (found,) = against(cells, "sparse", "dense", higher_is_better=True)
    assert found.ahead == pytest.approx((0.1, 0.05))
    assert found.verdict == "ahead"
    assert found.mean == pytest.approx(0.075)
    (found,) = against(cells, "sparse", "dense", higher_is_better=False)
    assert found.verdict == "behind"
    mixed = [*cells[:5], replace(cells[5], metric={"valid": 0, "test": 0.6})]
    assert against(mixed, "sparse", "dense", higher_is_better=True)[0].verdict == "not decided"


def test_a_verdict_in_words() -> None:
    cells = [cell("dense", 1, 4000, 80.0), cell("dense", 0.5, 1000, 120.0)]
    cells += [cell("sparse", 0.8, 2000, 90.0)]
    perplexity = Metric("perplexity", lambda outputs, target: (0.0, 1), higher_is_better=False)
    (line,) = shown.verdicts(cells, perplexity)
    assert "1 seed: ahead at 1 of 1, behind at 0 (+10.00 at 2.00 kB)" in line
    again = [replace(c, seed=1) for c in cells[:2]] + [cell("sparse", 0.8, 2000, 86.0, 1)]
    (line,) = shown.verdicts([*cells, *again], perplexity)
    assert "2 seeds: ahead at 1 of 1, behind at 0 (+12.00 ± 2.83 at 2.00 kB)" in line


# Trainings


def test_every_network_is_there_and_as_sparse_as_it_says(
    measured: tuple[Path, list[Cell]],
) -> None:
    folder, cells = measured
    assert {c.key for c in cells} == {
        *(("sparse", s, 0) for s in SPARSITIES),
        *((k, f, 0) for k in ("dense", "elastic", "elastic-sparse") for f in FRACTIONS),
    }
    for c in cells:
        path = folder / f"{c.kind}-{c.amount:g}-{c.seed}.safetensors"
        assert path.stat().st_size == c.bytes
        tensors, _ = read(path)
        weights = [t for t in tensors.values() if t.dim() == 2]
        zeros = sum(int((t == 0).sum()) for t in weights) / sum(t.numel() for t in weights)
        wanted = {"sparse": c.amount, "elastic-sparse": PLAN.pruning.sparsity}.get(c.kind, 0.0)
        assert zeros == pytest.approx(wanted, abs=0.01)
    by = {c.key: c for c in cells}
    assert by["sparse", 0.9, 0].bytes < by["sparse", 0.5, 0].bytes < by["dense", 1.0, 0].bytes
    assert by["dense", 0.25, 0].params == by["elastic", 0.25, 0].params
    assert not list(folder.glob("*-seed-*"))  # checkpoints are gone


def test_what_is_there_is_kept_and_more_is_added(
    measured: tuple[Path, list[Cell]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, cells = measured
    trained = []
    original = ladders.fit
    monkeypatch.setattr(ladders, "fit", lambda *a, **k: trained.append(1) or original(*a, **k))
    again = {"kinds": list(Kind), "fractions": FRACTIONS, "progress": False}
    assert ladders.run(PLAN, folder, sparsities=SPARSITIES, **again) == cells
    assert not trained
    more = ladders.run(PLAN, folder, sparsities=(*SPARSITIES, 0.7), **again)
    assert len(trained) == 1
    assert len(more) == len(cells) + 1
    save(folder / ladders.NAME, PLAN, cells)


def test_a_stopped_training_goes_on(
    measured: tuple[Path, list[Cell]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, cells = measured
    whole = next(c for c in cells if c.key == ("sparse", 0.9, 0))
    original = ladders.fit

    def stopped(net: torch.nn.Module, *a: object, **k: object) -> object:
        done = original(net, *a, **k)
        raise KeyboardInterrupt(done)

    given = {"kinds": [Kind.SPARSE], "fractions": (), "sparsities": (0.9,), "progress": False}
    with monkeypatch.context() as patched:
        patched.setattr(ladders, "fit", stopped)
        with pytest.raises(KeyboardInterrupt):
            ladders.run(PLAN, tmp_path, **given)
    assert list(tmp_path.glob("sparse-0.9-seed-0/checkpoint.safetensors"))
    (found,) = ladders.run(PLAN, tmp_path, **given)
    assert replace(found, seconds=0) == replace(whole, seconds=0)


class Work:
    """A processor whose seconds are optimizer steps, and which stops at some of them."""

    def __init__(self, patched: pytest.MonkeyPatch, stops: tuple[int, ...]) -> None:
        self.steps, self.stops = 0, stops
        patched.setattr("time.process_time", lambda: float(self.steps))

    def __call__(self, *of: object) -> None:
        self.steps += 1
        if self.steps in self.stops:
            raise KeyboardInterrupt


def small_dense(folder: Path) -> float:
    given = {"kinds": [Kind.DENSE], "fractions": (1.0,), "sparsities": (), "progress": False}
    return ladders.run(PLAN, folder, **given)[0].seconds


def base(folder: Path) -> float:
    return bases.train(Spec("digits", (4_000,), epochs=2), "plain", 0, folder).seconds


# Of 17 steps in each of two epochs: in the first one, in the second, twice in the second.
@pytest.mark.parametrize("stops", [(), (7,), (20,), (20, 25)])
@pytest.mark.parametrize("trained", [small_dense, base])
def test_what_was_trained_before_a_stop_is_counted_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    trained: Callable[[Path], float],
    stops: tuple[int, ...],
) -> None:
    work = Work(monkeypatch, stops)
    hook = register_optimizer_step_post_hook(work)
    try:
        for _ in stops:
            with pytest.raises(KeyboardInterrupt):
                trained(tmp_path)
        assert trained(tmp_path) == 34
    finally:
        hook.remove()
    assert work.steps > 34 or not stops  # what no checkpoint had was done again


def test_a_training_that_was_not_measured_yet_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = register_optimizer_step_post_hook(Work(monkeypatch, ()))
    try:
        with monkeypatch.context() as patched:
            patched.setattr(ladders, "store_checked", fails)
            with pytest.raises(RuntimeError, match="full"):
                small_dense(tmp_path)
        assert small_dense(tmp_path) == 34
    finally:
        hook.remove()


def fails(*of: object, **more: object) -> None:
    raise RuntimeError("the disk is full")


# What cannot be


def test_another_plan_or_a_damaged_file(measured: tuple[Path, list[Cell]], tmp_path: Path) -> None:
    folder, _ = measured
    with pytest.raises(RunError, match=r"with epochs 2 rather than 3"):
        load(folder / ladders.NAME, replace(PLAN, recipe=replace(PLAN.recipe, epochs=3)))
    (tmp_path / ladders.NAME).write_text("{")
    with pytest.raises(FileError, match="damaged"):
        load(tmp_path / ladders.NAME)


def test_plans_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="above 0"):
        replace(PLAN, lowest=0.0)
    for changed, said in (
        ({"begin": 0.8, "end": 0.7}, "first one the smaller"),
        ({"sparsity": 1.0}, "between 0 and 1"),
        ({"changes": 0}, "at least 1"),
        ({"scope": "layer"}, "'tensor', 'global' or 'lamp'"),
    ):
        with pytest.raises(ValueError, match=said):
            replace(PLAN.pruning, **changed)


# The command


def test_the_command(tmp_path: Path) -> None:
    given = ["ladders", "digits", "--out", str(tmp_path / "l"), "--epochs", "1"]
    given += ["--fractions", "1,0.5", "--sparsities", "0.5", "--kind", "dense", "--kind", "sparse"]
    assert "sparse against dense at equal bytes" in works(*given)
    assert (tmp_path / "l" / "ladders.png").stat().st_size > 10_000
    body = json.loads((tmp_path / "l" / ladders.NAME).read_text())
    assert len(body["cells"]) == 3
    other = command(*given, "--lr", "0.5")
    assert other.exit_code == 1
    assert "rather than 0.5" in other.stderr
    for option, value in (("--fractions", "0,1"), ("--sparsities", "1"), ("--fractions", "a")):
        wrong = command("ladders", "digits", "--out", tmp_path / "m", option, value)
        assert wrong.exit_code == 2
        assert "is no list of shares" in " ".join(wrong.stderr.replace("│", " ").split())
        assert not (tmp_path / "m").exists()
